"""python -m benchmarks.arrange_memory --samples 1e8

Arrange scores in memory, compared with a full sort: polars' `arg_sort` and numpy's `argsort` on the same float32
column. All three produce an array of sample ids; ours follows a preference, the peers only sort in ascending order.

Targets: at least 5 times as fast as polars, 20 times as fast as numpy. Polars uses its default number of threads
unless `--threads` limits it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import chosen, parser, say, size, work_folder
from benchmarks.processes import Facts, Settings, Side, measure
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread
from benchmarks.score_file import draw

NAME = "arrange_memory"
OURS = "pdpc"
LEAST = {"polars": 5.0, "numpy": 20.0}


def pdpc(settings: Settings) -> Facts:
    """Our arrangement."""
    from benchmarks.arrangement import arrange_in_memory, load

    score_N = _scores(settings)
    load()
    start = time.perf_counter()
    ids_N = arrange_in_memory(score_N, settings["preference"], settings["batch_size"], settings["seed"])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "id_sum": int(ids_N.sum(dtype=np.uint64))}


def polars(settings: Settings) -> Facts:
    """A full sort by polars."""
    import polars

    column_N = polars.Series("score", _scores(settings))
    start = time.perf_counter()
    ids_N = column_N.arg_sort()
    seconds = time.perf_counter() - start
    facts = {"seconds": seconds, "id_sum": int(ids_N.to_numpy().sum(dtype=np.uint64))}
    return {**facts, "threads": polars.thread_pool_size()}


def numpy(settings: Settings) -> Facts:
    """A full sort by numpy."""
    score_N = _scores(settings)
    start = time.perf_counter()
    ids_N = np.argsort(score_N)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "id_sum": int(ids_N.sum(dtype=np.uint64))}


SIDES: dict[str, Side] = {OURS: pdpc, "polars": polars, "numpy": numpy}


def _scores(settings: Settings) -> NDArray[np.float32]:
    return np.fromfile(settings["scores"], dtype=np.float32)


def _write_scores(folder: Path, samples: int, seed: int) -> Path:
    path = folder / "scores.f32"
    with open(path, "wb") as file:
        for score_N in draw(samples, seed):
            file.write(score_N.tobytes())
    return path


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    options = _options(arguments)
    threads = str(options.threads)
    environment = {"POLARS_MAX_THREADS": threads, "OMP_NUM_THREADS": threads} if options.threads else {}
    with work_folder(options.work) as work:
        say(f"scores: {options.samples:,} in memory")
        settings = {**chosen(options), "scores": str(_write_scores(work, options.samples, options.seed))}
        measured = interleave(
            list(SIDES), options.rounds, lambda side: measure(NAME, side, settings, work, environment), say
        )
        Path(settings["scores"]).unlink()
    once = options.samples * (options.samples - 1) // 2
    wrong = {side for side in SIDES if any(facts["id_sum"] != once for facts in measured[side])}
    assert not wrong, f"not every sample once: {wrong}"
    ours = column(measured, OURS, "seconds")
    faster = {f"{peer} / {OURS}": ratios(column(measured, peer, "seconds"), ours) for peer in LEAST}
    checks = [
        Check(f"faster than {peer}", spread(values).median, least, "at least", "x")
        for (peer, least), values in zip(LEAST.items(), faster.values(), strict=True)
    ]
    notes = [f"polars sorted with {measured['polars'][0]['threads']} threads, numpy with one"]
    finish(Result(NAME, chosen(options), ("polars",), measured, faster, checks, notes), keep=options.keep)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--samples", type=size, default=10**8, help="scores to arrange (default 1e8)")
    made.add_argument("--batch-size", type=size, default=1024, help="samples per step (default 1024)")
    made.add_argument("--preference", choices=("pdpc", "shuffled"), default="pdpc")
    made.add_argument("--threads", type=size, help="threads that polars and OpenMP may use (default: theirs)")
    options = made.parse_args(arguments)
    if not options.batch_size <= options.samples < 2**32:
        made.error(f"--samples {options.samples} must be between one batch of {options.batch_size} and 2^32 - 1")
    return options


if __name__ == "__main__":
    main()
