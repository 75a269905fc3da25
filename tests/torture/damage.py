"""Flipped bits, cut, blanked and exchanged files: each is found, and named, before a resumed run uses it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import open_manifest
from curriculum.order.order import Order
from tests.torture.campaign import Tally, case_seeds
from tests.torture.material import RANKS, STEPS, make_run, settings_of
from tests.torture.ranks import MadeUpEngine, on_ranks, same_state
from train import checkpoint
from train.inputs import open_inputs, verify_inputs
from train.resume.runfolder import read_run

FULL = 2500
FLIPS = 0.8
"""Share of the cases that flip one bit; the others cut, blank or exchange."""


class _Named(logging.Handler):
    """Keeps what the log says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def look(root: Path) -> tuple[str, Path | None]:
    """Do what a start does before it trains; return all that was said of damage, and the checkpoint to go on from."""
    heard = _Named()
    logger = logging.getLogger("train.checkpoint")
    logger.addHandler(heard)
    logger.propagate = False
    found = None
    try:
        settings = settings_of(root)
        run = root / "run"
        read_run(run)
        verify_inputs(settings)
        open_inputs(settings)
        order = Order.open(root / "order")
        order[0 : len(order)], order.cell[0 : len(order)], order.plan[:], order.counts[:]
        found = checkpoint.newest(run / "checkpoints")
        damaged = checkpoint.damaged_records(run, open_manifest(found, checkpoint.KIND) if found else None)
        checkpoint.set_aside(run, damaged)
    except (ArtifactError, ValueError) as error:
        heard.said.append(str(error))
    finally:
        logger.removeHandler(heard)
        logger.propagate = True
    return "\n".join(heard.said), found


def read_again(root: Path) -> list[Path]:
    """Return every file that a start reads."""
    files = [path for name in ("tokens", "order", "scores", "run") for path in (root / name).rglob("*")]
    return sorted(path for path in files if path.is_file() and path.name != ".lock")


def flip(path: Path, rng: np.random.Generator) -> str:
    data = bytearray(path.read_bytes())
    place, bit = int(rng.integers(len(data))), int(rng.integers(8))
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} flipped"


def cut(path: Path, rng: np.random.Generator) -> str:
    data = path.read_bytes()
    size = int(rng.integers(len(data)))
    path.write_bytes(data[:size])
    return f"cut to {size} of {len(data)} bytes"


def blank(path: Path, rng: np.random.Generator) -> str:
    data = bytearray(path.read_bytes())
    start = int(rng.integers(len(data)))
    stop = int(rng.integers(start, len(data))) + 1
    if not any(data[start:stop]):
        return cut(path, rng)
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    return f"bytes {start} to {stop} are zeros"


def exchange(path: Path, rng: np.random.Generator) -> str:
    """Exchange the newest checkpoint's file with another rank's, another step's, or the whole folder with another."""
    newest, before = (path.parents[1] / f"step_{step:08d}" for step in (STEPS[-1], STEPS[-2]))
    name = f"rank_{int(rng.integers(RANKS)):05d}.safetensors"
    other = newest / f"rank_{1 - int(name[5:10]):05d}.safetensors"
    pairs = [(newest / name, other), (newest / name, before / name), (newest, before)]
    one, two = pairs[int(rng.integers(len(pairs)))]
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    return f"exchanged with {two}"


def draw(root: Path, rng: np.random.Generator) -> tuple[Path, Callable[[Path, np.random.Generator], str]]:
    """Return a file and what happens to it: checkpoints half of the time, everything else for the rest."""
    files = read_again(root)
    own = [path for path in files if "checkpoints" in path.parts]
    among = own if rng.random() < 0.5 else files
    path = among[int(rng.integers(len(among)))]
    if rng.random() < FLIPS:
        return path, flip
    shard = root / "run" / "checkpoints" / f"step_{STEPS[-1]:08d}" / "rank_00000.safetensors"
    return [(path, cut), (path, blank), (shard, exchange)][int(rng.integers(3))]


def problem_of(root: Path, rng: np.random.Generator) -> str | None:
    """Damage one file; return what went wrong in finding it, None when it was found."""
    path, way = draw(root, rng)
    done = f"{path.relative_to(root)}: {way(path, rng)}"
    said, found = look(root)
    checkpoints = root / "run" / "checkpoints"
    step = checkpoint.step_of(found) if found else 0
    if path.parent.name == f"step_{STEPS[0]:08d}" and way is not exchange:  # not the one that the run goes on from
        return None if step == STEPS[-1] else f"{done}: step {step} is taken"
    names = (
        [path.name, str(path.parent)] if checkpoints in path.parents else [path.name, f"{path.parent}/manifest.json"]
    )
    if not any(name in said for name in names):
        return f"{done}: not named ({said or 'nothing was said'})"
    if checkpoints in path.parents and not (way is exchange and step == 0):
        if step != STEPS[0]:
            return f"{done}: step {step} is taken"
        results = on_ranks(RANKS, lambda world: _loaded(found, world, step))
        if results != [True] * RANKS:
            return f"{done}: step {step} reads as {results}"
    return None


def _loaded(folder: Path | None, world: object, step: int) -> bool:
    engine = MadeUpEngine(world, 99)  # type: ignore[arg-type]
    checkpoint.load(folder, engine)  # type: ignore[arg-type]
    return same_state(engine, MadeUpEngine(world, step))  # type: ignore[arg-type]


def run(count: int, seed: int, work: Path) -> Tally:
    """Damage one file `count` times, each time of a whole run."""
    tally = Tally("damage", seed=seed)
    whole, hurt = work / "whole", work / "root"
    make_run(hurt)  # at the place where it is damaged: its settings name paths
    shutil.copytree(hurt, whole)
    said, found = look(hurt)
    assert not said, said
    assert found is not None, "the undamaged run has no checkpoint"
    for case in case_seeds(seed, count):
        shutil.rmtree(hurt)
        shutil.copytree(whole, hurt)
        tally.add(case, problem_of(hurt, np.random.default_rng(case)))
    return tally
