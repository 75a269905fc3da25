"""python -m benchmarks.arrange_scale --samples 1e9

Arrange a corpus of scores in a Parquet file, compared with raw disk I/O: reading the scores and writing as many bytes
as the ORDER has, fsynced. Then open the order in fresh processes and read the first batch at random positions, at this
size and at a small one.

Targets: arrange in at most 2 times the disk's time; at most 2 GiB resident; open and first batch at most 50 ms and
64 MiB more than an interpreter with the imports, and at most 2 times the time at the small size. Both sides start with
the files outside the page cache (`--cache cold`) or in it (`warm`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import chosen, parser, say, size, work_folder
from benchmarks.processes import Facts, Settings, Side, evict, forget_peak, measure, peak_bytes
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread
from benchmarks.score_file import COMPRESSIONS, read_scores, write_scores

NAME = "arrange_scale"
BLOCK = 8 << 20
MOST_TIMES, MOST_BYTES = 2.0, 2 << 30
OPEN_MS, OPEN_MIB, OPEN_TIMES = 50.0, 64.0, 2.0
MEBIBYTE = 1 << 20


def arrange(settings: Settings) -> Facts:
    """Our arrangement, from the Parquet file to a complete ORDER."""
    from benchmarks.arrangement import arrange_scores

    output = Path(settings["order"])
    start = time.perf_counter()
    arrange_scores(
        scores=Path(settings["scores"]),
        preference=settings["preference"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        output=output,
    )
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": sum(path.stat().st_size for path in output.iterdir())}


def disk(settings: Settings) -> Facts:
    """The lower bound: read all scores, then write and fsync as many bytes as the ORDER has."""
    block = np.random.default_rng(settings["seed"]).bytes(BLOCK)
    left = int(settings["bytes"])
    path = Path(settings["index"])
    start = time.perf_counter()
    read = sum(len(score_N) for score_N in read_scores(Path(settings["scores"])))
    read_s = time.perf_counter() - start
    with open(path, "wb") as file:
        while left:
            left -= file.write(block[: min(left, BLOCK)])
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    assert read == settings["samples"], f"{read} scores read"
    return {"seconds": seconds, "read_s": read_s, "write_s": seconds - read_s}


def imports(settings: Settings) -> Facts:
    """The baseline: an interpreter with only the imports needed to open an ORDER."""
    import curriculum

    assert curriculum.Order is not None
    forget_peak()
    return {"seconds": 0.0, "peak_bytes": peak_bytes()}


def first_batch(settings: Settings) -> Facts:
    """Open an ORDER and read the first batch at a random step."""
    from curriculum import CurriculumSampler, Order

    forget_peak()
    start = time.perf_counter()
    order = Order.open(settings["order"])
    step = int(np.random.default_rng(settings["draw"]).integers(len(order) // settings["batch_size"]))
    ids = next(iter(CurriculumSampler(order, settings["batch_size"], 0, 1, cursor=step * settings["batch_size"])))
    seconds = time.perf_counter() - start
    assert len(ids) == settings["batch_size"], f"{len(ids)} ids"
    return {"seconds": seconds, "peak_bytes": peak_bytes()}


SIDES: dict[str, Side] = {"arrange": arrange, "disk": disk, "imports": imports, "first_batch": first_batch}


def _make(work: Path, samples: int, options: argparse.Namespace) -> dict[str, Any]:
    """Write the scores of one size; return the settings for its sides."""
    say(f"scores: {samples:,} in a Parquet file")
    scores = write_scores(
        work, samples, options.seed, compression=options.compression, sample_column=options.sample_column
    )
    paths = {"scores": str(scores), "order": str(work / f"order-{samples}"), "index": str(work / "index.bin")}
    return {**chosen(options), **paths, "samples": samples, "bytes": 0}


def _one_side(side: str, settings: dict[str, Any], work: Path, cold: bool) -> Facts:
    """Measure arrange or disk; disk writes as many bytes as the last arrange did."""
    if side == "arrange":
        shutil.rmtree(settings["order"], ignore_errors=True)
    if cold:
        evict(Path(settings["scores"]))
    else:
        for _ in read_scores(Path(settings["scores"])):
            pass
    os.sync()
    facts = measure(NAME, side, settings, work)
    settings["bytes"] = facts.get("bytes", settings["bytes"])
    return facts


def _open_times(work: Path, made: dict[str, dict[str, Any]], options: argparse.Namespace) -> dict[str, list[Facts]]:
    """Open the order of each size in fresh processes, in turn, each time at a different random step."""
    draws = dict.fromkeys(("imports", *made), 0)

    def one(side: str) -> Facts:
        draws[side] += 1
        if side == "imports":
            return measure(NAME, side, {}, work)
        if options.cache == "cold":
            evict(Path(made[side]["order"]))
        return measure(NAME, "first_batch", {**made[side], "draw": options.seed + draws[side]}, work)

    return interleave(list(draws), options.opens, one, lambda line: None)


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    options = _options(arguments)
    with work_folder(options.work) as work:
        sizes = {"open": _make(work, options.samples, options), "open_small": _make(work, options.small, options)}
        settings = sizes["open"]
        cold = options.cache == "cold"
        _one_side("arrange", sizes["open_small"], work, cold)
        measured = interleave(
            ["arrange", "disk"], options.rounds, lambda side: _one_side(side, settings, work, cold), say
        )
        say(f"opening in {options.opens} fresh processes per size")
        opened = _open_times(work, sizes, options)
        order_bytes = settings["bytes"]
        for made in sizes.values():
            shutil.rmtree(made["order"])
    over = ratios(column(measured, "arrange", "seconds"), column(measured, "disk", "seconds"))
    peak = max(column(measured, "arrange", "peak_bound_bytes"))
    large, small = (column(opened, side, "seconds") for side in sizes)
    grown = ratios(large, small)
    empty = spread(column(opened, "imports", "peak_bytes")).median
    extra = max(0.0, spread(column(opened, "open", "peak_bytes")).median - empty) / MEBIBYTE
    all_ratios = {"arrange / disk": over, "open / open_small": grown}
    checks = [
        Check("arrange over disk", spread(over).median, MOST_TIMES, "at most", "x"),
        Check("arrange, peak memory", peak / MEBIBYTE, MOST_BYTES / MEBIBYTE, "at most", "MiB"),
        Check("open + first batch", spread(large).median * 1e3, OPEN_MS, "at most", "ms"),
        Check("open + first batch, memory", extra, OPEN_MIB, "at most", "MiB"),
        Check("open, over the small size", spread(large).median / spread(small).median, OPEN_TIMES, "at most", "x"),
    ]
    notes = [f"the order takes {order_bytes / options.samples:.2f} bytes per sample on disk"]
    finish(
        Result(NAME, chosen(options), (), {**measured, **opened}, all_ratios, checks, notes),
        keep=options.keep,
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--samples", type=size, default=10**9, help="scores to arrange (default 1e9)")
    made.add_argument("--small", type=size, default=10**6, help="the small size to compare with (default 1e6)")
    made.add_argument("--batch-size", type=size, default=1024, help="samples per step (default 1024)")
    made.add_argument("--preference", choices=("pdpc", "shuffled"), default="pdpc")
    made.add_argument("--compression", choices=COMPRESSIONS, default="none", help="of the scores (default none)")
    made.add_argument("--sample-column", action="store_true", help="give the scores a column of sample ids")
    made.add_argument("--cache", choices=("cold", "warm"), default="cold", help="files at the start (default cold)")
    made.add_argument("--opens", type=size, default=20, help="fresh processes that open each order (default 20)")
    options = made.parse_args(arguments)
    for name in ("samples", "small"):
        if getattr(options, name) < options.batch_size:
            made.error(f"--{name} {getattr(options, name)} must be at least one batch of {options.batch_size}")
    return options


if __name__ == "__main__":
    main()
