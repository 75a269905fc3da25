"""python -m benchmarks.deepspeed_curriculum --samples 1e6

DeepSpeed's own curriculum (data efficiency: DataAnalyzer, then DeepSpeedDataSampler) compared with ours on one float
score per sample: the time from the scores to the last batch of an epoch, bytes and files left on disk, and whether a
run resumed in mid-epoch sees the same ids as an uninterrupted one.

DataAnalyzer only accepts integers, so its metric is the score divided by `--level` (1e-4) and rounded. Its sampler
follows a percentile schedule that rises linearly over the epoch, read from the merged index of a hundred rows, which is
its fastest path. Its pool can only grow, so it cannot follow our preference; ours follows `pdpc` over the same epoch.

Targets: at least 50 times as fast; at most 12 bytes per sample and 10 files; the same ids after our resume.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import time
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import chosen, parser, say, size, work_folder
from benchmarks.processes import Facts, Settings, Side, measure, peak_bytes
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread
from benchmarks.score_file import read_scores, write_scores

NAME = "deepspeed_curriculum"
OURS, THEIRS = "pdpc", "deepspeed"
LEAST_TIMES, MOST_BYTES, MOST_FILES = 50.0, 12.0, 10.0
METRIC = "score"
ANALYZER_BATCH = 8192
HIGHEST = 100


def pdpc(settings: Settings) -> Facts:
    """Arrange, then iterate over all batches of the order; resume it halfway."""
    from benchmarks.arrangement import arrange_scores, load
    from curriculum import CurriculumSampler, Order

    output = Path(settings["ours"])
    batch_size = settings["batch_size"]
    load()
    start = time.perf_counter()
    arrange_scores(
        scores=Path(settings["scores"]),
        preference="pdpc",
        batch_size=batch_size,
        seed=settings["seed"],
        output=output,
    )
    analysed = time.perf_counter()
    batches = list(CurriculumSampler(Order.open(output), batch_size, rank=0, world_size=1))
    end = time.perf_counter()
    half = len(batches) // 2
    resumed = list(CurriculumSampler(Order.open(output), batch_size, rank=0, world_size=1, cursor=half * batch_size))
    return {**_facts(settings, output, start, analysed, end, batches), **_equal(batches[half:], resumed)}


def deepspeed(settings: Settings) -> Facts:
    """Analyse, then iterate over all batches of an epoch; resume it halfway from the sampler's state dict."""
    import deepspeed
    import deepspeed.runtime.data_pipeline.data_sampling.data_analyzer
    import deepspeed.runtime.data_pipeline.data_sampling.data_sampler
    from torch import distributed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    store = Path(settings["theirs"]) / "rendezvous"
    store.parent.mkdir(parents=True)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    deepspeed.init_distributed("gloo", verbose=False)
    output = Path(settings["theirs"]) / "analysis"
    start = time.perf_counter()
    _analyse(settings, output)
    analysed = time.perf_counter()
    batches = list(_epoch(_sampler(settings, output, "whole"), settings))
    end = time.perf_counter()
    facts = _facts(settings, output, start, analysed, end, batches)
    half = len(batches) // 2
    first = _sampler(settings, output, "resumed")
    epoch = _epoch(first, settings)
    for _ in range(half):
        next(epoch)
    second = _sampler(settings, output, "resumed")
    second.load_state_dict(deepcopy(first.state_dict()))
    resumed = list(_epoch(second, settings, half))
    distributed.destroy_process_group()
    return {**facts, **_equal(batches[half:], resumed)}


SIDES: dict[str, Side] = {OURS: pdpc, THEIRS: deepspeed}


class _Levels:
    """The scores as a dataset for DataAnalyzer: item i is its integer level."""

    def __init__(self, settings: Settings) -> None:
        import torch

        score_N = np.concatenate(list(read_scores(Path(settings["scores"]))))
        self.level_N = torch.from_numpy(np.rint(score_N / settings["level"]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.level_N)

    def __getitem__(self, index: int) -> Any:
        return self.level_N[index]


def _analyse(settings: Settings, output: Path) -> None:
    import torch
    from deepspeed.runtime.data_pipeline.data_sampling.data_analyzer import DataAnalyzer

    analyzer = DataAnalyzer(
        _Levels(settings),
        batch_size=ANALYZER_BATCH,
        metric_names=[METRIC],
        metric_functions=[lambda level_B: level_B],
        metric_types=["single_value_per_sample"],
        metric_dtypes=[torch.int64],
        save_path=str(output),
    )
    analyzer.run_map()
    analyzer.run_reduce()


def _sampler(settings: Settings, output: Path, clusters: str) -> Any:
    from deepspeed.runtime.data_pipeline.data_sampling.data_sampler import DeepSpeedDataSampler
    from torch import distributed

    index = output / METRIC / f"{METRIC}_index_to_sample_percentile_merged"
    schedule = {"total_curriculum_step": settings["samples"] // settings["batch_size"], "difficulty_step": 1}
    metric = {
        "index_to_sample_path": str(index),
        "index_to_metric_path": str(output / METRIC / f"{METRIC}_index_to_metric"),
        "difficulty_type": "percentile",
        "clustering_type": "schedule_based",
        "min_difficulty": 1,
        "max_difficulty": HIGHEST,
        "schedule_type": "fixed_linear",
        "schedule_config": schedule,
    }
    curriculum = {
        "enabled": True,
        "data_cluster_path": str(output / f"clusters-{clusters}"),
        "curriculum_metrics": {METRIC: metric},
    }
    config = {"seed": settings["seed"], "data_sampling": {"num_epochs": 1, "curriculum_learning": curriculum}}
    return DeepSpeedDataSampler(
        config, settings["samples"], settings["batch_size"], 0, 1, distributed.group.WORLD, 1, 0, drop_last=False
    )


def _epoch(sampler: Any, settings: Settings, first: int = 0) -> Iterator[list[int]]:
    """Yield the batches of one epoch starting at batch `first`; the sampler itself does not stop at its end."""
    batches = iter(sampler)
    for _ in range(first, settings["samples"] // settings["batch_size"]):
        yield next(batches)


def _facts(
    settings: Settings, output: Path, start: float, analysed: float, end: float, batches: list[list[int]]
) -> Facts:
    files = [path for path in output.rglob("*") if path.is_file()]
    seen = np.bincount(np.concatenate(batches), minlength=settings["samples"])
    return {
        "peak_bytes": peak_bytes(),
        "seconds": end - start,
        "arrange_s": analysed - start,
        "sample_s": end - analysed,
        "bytes_a_sample": sum(path.stat().st_size for path in files) / settings["samples"],
        "files": len(files),
        "never_seen": int((seen == 0).sum()),
        "seen_again": int((seen > 1).sum()),
    }


def _equal(whole: list[list[int]], resumed: list[list[int]]) -> Facts:
    same = sum(a == b for a, b in zip(whole, resumed, strict=True))
    return {"resumed_batches": len(whole), "resumed_equal": same}


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    options = _options(arguments)
    with work_folder(options.work) as work:
        paths = {"ours": str(work / "order"), "theirs": str(work / "data-efficiency")}
        settings = {**chosen(options), **paths, "scores": str(write_scores(work, options.samples, options.seed))}
        say(f"scores: {options.samples:,}; first a small warm-up: DeepSpeed compiles an operator on its first run")
        few = 4 * options.batch_size
        scores = write_scores(work, few, options.seed)
        _one_side({**settings, "samples": few, "scores": str(scores)}, work, THEIRS)
        measured = interleave(list(SIDES), options.rounds, partial(_one_side, settings, work), say)
    ours, theirs = measured[OURS], measured[THEIRS]
    faster = ratios(column(measured, THEIRS, "seconds"), column(measured, OURS, "seconds"))
    bytes_per_sample = max(facts["bytes_a_sample"] for facts in ours)
    lost = max(facts["resumed_batches"] - facts["resumed_equal"] for facts in ours)
    checks = [
        Check("faster than deepspeed", spread(faster).median, LEAST_TIMES, "at least", "x"),
        Check("bytes per sample", bytes_per_sample, MOST_BYTES, "at most"),
        Check("files", max(facts["files"] for facts in ours), MOST_FILES, "at most"),
        Check("resumed batches that differ", lost, 0, "at most"),
    ]
    notes = [_summary(side, facts[-1]) for side, facts in ((OURS, ours), (THEIRS, theirs))]
    notes.append(f"DeepSpeed's metric is the score in steps of {options.level:g}: it does not accept floats")
    finish(
        Result(NAME, chosen(options), ("deepspeed", "torch"), measured, {f"{THEIRS} / {OURS}": faster}, checks, notes),
        keep=options.keep,
    )


def _summary(side: str, facts: Facts) -> str:
    return (
        f"{side}: {facts['arrange_s']:.3g} s to arrange, {facts['sample_s']:.3g} s to sample; "
        f"{facts['bytes_a_sample']:.4g} bytes per sample in {facts['files']:,} files; "
        f"{facts['never_seen']:,} samples never seen, {facts['seen_again']:,} seen more than once; resumed halfway, "
        f"{facts['resumed_equal']:,} of {facts['resumed_batches']:,} batches equal"
    )


def _one_side(settings: dict[str, Any], work: Path, side: str) -> Facts:
    for folder in ("ours", "theirs"):
        shutil.rmtree(settings[folder], ignore_errors=True)
    os.sync()
    environment = {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(work.resolve() / "torch-extensions")}
    return measure(NAME, side, settings, work, environment)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--samples", type=size, default=10**6, help="samples of the corpus (default 1e6)")
    made.add_argument("--batch-size", type=size, default=512, help="samples per batch (default 512)")
    made.add_argument("--level", type=float, default=1e-4, help="score difference of one level of DeepSpeed's metric")
    options = made.parse_args(arguments)
    if options.samples < 2 * options.batch_size:
        made.error(f"--samples {options.samples} must be at least two batches of {options.batch_size}")
    if not 0 < options.level < 1:
        made.error(f"--level {options.level} must be between 0 and 1")
    return options


if __name__ == "__main__":
    main()
