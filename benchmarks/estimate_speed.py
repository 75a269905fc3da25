"""python -m benchmarks.estimate_speed [ROWS.csv] [--write]

Fit the model of speed of `pdpc estimate` (launch/estimate/speed.py) to published rows for A100, and measure its errors
on rows that were kept out of the fit: each model size (0.76B, 1B, 3B) by a fit to all other sizes; every row by a fit
to nine tenths of the rows; figures of other projects, which are never fitted. `--write` stores coefficients and errors
in launch/estimate/speed.json. H100 rows only set `relative_speed` of the H100's hardware.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.gpu.published import FLASH, FOUNDRY, NEOX, TINY_LLAMA
from launch.estimate.hardware import CARDS, Accelerators
from launch.estimate.speed import FITTED, Coefficients, Traffic, Work, step_seconds

Floats = NDArray[np.float64]
ROWS = Path(__file__).parent / "results" / "kept" / "mpt_throughput.csv"
SHAPES = {
    "125m": (12, 768),
    "350m": (24, 1024),
    "760m": (24, 1536),
    "1b": (24, 2048),
    "3b": (32, 2560),
    "7b": (32, 4096),
    "13b": (40, 5120),
    "30b": (48, 7168),
    "70b": (80, 8192),
}
"""Layers and width of the MPT models (llm-foundry, scripts/train/yamls/pretrain)."""
MPT_VOCABULARY = 50_368
KEPT_OUT = ("760m", "1b", "3b")
FSDP = Traffic(micro_batch=6.0)
"""Weights gathered twice and gradients reduced once, in bf16, for every micro-batch."""
START = Coefficients(0.8, 250.0, 0.5, 1.5, 4.0, 0.7, 3.0)
"""Where the fit starts, and what it is drawn to where rows say little."""
SCALE, PULL = 0.02, 0.03
"""Relative error from which a row counts linearly (soft L1), and weight of START."""


@dataclass(frozen=True)
class Row:
    """A published figure."""

    name: str
    work: Work
    hardware: Accelerators
    micro_batch_tokens: int
    accumulation: int
    recomputed: bool
    tokens_per_s: float
    """Per GPU."""
    traffic: Traffic = FSDP

    def predicted(self, fitted: Coefficients) -> float:
        """Return tokens/s per GPU."""
        seconds = step_seconds(
            self.work,
            self.hardware,
            fitted,
            micro_batch_tokens=self.micro_batch_tokens,
            accumulation=self.accumulation,
            traffic=self.traffic,
            recomputed=float(self.recomputed),
            updated=self.work.parameters / self.hardware.devices,
        )
        return self.micro_batch_tokens * self.accumulation / seconds.total


def gpt(layers: int, width: int, seq_len: int, vocabulary: int, parameters: int | None = None) -> Work:
    """Return a GPT: feed-forward of 4 * width, tied embeddings."""
    products = 12 * layers * width**2
    total = parameters or products + vocabulary * width
    return Work(products, total, layers, width, width, width, 4 * width, False, vocabulary, seq_len)


def read_rows(path: Path) -> list[Row]:
    """Return the rows in bf16 of a table with the columns of ROWS."""
    with open(path, encoding="utf-8") as file:
        table = list(csv.DictReader(line for line in file if not line.startswith("#")))
    rows = []
    for row in table:
        if row["precision"] == "amp_fp8":
            continue
        gpus, seq_len = int(row["gpus"]), int(row["seq_len"])
        work = gpt(*SHAPES[row["model"]], seq_len, MPT_VOCABULARY, int(row["parameters"]))
        hardware = CARDS[row["gpu"].removesuffix("gb")](nodes=gpus // 8)
        rows.append(
            Row(
                row["model"],
                work,
                hardware,
                int(row["micro_batch"]) * seq_len,
                int(row["accumulation"]),
                row["checkpointing"] == "True",
                float(row["tokens_per_s_gpu"]),
            )
        )
    return rows


def others() -> list[tuple[Row, str]]:
    """Return figures that are not in the table, each with its source; FLOPs in the convention of their sources."""

    def by_flops(name: str, layers: int, width: int, tflops: float, source: str) -> tuple[Row, str]:
        work = gpt(layers, width, 2048, 50_304)
        flops = 6 * (work.products + 50_304 * width) + 12 * layers * width * 2048
        return Row(name, work, CARDS["a100_80"](), 8 * 2048, 8, False, tflops * 1e12 / flops), source

    tiny = Work(
        22 * (2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 5632),
        1_100_048_384,
        22,
        2048,
        2048,
        256,
        5632,
        True,
        32_000,
        2048,
    )

    def foundry(name: str, card: str, seq_len: int, micro_batch: int, tokens_per_s: float) -> tuple[Row, str]:
        work = gpt(*SHAPES[name], seq_len, MPT_VOCABULARY)
        label = f"MPT {name}, {seq_len} tokens, 8 {card}"
        return Row(label, work, CARDS[card](), micro_batch * seq_len, 4, False, tokens_per_s), FOUNDRY

    return [
        (Row("TinyLlama 1.1B, 16 a100_40", tiny, CARDS["a100_40"](nodes=2), 8 * 2048, 8, False, 24_000), TINY_LLAMA),
        by_flops("FlashAttention's GPT 1.3B, 8 a100_80", 24, 2048, 189, FLASH),
        by_flops("FlashAttention's GPT 2.7B, 8 a100_80", 32, 2560, 189, FLASH),
        by_flops("GPT-NeoX 1.3B, DeepSpeed, a100_80", 24, 2048, 180, NEOX),
        foundry("1b", "a100_80", 2048, 14, 20_513),
        foundry("1b", "a100_80", 4096, 7, 17_807),
        foundry("1b", "a100_40", 2048, 10, 19_271),
        foundry("3b", "a100_80", 2048, 10, 10_811),
    ]


def fit(rows: Sequence[Row]) -> Coefficients:
    """Return the coefficients with the least soft L1 loss of the logarithms."""
    start = np.log(astuple(START))
    measured = np.log([row.tokens_per_s for row in rows])

    def residuals(logs: Floats) -> Floats:
        fitted = Coefficients(*np.exp(logs))
        off = np.log([row.predicted(fitted) for row in rows]) - measured
        return np.concatenate([off / SCALE, PULL * (logs - start)])

    return Coefficients(*np.exp(least_squares(residuals, start, loss="soft_l1").x).tolist())


def errors(rows: Sequence[Row], fitted: Coefficients) -> Floats:
    """Return the relative errors."""
    return np.array([row.predicted(fitted) / row.tokens_per_s - 1 for row in rows])


def summary(found: Floats) -> dict[str, Any]:
    """Return number, median and 90th percentile of the absolute errors, and the largest one."""
    size = np.abs(found)
    values = {"median": np.median(size), "p90": np.quantile(size, 0.9), "largest": size.max(), "bias": np.median(found)}
    return {"rows": len(found), **{name: round(float(value), 4) for name, value in values.items()}}


def kept_out(rows: Sequence[Row], group_of: Callable[[int, Row], object]) -> list[tuple[Row, float]]:
    """Return every row of KEPT_OUT with its error by a fit to the rows of all other groups."""
    groups: dict[object, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(group_of(index, row), []).append(index)
    found = []
    for indices in groups.values():
        wanted = [rows[index] for index in indices if rows[index].name in KEPT_OUT]
        if wanted:
            fitted = fit([row for index, row in enumerate(rows) if index not in indices])
            found += list(zip(wanted, errors(wanted, fitted).tolist(), strict=True))
    return found


def at_speed(rows: Sequence[Row], relative: float) -> list[Row]:
    """Return the rows with another `relative_speed` of their hardware."""
    return [replace(row, hardware=replace(row.hardware, relative_speed=relative)) for row in rows]


def relative_speed(rows: Sequence[Row], fitted: Coefficients) -> float:
    """Return the relative speed, to three digits, at which the median error is zero."""
    tried = np.arange(0.5, 1.5, 0.001)
    return float(round(min(tried, key=lambda one: abs(np.median(errors(at_speed(rows, one), fitted)))), 3))


def main(arguments: list[str] | None = None) -> None:
    """Fit, measure, print and, if asked to, write."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("rows", nargs="?", type=Path, default=ROWS, help=f"table of rows (default {ROWS.name})")
    made.add_argument("--write", action="store_true", help=f"write {FITTED.name}")
    options = made.parse_args(arguments)
    every = read_rows(options.rows)
    rows = [row for row in every if row.hardware.peak_tflops == CARDS["a100_80"].peak_tflops]
    hopper = [row for row in every if row not in rows]
    fitted = fit(rows)
    by_size = kept_out(rows, lambda _, row: row.name)
    fold = np.random.default_rng(0).permutation(len(rows)) % 10
    by_tenth = kept_out(rows, lambda index, _: int(fold[index]))
    outside = {
        row.name: {
            "tokens_per_s_gpu": round(row.tokens_per_s),
            "error": round(row.predicted(fitted) / row.tokens_per_s - 1, 4),
            "source": source,
        }
        for row, source in others()
    }
    relative = relative_speed(hopper, fitted)
    result = {
        "coefficients": {item.name: float(f"{getattr(fitted, item.name):.5g}") for item in fields(fitted)},
        "origin": f"{len(rows)} rows of MPT training on A100, {FOUNDRY} (Apache-2.0)",
        "in_the_fit": summary(errors(rows, fitted)),
        "kept_out_by_size": {
            "all": summary(np.array([error for _, error in by_size])),
            **{name: summary(np.array([e for row, e in by_size if row.name == name])) for name in KEPT_OUT},
        },
        "kept_out_by_tenth": {"all": summary(np.array([error for _, error in by_tenth]))},
        "never_fitted": outside,
        "h100": {"relative_speed": round(relative, 3), "after_it": summary(errors(at_speed(hopper, relative), fitted))},
    }
    for row, error in by_size:
        where = f"{row.work.seq_len:6} {row.hardware.devices:4} GPUs {row.hardware.memory_gib:5} GiB"
        print(f"{row.name:5}{where} micro-batch {row.micro_batch_tokens // row.work.seq_len:3}  {error:+7.1%}")
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if options.write:
        FITTED.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
