"""Is the comparison fair? Arms may differ in the order of the data and in nothing else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train.report.records import Run

ABSENT = "(absent)"
EXPECTED = re.compile(r"arm|output|data\.order|tracker\..*")
"""Keys that two arms of one comparison are expected to differ in: which order, where the run is kept and shown."""
ROUNDING = re.compile(r"processes|threads|log_every|verify_mb|checkpoints\..*|micro_batch_size|zero\..*")
"""Keys that say how the work is split and recorded: they move a loss by rounding alone."""
MUST_AGREE = {
    "tokens": "the tokens differ",
    "tokenizer": "the tokenizers differ: a loss a token cannot be compared",
    "validation": "the held-out texts differ",
    "benchmarks": "the benchmarks' task files differ",
    "scores": "the scores differ: the low-PD and high-PD halves are not the same text",
}


@dataclass(frozen=True)
class Difference:
    """One configuration key in which the arms differ."""

    key: str
    values: dict[str, Any]
    """Arm name to its value; ABSENT where it has none."""
    kind: str
    """`order` (expected to differ), `rounding` (moves losses by rounding alone) or `unfair`."""


def differences(runs: list[Run]) -> list[Difference]:
    """Every configuration key in which the arms differ, the unexpected ones first."""
    flat = {run.name: dict(_leaves(run.config)) for run in runs if run.config}
    if len(flat) < 2:
        return []
    found = []
    for key in sorted({key for leaves in flat.values() for key in leaves}):
        values = {name: leaves.get(key, ABSENT) for name, leaves in flat.items()}
        if len({_text(value) for value in values.values()}) > 1:
            found.append(Difference(key, values, _kind(key, runs)))
    return sorted(
        found, key=lambda difference: (-("order", "rounding", "unfair").index(difference.kind), difference.key)
    )


def warnings(runs: list[Run]) -> list[str]:
    """One sentence for each way in which the arms are not alike though they should be."""
    result = []
    unexpected = [difference.key for difference in differences(runs) if difference.kind == "unfair"]
    if unexpected:
        result.append(
            f"The arms differ in more than the order: {', '.join(unexpected)}. "
            "A fair comparison differs in the order only; a gain or loss below may come from these settings."
        )
    for name, sentence in MUST_AGREE.items():
        if len(values := _recorded(runs, "fingerprints", name)) > 1:
            result.append(f"The arms are not comparable, {sentence} (fingerprints {', '.join(sorted(values))}).")
    if "seed" not in unexpected and len(values := _recorded(runs, "seed")) > 1:
        result.append(
            f"The arms have different seeds ({', '.join(sorted(values))}): part of a difference is the seed's."
        )
    if len(values := _recorded(runs, "parameters")) > 1:
        result.append(f"The arms' models differ in size ({', '.join(sorted(values))} parameters).")
    if len(values := _recorded(runs, "world_size")) > 1:
        result.append(
            f"The arms ran on different numbers of processes ({', '.join(sorted(values))}): "
            "their throughput is not comparable."
        )
    names = sorted({name for run in runs for name in (run.fact("versions") or {})})
    other = [name for name in names if len(_recorded(runs, "versions", name)) > 1]
    if other:
        result.append(f"The arms ran with different versions of {', '.join(other)}.")
    unknown = [run.name for run in runs if not run.config or not run.info]
    if unknown:
        result.append(
            f"Whether {', '.join(unknown)} had the same settings is not known: config.json or run.json is missing."
        )
    orders = _recorded(runs, "fingerprints", "order")
    if len(runs) > 1 and len(orders) == 1 and sum(bool(run.fact("fingerprints", "order")) for run in runs) == len(runs):
        result.append("All arms used the same order: there is no curriculum to compare.")
    return result


def _recorded(runs: list[Run], *keys: str) -> set[str]:
    """The different values that run.json holds at `keys`; arms without one are left out."""
    values = (run.fact(*keys) for run in runs)
    return {str(value) for value in values if value is not None}


def _kind(key: str, runs: list[Run]) -> str:
    if EXPECTED.fullmatch(key) or _same_artifact(key, runs):
        return "order"
    return "rounding" if ROUNDING.fullmatch(key) else "unfair"


def _same_artifact(key: str, runs: list[Run]) -> bool:
    """A path to tokens or scores may differ when the fingerprints say that the same thing lies there."""
    name = next((part for part in key.split(".") if part in MUST_AGREE), None)
    if name is None:
        return False
    values = [run.fact("fingerprints", name) for run in runs]
    return None not in values and len(set(values)) == 1


def _leaves(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    result = []
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            result += _leaves(inner, f"{prefix}{key}.")
        else:
            result.append((f"{prefix}{key}", inner))
    return result


def _text(value: Any) -> str:
    return repr(value)
