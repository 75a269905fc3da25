"""What differs between the arms: settings and facts, with the values by arm and what each may explain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curriculum.order.order import Order
from train.report.arms import Arm
from train.report.fairness.facts import FINGERPRINTS, facts_of, lost_steps
from train.report.measures import short_tokens
from train.report.records import Run, finite

Groups = Mapping[str, Sequence[Run]]
"""Runs by arm, or by run when the seeds of an arm are compared."""

ABSENT, UNKNOWN = "(absent)", "(unknown)"
ORDER, UNFAIR, ROUNDING, NOTHING, DOUBT = "order", "unfair", "rounding", "nothing", "unknown"
"""Kinds of differences: what is compared; what may explain a difference of the results; what changes their last digits;
what changes nothing; and what is known of some arms only."""
KINDS = (UNFAIR, DOUBT, ORDER, ROUNDING, NOTHING)

KEYS: tuple[tuple[str, str, str], ...] = (
    (r"arm|output|data\.order|accept_scores", ORDER, "what is compared"),
    (
        r"tracker\..*|log_every|verify_mb|grace_s|hang_timeout_s|slow_timeout_s|straggler\..*|throughput\..*|accept_change"
        r"|checkpoints\..*|guards\.stop_after|averaging\..*|benchmarks\.(offline|task_timeout_s|task_code)"
        r"|zero\.(nvme_path|nvme_requests|pin_memory)",
        NOTHING,
        "nothing: the weights and what is asked of them are the same",
    ),
    (
        r"processes|threads|micro_batch_size|zero\.(stage|overlap_comm|bucket_mb|offload_optimizer|offload_param)"
        r"|zero\.sub_group_size|execution\..*|model\.attention|(heldout|benchmarks)\.batch_size",
        ROUNDING,
        "last digits: the same sums in another order",
    ),
    (r"init|init_.*", NOTHING, "what the initial weights say"),
    (r"branch_of", NOTHING, "what the order says of its shared beginning"),
    (r"optimizer\..*|schedule\..*", UNFAIR, "how much is learnt from each batch; often more than an order changes"),
    (r"model\..*", UNFAIR, "another model"),
    (r"heldout\..*|benchmarks\..*", UNFAIR, "other questions: the values do not measure the same"),
    (r"precision|zero\.reduce_in", UNFAIR, "rounding in every update, which adds up"),
    (r"guards\..*", UNFAIR, "which steps move the weights"),
    (r"seed", UNFAIR, "other initial weights: the variation between seeds"),
    (r"objective", UNFAIR, "something else is minimised"),
    (r".*", UNFAIR, "any difference below"),
)
"""Settings: pattern of the key, kind, and what a difference may explain. The first match counts."""

FACTS: dict[str, tuple[str, str]] = {
    "batch size": (UNFAIR, "a smaller batch makes more updates from the same tokens, with noisier gradients"),
    "steps planned": (UNFAIR, "more updates, or a longer run"),
    "samples": (UNFAIR, "other data or more of it, not only another order; another length moves the learning rate"),
    "which samples": (UNFAIR, "other data, not only its order"),
    "sequence length": (UNFAIR, "other contexts and samples"),
    "parameters": (UNFAIR, "another model"),
    "changes accepted in mid-run": (UNFAIR, "a part of the run had other settings than config.json says"),
    "device": (ROUNDING, "last digits: other kernels; and speed"),
    "processes": (ROUNDING, "last digits: the same sums in another order; and speed"),
    "code": (UNFAIR, "whatever changed in the source of PDPC"),
    "benchmark harness": (UNFAIR, "other versions of lm_eval may ask and score differently"),
    "preference": (ORDER, "what is compared"),
    "scores behind the order": (ORDER, "what is compared: each order follows its own scores"),
    "order changed in mid-run": (ORDER, "what is compared: the rest of the run follows another plan"),
    **dict.fromkeys(FINGERPRINTS.values(), (UNFAIR, "the values do not measure the same")),
    "tokens": (UNFAIR, "other data"),
}
"""Facts: kind, and what a difference may explain."""
ESSENTIAL = ("batch size", "samples", "which samples", "sequence length", "tokens", "tokenizer", "held-out text")
"""Facts without which two arms cannot be called comparable: said if no run records them."""
OPTIONAL = ("benchmark files", "scores of the held-out text", "initial weights")
"""Facts of runs that have such an input: an arm without one has none of its measures either."""
VERSION = (ROUNDING, "last digits, or more if a default changed")
TOKENS_PER_STEP = "tokens per step"
RATE = "learning rate"
LOST = "steps without an update"

PADDING = 0.05
"""Relative difference of the tokens per step up to which batches count as equal: padding differs between steps."""
SAME_RATE = 0.03
"""The same for learning rates, relative to the peak: between the steps at which they are logged, a line is drawn."""
LEAST_LOST = 0.005
"""Share of the steps without an update that is not worth a warning: that of tokens that count as equal."""
PARTS = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Where learning rates are compared, as parts of the tokens that all arms have read."""


@dataclass(frozen=True)
class Difference:
    """A setting or fact in which the arms differ."""

    what: str
    """The dotted key of a setting, or the name of a fact."""
    values: dict[str, Any]
    """Arm name to value; ABSENT if the arm has none, UNKNOWN if it is not known."""
    kind: str
    """One of KINDS."""
    explains: str
    """What it may explain."""
    setting: bool = False
    """Is `what` the key of a setting?"""


def differences(arms: Sequence[Arm], orders: Mapping[str, Order] | None = None) -> list[Difference]:
    """Return everything in which the arms differ, what is unfair first. Settings are those of an arm's first seed.

    `orders`: opened orders by run, used for runs of an older PDPC, which do not record what their order holds.
    """
    several = all(len(arm.runs) > 1 for arm in arms)
    first = {arm.name: arm.runs[:1] for arm in arms}
    groups = {arm.name: arm.runs for arm in arms}
    free = "seed" if several else ""
    found = [*fact_differences(groups, orders or {}), *setting_differences(first, free), *_lost(groups)]
    return sorted(found, key=lambda difference: KINDS.index(difference.kind))


def setting_differences(groups: Groups, free: str = "") -> Iterator[Difference]:
    """Yield every setting in which the first runs differ; `free` is a key in which they may differ."""
    known = {name: runs[0] for name, runs in groups.items() if runs[0].config}
    flat = {name: dict(leaves(run.config)) for name, run in known.items()}
    if len(flat) < 2:
        return
    for key in sorted({key for values in flat.values() for key in values}):
        comparable = {name: values for name, values in flat.items() if key in values or not known[name].partly}
        values = {name: found.get(key, ABSENT) for name, found in comparable.items()}
        if len({repr(value) for value in values.values()}) > 1:
            kind, explains = (ORDER, "seeds differ") if key == free else _of_key(key, list(known.values()))
            yield Difference(key, values, kind, explains, setting=True)


def fact_differences(groups: Groups, orders: Mapping[str, Order], names: Sequence[str] = ()) -> Iterator[Difference]:
    """Yield every fact (or only those in `names`) that differs, or that is known of some arms only."""
    found = {arm: [facts_of(run, orders.get(run.name)) for run in runs] for arm, runs in groups.items()}
    unlike = set()
    recorded = [name for facts in found.values() for one in facts for name in one]
    for name in names or dict.fromkeys([*recorded, *ESSENTIAL]):
        texts = {arm: list(dict.fromkeys(one.get(name, UNKNOWN) for one in facts)) for arm, facts in found.items()}
        known = {tuple(sorted(values)) for values in texts.values() if UNKNOWN not in values}
        values = {arm: " or ".join(values) for arm, values in texts.items()}
        kind, explains = FACTS.get(name, VERSION)
        if len(known) > 1:
            unlike.add(name)
            yield Difference(name, values, kind, explains)
        elif any(UNKNOWN in one for one in texts.values()) and (
            name in ESSENTIAL or (known and kind == UNFAIR and name not in OPTIONAL)
        ):
            yield Difference(name, values, DOUBT, f"not known for every arm; {explains}")
    if (not names or TOKENS_PER_STEP in names) and not unlike & {"batch size", "sequence length"}:
        yield from _batches(groups)
    if not names or RATE in names:
        yield from _rates(groups)


def leaves(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of nested settings, by dotted key."""
    result = []
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            result += leaves(inner, f"{prefix}{key}.")
        else:
            result.append((f"{prefix}{key}", inner))
    return result


def _of_key(key: str, runs: Sequence[Run]) -> tuple[str, str]:
    """Return the kind of a difference in a setting, and what it may explain."""
    if _same_artifact(key, runs):
        return NOTHING, "nothing: the same content at another path"
    settings = [dict(leaves(run.config)) for run in runs]
    if key.startswith("checkpoints.") and any(one.get("guards.spike") == "rollback" for one in settings):
        return UNFAIR, "how many steps a rollback undoes"
    if key == "processes" and any(one.get("zero.reduce_in") == "bf16" for one in settings):
        return UNFAIR, "gradients are summed in bf16: the error grows with the number of processes"
    return next((kind, explains) for pattern, kind, explains in KEYS if re.fullmatch(pattern, key))


def _same_artifact(key: str, runs: Sequence[Run]) -> bool:
    """Tell whether `key` is a path to inputs whose fingerprints agree: such paths may differ."""
    name = {"data.tokens": "tokens", "data.scores": "scores", "benchmarks.task_paths": "benchmarks"}.get(key)
    values = [run.fact("fingerprints", name) for run in runs] if name else []
    return bool(values) and None not in values and len(set(values)) == 1


def _batches(groups: Groups) -> Iterator[Difference]:
    """Yield the tokens per step if they differ by more than padding; records show them for every run."""
    found: dict[str, list[float]] = {}
    for arm, runs in groups.items():
        last = [max(records, key=lambda record: record["step"]) for run in runs if (records := _with_steps(run))]
        if last:
            found[arm] = [record["tokens"] / record["step"] for record in last]
    every = [value for values in found.values() for value in values]
    if every and max(every) > (1 + PADDING) * min(every):
        values = {arm: f"{sum(values) / len(values):,.0f}" for arm, values in found.items()}
        yield Difference(TOKENS_PER_STEP, values, *FACTS["batch size"])


def _lost(groups: Groups) -> Iterator[Difference]:
    """Yield the steps that guards skipped or rolled back, if there are any; unfair if the arms differ in them."""
    runs = [run for group in groups.values() for run in group]
    if not any(run.lost is None or run.lost.steps for run in runs):
        return
    texts = {arm: [lost_steps(run) or UNKNOWN for run in group] for arm, group in groups.items()}
    values = {arm: " or ".join(dict.fromkeys(found)) for arm, found in texts.items()}
    shares = [share for group in groups.values() if (share := share_lost(group)) is not None]
    if shares and max(shares) - min(shares) > LEAST_LOST:
        yield Difference(LOST, values, UNFAIR, "fewer updates, and fewer tokens learnt from, at the same tokens read")
    elif len(shares) < len(groups):
        yield Difference(LOST, values, DOUBT, "not known for every arm; fewer updates at the same tokens read")
    elif any(shares):
        yield Difference(
            LOST, values, ROUNDING, f"little: the arms differ by less than {100 * LEAST_LOST:g}% of the steps"
        )


def share_lost(runs: Sequence[Run]) -> float | None:
    """Return the largest share of a run's steps that moved no weights in the end; None if unknown."""
    shares = [run.lost.steps / max(1, run.steps) for run in runs if run.lost is not None]
    return max(shares) if len(shares) == len(runs) else None


def _with_steps(run: Run) -> list[Any]:
    return [record for record in (*run.train, *run.stages) if record["step"]]


def _rates(groups: Groups) -> Iterator[Difference]:
    """Yield the learning rates over tokens if they differ somewhere up to the tokens that all arms have read."""
    curves: dict[str, list[tuple[list[float], list[float]]]] = {}
    for arm, runs in groups.items():
        for run in runs:
            rows = [(float(record["tokens"]), rate) for record in run.train
                    if (rate := finite(record, "optim/lr")) is not None]  # fmt: skip
            if len(rows) > 1:
                curves.setdefault(arm, []).append(([at for at, _ in rows], [rate for _, rate in rows]))
    every = [curve for found in curves.values() for curve in found]
    if len(curves) < 2:
        return
    start, end = max(at[0] for at, _ in every), min(at[-1] for at, _ in every)
    logged = np.array([at for at in min((at for at, _ in every), key=len) if start <= at <= end])
    if not len(logged):
        return
    grid = np.unique([logged[np.abs(logged - part * end).argmin()] for part in PARTS])
    tables = {arm: np.array([np.interp(grid, *curve) for curve in found]) for arm, found in curves.items()}
    together = np.concatenate(list(tables.values()))
    if np.ptp(together, axis=0).max() > SAME_RATE * together.max():
        values = {arm: ", ".join(f"{rate:.2g}" for rate in table.mean(axis=0)) for arm, table in tables.items()}
        where = ", ".join(short_tokens(at) for at in grid)
        yield Difference(RATE, values, UNFAIR, f"another rate at the same tokens (here at {where} tokens)")
