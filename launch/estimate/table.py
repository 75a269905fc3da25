"""An estimate as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from curriculum.work.console import PlainConsole, say
from launch.estimate.memory import KINDS


def show(found: Mapping[str, Any]) -> None:
    """Print an estimate."""
    console = PlainConsole()
    data, where = found["data"], found["hardware"]
    origin = data["from"]
    say(
        console,
        f"{where['nodes']} x {where['gpus_per_node']} GPUs: {where['peak_tflops']:g} TFLOP/s, "
        f"{where['memory_gib']:g} GiB of which {where['reserve_gib']:g} reserved (given)",
    )
    say(
        console,
        ", ".join(
            f"{name} {data[key]:,.0f} ({origin[key]})"
            for key, name in (
                ("vocab_size", "vocabulary"),
                ("seq_len", "tokens per sample"),
                ("batch_size", "samples per batch"),
                ("train_tokens", "tokens per arm"),
                ("reference_tokens", "per reference"),
                ("stages", "stages"),
            )
        ),
    )
    parameters, flops = found["parameters"], found["flops_per_token"]
    body = ", ".join(f"{name} {parameters[name]:,}" for name in ("embedding", "attention", "ffn", "norm", "head"))
    say(console, f"parameters (formula): {parameters['total']:,}: {body}")
    say(
        console,
        f"FLOPs per token (formula): {flops['full_attention']:,} (mfu), {flops['causal_attention']:,} with attention "
        "halved for the causal mask (mfu_causal)",
    )
    _memory(console, found)
    _speed(console, found)
    _checkpoints(console, found["checkpoints"])
    _recipe(console, found["recipe"])
    measured = found["measured"]
    if measured is not None:
        say(
            console,
            f"measured in {measured['run']} on {measured['ranks']} x {measured['device']}: "
            f"{measured['tokens_per_s_device']:,.0f} tokens/s per GPU, "
            f"{measured['speed_over_estimate']:.3f} of the estimate; "
            f"peak {measured['bytes_over_estimate'] / 1e9:+.2f} GB",
        )
    for note in found["notes"]:
        say(console, f"note: {note}")


def _memory(console: PlainConsole, found: Mapping[str, Any]) -> None:
    memory, run = found["memory"], found["run"]
    usable = memory["usable_bytes"] / 1e9
    shown = Table(title=f"Memory of a rank, GB ({memory['from']}); {usable:.1f} are usable", title_justify="left")
    for column in ("ZeRO", "micro-batch", *KINDS, "peak", "at", ""):
        shown.add_column(column, justify="left" if column in ("at", "") else "right")
    for stage, rows in memory["by_stage"].items():
        shown.add_section()
        for size, need in rows["micro_batches"].items():
            total = need["total"] + memory["correction_bytes"]
            fits = total <= memory["usable_bytes"]
            remark = "largest that fits" if rows["largest_micro_batch"] == int(size) else "" if fits else "does not fit"
            if (stage, size) == (str(run["zero_stage"]), str(run["micro_batch_size"])):
                remark = f"this run{', ' if remark else ''}{remark}"
            cells = [f"{need[kind] / 1e9:.2f}" for kind in KINDS]
            shown.add_row(stage, size, *cells, f"{total / 1e9:.2f}", need["moment"], remark)
    console.print(shown)


def _speed(console: PlainConsole, found: Mapping[str, Any]) -> None:
    speed, run = found["speed"], found["run"]
    error = speed["error_on_rows_kept_out"]
    say(
        console,
        f"speed ({speed['from']}): {speed['step_s']:.2f} s per step of {run['accumulation']} micro-batches, "
        f"{speed['tokens_per_s']:,.0f} tokens/s, {speed['tokens_per_s_device']:,.0f} per GPU, mfu {speed['mfu']:.1%}, "
        f"mfu_causal {speed['mfu_causal']:.1%}",
    )
    purposes = ", ".join(f"{name} {seconds:.2f}" for name, seconds in speed["seconds_by_purpose"].items())
    say(console, f"seconds of a step: {purposes}")
    say(
        console,
        f"error on published A100 rows kept out of the fit: median {error['median']:.1%}, 90th percentile "
        f"{error['p90']:.1%}; attention over the whole sample is assumed",
    )


def _checkpoints(console: PlainConsole, saved: Mapping[str, Any]) -> None:
    setting = "only at stage ends" if saved["save_every"] is None else f"every {saved['save_every']:,} steps"
    say(
        console,
        f"checkpoints ({saved['from']}): {saved['size'] / 1e9:.1f} GB each, {saved['stall_s']:.1f} s to write; "
        f"MTBF {saved['mtbf_s'] / 3600:,.0f} h; best interval {saved['young_s'] / 60:.0f} min (Young), "
        f"{saved['daly_s'] / 60:.0f} min (Daly): checkpoints.save_every={saved['every_steps']}; set: {setting}, "
        f"{saved['written']:,} written and {saved['kept']} kept ({saved['disk_bytes'] / 1e9:,.0f} GB) per arm",
    )


def _recipe(console: PlainConsole, recipe: Mapping[str, Any]) -> None:
    shown = Table(title=f"Recipe ({recipe['from']})", title_justify="left")
    for column in ("part", "tokens", "hours", "GPU hours", ""):
        shown.add_column(column, justify="left" if column in ("part", "") else "right")
    for part in recipe["parts"]:
        tokens = f"{part['tokens']:.3g}" if part["tokens"] else "-"
        shown.add_row(part["name"], tokens, f"{part['hours']:,.2f}", f"{part['gpu_hours']:,.1f}", part["what"])
    shown.add_section()
    shown.add_row("all", "", f"{recipe['hours']:,.2f}", f"{recipe['gpu_hours']:,.1f}", "")
    console.print(shown)
