"""The small runs that the campaigns disturb, and their comparison with an undisturbed run."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curriculum.artifact.manifest import open_manifest
from curriculum.order.consumed import as_hex, order_hash
from curriculum.order.order import Order
from tests.torture.campaign import Tally, case_seeds
from tests.torture.forks import Forks, Ranks, served
from train import checkpoint
from train.records.consumed import read_consumed
from train.records.layout import CHECKPOINTS, RUN
from train.records.run_json import read_run
from train.tracking import read_metrics

BATCH = 12
"""Samples per global batch, divisible by 1, 2, 3 and 4 ranks."""
MEASURED = ("time/", "throughput/", "data/wait", "memory/", "straggler/")
"""Prefixes of the metrics that differ between any two runs."""
PATIENCE_S = 120.0
"""Time limit for an undisturbed run."""


@dataclass(frozen=True)
class Material:
    """TOKENS and an ORDER, and the overrides for a run on them."""

    order: Order
    words: tuple[str, ...]

    @classmethod
    def make(cls, work: Path, stages: int = 3, samples: int = 150) -> Material:
        """Write a tiny corpus and arrange it; every sample has 16 tokens."""
        rng = np.random.default_rng(7)
        (work / "text").mkdir(parents=True)
        lines = []
        for index in range(samples // 2):
            letters = "".join(chr(97 + int(c)) for c in rng.integers(0, 26, 32))
            text = " ".join(letters[i : i + 4] for i in range(0, 32, 4))
            lines.append(json.dumps({"text": text, "source": ("easy", "hard")[index % 2]}))
        (work / "text" / "text.jsonl").write_text("\n".join(lines) + "\n")
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            cls._make(work, stages)
        words = (
            *("arm=torture", f"data.tokens={work / 'tokens'}", f"data.order={work / 'order'}", "tracker=none"),
            *("model.layers=1", "model.width=16", "model.heads=2", "model.kv_heads=1", "model.ffn=24"),
            *("precision=fp32", "micro_batch_size=3", "log_every=1", "checkpoints.save_every=3"),
            *("optimizer.lr=3e-3", "seed=3"),
            *("threads=1", "heldout.max_samples=8", "heldout.batch_size=4"),
        )
        return cls(Order.open(work / "order"), words)

    @staticmethod
    def _make(work: Path, stages: int) -> None:
        from curriculum.arrange.arrange import ArrangeSettings
        from curriculum.arrange.arrange import run as arrange
        from curriculum.text.text import TextSettings
        from curriculum.tokens.job import run as prepare
        from curriculum.tokens.settings import PrepareSettings
        from curriculum.tokens.tokenizer import TokenizerSettings

        prepare(
            PrepareSettings(
                input=TextSettings(paths=[str(work / "text")]),
                tokenizer=TokenizerSettings(name="train:280"),
                seq_len=16,
                validation_fraction=0.1,
                reference_fraction=0.0,
                seed=1,
                output=str(work / "tokens"),
            )
        )
        arrange(
            ArrangeSettings(
                tokens=str(work / "tokens"), output=str(work / "order"), batch_size=BATCH, stages=stages, workers=1
            )
        )

    def start(
        self, forks: Forks, folder: Path, world_size: int = 2, words: Sequence[str] = (), fault: str | None = None
    ) -> Ranks:
        """Launch the run in `folder`."""
        arguments = {"words": [*self.words, *words], "output": str(folder)}
        environment = {"PDPC_FAULT": fault} if fault else {}
        return forks.start("tests.torture.forks:train", arguments, world_size, _log_of(folder), environment)

    def finish(self, forks: Forks, folder: Path, world_size: int = 2, words: Sequence[str] = ()) -> str | None:
        """Resume a run to its end; return what went wrong, None if nothing did."""
        for _ in range(3):
            ranks = self.start(forks, folder, world_size, words)
            codes = ranks.wait(PATIENCE_S)
            ranks.kill()
            if codes == [0] * world_size:
                return None
            if "EADDRINUSE" not in ranks.told()[-4000:]:
                return f"the resume ended with {codes}: {ranks.told()[-600:]}"
        return "the port was taken three times"


def _log_of(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_suffix(".log")


def forget(folder: Path) -> None:
    """Remove a run and its log."""
    shutil.rmtree(folder, ignore_errors=True)
    _log_of(folder).unlink(missing_ok=True)


@dataclass(frozen=True)
class Ending:
    """The state of a finished run."""

    consumed: list[int]
    """Sample ids over all launches, in order."""
    consumed_hash: str
    weights: Mapping[str, str]
    """Digests of the files of the newest checkpoint: weights and moments."""
    records: list[dict[str, Any]]
    """Its metrics, without MEASURED ones."""

    @classmethod
    def of(cls, folder: Path) -> Ending:
        """Read a finished run. Raises ValueError if it is not finished."""
        facts = read_run(folder)
        if facts["status"] != "finished":
            raise ValueError(f"{folder / RUN} says {facts['status']}")
        newest = checkpoint.newest(folder / CHECKPOINTS)
        if newest is None:
            raise ValueError(f"{folder} has no intact checkpoint")
        files = open_manifest(newest, checkpoint.KIND).files
        records = [
            {key: value for key, value in record.items() if not key.startswith(MEASURED)}
            for record in read_metrics(folder / "metrics.jsonl")
        ]
        return cls(
            read_consumed(folder).tolist(),
            facts["consumed_hash"],
            {name: entry.xxh3_128 for name, entry in files.items()},
            records,
        )

    def losses(self) -> list[float]:
        """Return the training losses, step by step."""
        return [record["train/loss"] for record in self.records if record["kind"] == "train"]


@dataclass(frozen=True)
class Ground:
    """The starting point of a campaign."""

    forks: Forks
    material: Material
    whole: Ending
    """The end of an undisturbed run."""
    run_s: float
    """Seconds of an undisturbed run; with `launches` of 3, without the server's imports."""


@contextmanager
def prepared(
    work: Path, world_size: int = 2, words: Sequence[str] = (), launches: int = 1, stages: int = 3, samples: int = 150
) -> Iterator[Ground]:
    """Yield material, a fork server and an undisturbed run, made `launches` times: the first two do the imports."""
    material, run_s = Material.make(work / "material", stages, samples), 0.0
    with served() as forks:
        for _ in range(launches):
            forget(work / "whole")
            started = time.monotonic()
            problem = material.finish(forks, work / "whole", world_size, words)
            run_s = time.monotonic() - started
            if problem:
                raise RuntimeError(f"the undisturbed run failed: {problem}")
        yield Ground(forks, material, Ending.of(work / "whole"), run_s)


def difference(folder: Path, material: Material, whole: Ending, bitwise: bool = True) -> str | None:
    """Return how a finished run differs from an undisturbed one, None if it does not.

    Every sample must be consumed once and in order; weights, moments and metrics must be equal bit for bit, or, with
    `bitwise` false, the losses to 1e-5 relative.
    """
    try:
        ending = Ending.of(folder)
    except ValueError as error:
        return str(error)
    order = material.order[0 : len(material.order)].tolist()
    if ending.consumed != order:
        lost, twice = len(set(order) - set(ending.consumed)), len(ending.consumed) - len(set(ending.consumed))
        return f"the consumed samples are not the order: {lost} samples lost, {twice} repeated"
    if ending.consumed_hash != as_hex(order_hash(material.order, len(order))):
        return f"the consumed hash {ending.consumed_hash} is not the order's"
    if not bitwise:
        worst = max(abs(a / b - 1) for a, b in zip(ending.losses(), whole.losses(), strict=True))
        return None if worst <= 1e-5 else f"losses differ by {worst:.1e} relative"
    if ending.weights != whole.weights:
        return "the final weights differ"
    return _other_metrics(ending.records, whole.records)


def _other_metrics(records: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> str | None:
    """Return the keys in which two runs' metrics differ, and the first step."""
    if [(r["kind"], r["step"]) for r in records] != [(r["kind"], r["step"]) for r in wanted]:
        return f"the metrics have {len(records)} records instead of {len(wanted)}, or at other steps"
    for ours, theirs in zip(records, wanted, strict=True):
        keys = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        if keys:
            shown = "; ".join(f"{key} {ours.get(key)} instead of {theirs.get(key)}" for key in keys[:3])
            return f"{len(keys)} metrics differ from step {ours['step']} on: {shown}"
    return None


def on_each_size(
    tally: Tally,
    sizes: Sequence[int],
    count: int,
    work: Path,
    one_run: Callable[..., tuple[str, str | None]],
    launches: int,
) -> None:
    """Call `one_run(ground, folder, seed, size)` for `count` cases, each on one of `sizes` ranks; tally the results.

    It returns how a run ended and what went wrong; `folder` contains the material and is the run's parent.
    """
    ends, seeds = dict[str, int](), case_seeds(tally.seed, count)
    with served():
        for size in sizes:
            cases = [case for case in seeds if sizes[case % len(sizes)] == size]
            if not cases:
                continue
            folder = work / f"on_{size}"
            with prepared(folder, size, launches=launches) as ground:
                for case in cases:
                    end, problem = one_run(ground, folder, case, size)
                    ends[end] = ends.get(end, 0) + 1
                    tally.add(case, problem)
                    forget(folder / "run")
    tally.notes.append("ends: " + ", ".join(f"{number} x {end}" for end, number in sorted(ends.items())))
