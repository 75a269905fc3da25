"""Flipped bits, truncated, zeroed and swapped files: each is detected, and named, before a resumed run uses it."""

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
from train.records.run_json import read_run

FULL = 2500
FLIPS = 0.8
"""Share of the cases that flip one bit; the others truncate, zero or swap."""


class _Messages(logging.Handler):
    """Collects log messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def look(root: Path) -> tuple[str, Path | None]:
    """Do all checks of a start before training; return the messages about damage, and the checkpoint to resume from."""
    handler = _Messages()
    logger = logging.getLogger("train.checkpoint")
    logger.addHandler(handler)
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
        handler.messages.append(str(error))
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    return "\n".join(handler.messages), found


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
    """Swap the newest checkpoint's file with another rank's or another step's, or the whole folder with another."""
    newest, before = (path.parents[1] / f"step_{step:08d}" for step in (STEPS[-1], STEPS[-2]))
    name = f"rank_{int(rng.integers(RANKS)):05d}.safetensors"
    other = newest / f"rank_{1 - int(name[5:10]):05d}.safetensors"
    pairs = [(newest / name, other), (newest / name, before / name), (newest, before)]
    one, two = pairs[int(rng.integers(len(pairs)))]
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    return f"swapped with {two}"


def draw(root: Path, rng: np.random.Generator) -> tuple[Path, Callable[[Path, np.random.Generator], str]]:
    """Return a file and a way to damage it; half of the time the file is one of a checkpoint."""
    files = read_again(root)
    own = [path for path in files if "checkpoints" in path.parts]
    among = own if rng.random() < 0.5 else files
    path = among[int(rng.integers(len(among)))]
    if rng.random() < FLIPS:
        return path, flip
    shard = root / "run" / "checkpoints" / f"step_{STEPS[-1]:08d}" / "rank_00000.safetensors"
    return [(path, cut), (path, blank), (shard, exchange)][int(rng.integers(3))]


def problem_of(root: Path, rng: np.random.Generator) -> str | None:
    """Damage one file; return what went wrong in its detection, None if it was detected."""
    path, way = draw(root, rng)
    done = f"{path.relative_to(root)}: {way(path, rng)}"
    messages, found = look(root)
    checkpoints = root / "run" / "checkpoints"
    step = checkpoint.step_of(found) if found else 0
    if path.parent.name == f"step_{STEPS[0]:08d}" and way is not exchange:  # the run does not resume from this one
        return None if step == STEPS[-1] else f"{done}: the run resumes from step {step}"
    names = (
        [path.name, str(path.parent)] if checkpoints in path.parents else [path.name, f"{path.parent}/manifest.json"]
    )
    if not any(name in messages for name in names):
        return f"{done}: not named ({messages or 'no message'})"
    if checkpoints in path.parents and not (way is exchange and step == 0):
        if step != STEPS[0]:
            return f"{done}: the run resumes from step {step}"
        results = on_ranks(RANKS, lambda world: _loaded(found, world, step))
        if results != [True] * RANKS:
            return f"{done}: step {step} reads as {results}"
    return None


def _loaded(folder: Path | None, world: object, step: int) -> bool:
    engine = MadeUpEngine(world, 99)  # type: ignore[arg-type]
    checkpoint.load(folder, engine)  # type: ignore[arg-type]
    return same_state(engine, MadeUpEngine(world, step))  # type: ignore[arg-type]


def run(count: int, seed: int, work: Path) -> Tally:
    """Damage one file of an intact run, `count` times."""
    tally = Tally("damage", seed=seed)
    whole, damaged = work / "whole", work / "root"
    make_run(damaged)  # created where it is damaged later: its settings contain paths
    shutil.copytree(damaged, whole)
    messages, found = look(damaged)
    assert not messages, messages
    assert found is not None, "the undamaged run has no checkpoint"
    for case in case_seeds(seed, count):
        shutil.rmtree(damaged)
        shutil.copytree(whole, damaged)
        tally.add(case, problem_of(damaged, np.random.default_rng(case)))
    return tally
