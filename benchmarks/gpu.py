"""python -m benchmarks.gpu

On a node with GPUs: attention backends and kernels (plain compared with liger) on one GPU, and full training steps of
1.3b and 3b (forward, backward, AdamW, DeepSpeed ZeRO 1, bf16) on all GPUs, in tokens/s/GPU and MFU, compared with
published figures for A100 (benchmarks/gpu_published.py). Prints tables and writes the same as JSON.

    mfu         tokens/s/GPU * (6 * N + 12 * layers * query width * T) / peak, where N counts the parameters in matrix
                products (all but the embedding and the norms): the convention of the published figures
    mfu_causal  the same with attention halved for the causal mask

Without a GPU it says so, measures nothing and exits with code 0. `--device cpu --size demo` is a dry run of the same
code on the CPU; its figures say nothing about a GPU. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gpu_published import comparable, mfu, peak_of
from benchmarks.options import add_sizes, say, size
from benchmarks.report import KEPT, RESULTS, machine, versions
from curriculum.artifact.files import write_text
from train.distributed.world import SUPERVISOR

NAME = "gpu"
Row = dict[str, Any]
STEP_MODULE = "benchmarks.gpu_step"
LOG_TAIL = 3000
TIMEOUT_S = 1800
"""Timeout for the steps of one size: ranks that wait for one that ran out of memory would wait forever."""


def main(arguments: list[str] | None = None, folder: Path = RESULTS) -> None:
    """Measure and report."""
    options = _options(arguments)
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        say("no GPU here: torch.cuda.is_available() is False; nothing was measured")
        return
    device = torch.device(options.device)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = options.peak_tflops * 1e12 if options.peak_tflops else peak_of(card)
    settings = {name: value for name, value in vars(options).items() if name not in ("keep", "device")}
    result: Row = {
        "benchmark": NAME,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "dry_run": device.type != "cuda",
        "card": card,
        "peak_per_s": peak,
        "settings": settings,
        "machine": machine(),
        "versions": versions(("torch", "triton", "deepspeed", "flash-attn", "liger-kernel")),
        **_parts(settings, device),
        "steps": [with_mfu(_step(each, settings, device.type), peak) for each in options.size],
    }
    console = Console() if Console().is_terminal else Console(width=140)
    for shown in tables(result):
        console.print(shown)
    name = f"{NAME}_dry_run" if result["dry_run"] else NAME
    path = (folder / KEPT if options.keep else folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
    console.print(f"written: {os.path.relpath(path)}", markup=False, highlight=False, soft_wrap=True)


def _parts(settings: Mapping[str, Any], device: Any) -> dict[str, list[Row]]:
    """Measure attention and kernels at the shapes of the first size."""
    from benchmarks import gpu_parts
    from benchmarks.gpu_step import VOCABULARY, train_settings

    say(f"attention and kernels at the shapes of {settings['size'][0]}")
    model = train_settings({**settings, "size": settings["size"][0]}).model
    config = model.decoder_config(VOCABULARY, settings["seq_len"], VOCABULARY - 1)
    return {
        "attention": gpu_parts.attention_rows(config, settings, device),
        "kernels": gpu_parts.kernel_rows(config, settings, device),
    }


def _step(each: str, settings: Mapping[str, Any], device: str) -> Row:
    """Run the training steps of one size in separate processes, one per GPU; return rank 0's result."""
    import torch

    ranks = torch.cuda.device_count() if device == "cuda" else 1
    say(f"training steps of {each} on {ranks} x {device}")
    if device == "cuda":
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory(prefix="pdpc-gpu-") as name:
        given, result = (Path(name) / file for file in ("settings.json", "result.json"))
        given.write_text(json.dumps({**settings, "size": each}), "utf-8")
        program = [sys.executable, "-m"]
        if ranks > 1:
            program += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
        # Ranks exit when this process or torchrun does, for any reason.
        environment = {**os.environ, SUPERVISOR: str(os.getpid())}
        environment |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
        command = [*program, STEP_MODULE, str(given), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return {"size": each, "not_run": f"no result after {TIMEOUT_S} s"}
        if done.returncode != 0 or not result.is_file():
            return {"size": each, "not_run": f"code {done.returncode}: {(done.stdout + done.stderr)[-LOG_TAIL:]}"}
        row: Row = json.loads(result.read_text("utf-8"))
        return row


def with_mfu(row: Row, peak: float | None) -> Row:
    """Add the published rows to a measured step, and both MFUs if the card's peak is known."""
    published = comparable(row["size"], row.get("seq_len", 0))
    found: Row = {**row, "published": [dict(vars(other)) for other in published]}
    if peak is not None and "tokens_per_s" in row:
        for name, operations in (("mfu", "operations_per_token"), ("mfu_causal", "operations_per_token_causal")):
            found[name] = mfu(row["tokens_per_s"], row[operations], peak)
    return found


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a result: attention, kernels, and steps with the published ones."""
    prefix = "CPU DRY RUN, not a GPU's figures: " if result["dry_run"] else f"{result['card']}: "
    attention = _table(f"{prefix}attention, forward and backward", "backend", "documents", "ms", "TFLOP/s")
    for row in result["attention"]:
        if "ms" in row:
            attention.add_row(row["backend"], row["documents"], f"{row['ms']:.2f}", f"{row['tflop_per_s']:.3g}")
        else:
            attention.add_row(row["backend"], row["documents"], "-", row["not_run"])
    kernels = _table(f"{prefix}kernels, forward and backward", "function", "plain ms", "liger ms", "plain / liger")
    for row in result["kernels"]:
        plain, liger = row.get("plain_ms"), row.get("liger_ms")
        ratio = f"{plain / liger:.2f}" if plain and liger else row.get("liger_not_run", "-").split(",")[0]
        kernels.add_row(row["function"], *("-" if ms is None else f"{ms:.2f}" for ms in (plain, liger)), ratio)
    titles = ("model", "T", "GPUs", "card", "tokens/s/GPU", "mfu", "mfu_causal", "GiB")
    steps = _table(f"{prefix}training steps", *titles)
    for row in result["steps"]:
        steps.add_section()
        steps.add_row(*_step_cells(row, result["card"]))
        for other in row["published"]:
            speed = "-" if other["tokens_per_s"] is None else f"{other['tokens_per_s']:,.0f}"
            place = (str(other["seq_len"]), str(other["devices"]), other["card"])
            steps.add_row(other["model"], *place, speed, f"{other['mfu']:.1%}", "-", "-", style="dim")
    return [attention, kernels, steps]


def _step_cells(row: Mapping[str, Any], card: str) -> list[str]:
    if "not_run" in row:
        last = row["not_run"].strip().splitlines()[-1]
        return [f"ours {row['size']}", "-", "-", card, f"not run: {last}", "-", "-", "-"]
    shares = ["-" if name not in row else f"{row[name]:.1%}" for name in ("mfu", "mfu_causal")]
    memory = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f}"
    place = [f"ours {row['size']}", str(row["seq_len"]), str(row["devices"]), card]
    return [*place, f"{row['tokens_per_s']:,.0f}", *shares, memory]


def _table(title: str, *columns: str) -> Table:
    shown = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number == 0 else "right")
    return shown


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run (default cuda)")
    made.add_argument("--size", nargs="+", default=["1.3b", "3b"], help="files of configs/model (default 1.3b 3b)")
    sizes = {
        "seq_len": (2048, "tokens per sample"),
        "micro_batch_size": (8, "samples per step and GPU"),
        "steps": (20, "measured steps"),
        "warm_up": (5, "steps before the measured ones"),
        "tokens": (16_384, "tokens for attention and kernels, a multiple of the sample length"),
        "repeats": (10, "calls of attention and kernels"),
    }
    add_sizes(made, sizes)
    made.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of pdpc train")
    made.add_argument("--peak-tflops", type=float, help="the card's dense bf16 peak, unless it is an A100 or A800")
    made.add_argument("--threads", type=size, help="CPU threads per rank")
    made.add_argument("--seed", type=int, default=0, help="seed of weights and tokens (default 0)")
    made.add_argument("--keep", action="store_true", help="write the result to the folder tracked by git")
    options = made.parse_args(arguments)
    if options.tokens % options.seq_len:
        made.error(f"--tokens {options.tokens} must be a multiple of --seq-len {options.seq_len}")
    return options


if __name__ == "__main__":
    main()
