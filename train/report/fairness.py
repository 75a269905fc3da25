"""Is the comparison fair? Arms may differ only in the order of the data, and the seeds of an arm only in the seed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.report.arms import Arm
from train.report.records import Run

ABSENT = "(absent)"
EXPECTED = re.compile(r"arm|output|data\.order|accept_scores|tracker\..*")
"""Keys in which two arms of a comparison are expected to differ: the order, the acceptance of its scores, and where the
run is stored and shown."""
ROUNDING = re.compile(r"processes|threads|log_every|verify_mb|checkpoints\..*|micro_batch_size|zero\..*")
"""Keys for how the work is split and recorded: they change a loss only by rounding."""
MUST_AGREE = {
    "tokens": "the tokens differ",
    "tokenizer": "the tokenizers differ: losses per token cannot be compared",
    "validation": "the held-out texts differ",
    "benchmarks": "the benchmarks' task files differ",
    "scores": "the scores differ: the low-PD and high-PD halves are not the same text",
}


@dataclass(frozen=True)
class Difference:
    """A configuration key in which the arms differ."""

    key: str
    values: dict[str, Any]
    """Arm name to value; ABSENT if the arm has none."""
    kind: str
    """`order` (expected to differ), `rounding` (changes losses only by rounding) or `unfair`."""


def differences(arms: Sequence[Arm]) -> list[Difference]:
    """Return every configuration key in which the arms (first seed of each) differ, unexpected ones first."""
    several = all(len(arm.runs) > 1 for arm in arms)
    return _differences({arm.name: arm.runs[0] for arm in arms}, free="seed" if several else "")


def warnings(arms: Sequence[Arm]) -> list[str]:
    """Return one sentence for each respect in which arms or seeds differ but should not."""
    runs = [run for arm in arms for run in arm.runs]
    result = []
    unexpected = [difference.key for difference in differences(arms) if difference.kind == "unfair"]
    if unexpected:
        result.append(
            f"The arms differ in more than the order: {', '.join(unexpected)}. "
            "In a fair comparison only the order differs; these settings may explain the differences below."
        )
    for arm in arms:
        result += _unlike_seeds(arm)
    for name, sentence in MUST_AGREE.items():
        if len(values := _recorded(runs, "fingerprints", name)) > 1:
            result.append(f"The arms are not comparable: {sentence} (fingerprints {', '.join(sorted(values))}).")
    if "seed" not in unexpected:
        result += _other_seeds(arms)
    if len(values := _recorded(runs, "parameters")) > 1:
        result.append(f"The models differ in size ({', '.join(sorted(values))} parameters).")
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
        result.append(f"The settings of {', '.join(unknown)} are unknown: config.json or run.json is missing.")
    partly = [run.name for run in runs if run.from_wandb]
    if partly:
        result.append(f"For {', '.join(partly)}, only the settings stored in W&B are compared.")
    return result + _same_order(arms)


def _differences(runs: Mapping[str, Run], free: str = "") -> list[Difference]:
    """Return every key in which the runs differ; `free` is a key in which they may differ."""
    known = {name: run for name, run in runs.items() if run.config}
    flat = {name: dict(_leaves(run.config)) for name, run in known.items()}
    if len(flat) < 2:
        return []
    found = []
    for key in sorted({key for leaves in flat.values() for key in leaves}):
        comparable = {name: leaves for name, leaves in flat.items() if key in leaves or not known[name].from_wandb}
        values = {name: leaves.get(key, ABSENT) for name, leaves in comparable.items()}
        if len({_text(value) for value in values.values()}) > 1:
            found.append(Difference(key, values, "order" if key == free else _kind(key, list(runs.values()))))
    kinds = ("unfair", "rounding", "order")
    return sorted(found, key=lambda difference: (kinds.index(difference.kind), difference.key))


def _unlike_seeds(arm: Arm) -> list[str]:
    """Return sentences for what the runs of an arm differ in apart from the seed, and for repeated seeds."""
    result = []
    found = _differences({run.name: run for run in arm.runs}, free="seed")
    unexpected = [difference.key for difference in found if difference.kind == "unfair"]
    if unexpected:
        result.append(
            f"The seeds of {arm.name} differ in more than the seed: {', '.join(unexpected)}. "
            "They are not repeats of the same run, so the interval does not measure seed-to-seed variation."
        )
    if len({_text(run.fact("arranged", "preference")) for run in arm.runs if run.fact("arranged")}) > 1:
        result.append(f"The seeds of {arm.name} differ in more than the seed: their orders use different preferences.")
    seeds = [str(seed) for seed in arm.seeds]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        problem = "unknown" if twice == ["None"] else f"given more than once ({', '.join(twice)})"
        result.append(f"Seeds of {arm.name} are {problem}: its runs are not independent and cannot be paired by seed.")
    return result


def _other_seeds(arms: Sequence[Arm]) -> list[str]:
    """Return a sentence if the arms do not have the same seeds."""
    seeds = {arm.name: sorted(str(seed) for seed in arm.seeds if seed is not None) for arm in arms}
    if len({tuple(known) for known in seeds.values() if known}) < 2:
        return []
    if all(len(arm.runs) == 1 for arm in arms):
        values = sorted({seed for known in seeds.values() for seed in known})
        return [f"The arms have different seeds ({', '.join(values)}): part of any difference is due to the seed."]
    base = arms[0].name
    other = [arm.name for arm in arms if seeds[arm.name] != seeds[base]]
    listed = "; ".join(f"{name} {', '.join(seeds[name]) or 'unknown'}" for name in (base, *other))
    return [f"Not all arms have the seeds of {base} ({listed}): {', '.join(other)} is compared without seed pairing."]


def _same_order(arms: Sequence[Arm]) -> list[str]:
    """Return sentences for orders that are the same but should not be."""
    runs = [run for arm in arms for run in arm.runs]
    orders = [run.fact("fingerprints", "order") for run in runs]
    if len(arms) > 1 and all(orders) and len(set(orders)) == 1:
        return ["All arms used the same order: there is no curriculum to compare."]
    shared = [arm.name for arm in arms if len(arm.runs) > 1 and len(_recorded(arm.runs, "fingerprints", "order")) == 1]
    if shared:
        return [
            f"The seeds of {', '.join(shared)} share one order: the interval covers the initial weights, "
            "but not the shuffling of the order."
        ]
    return []


def _recorded(runs: Sequence[Run], *keys: str) -> set[str]:
    """Return the distinct values at `keys` in run.json; runs without one are left out."""
    values = (run.fact(*keys) for run in runs)
    return {str(value) for value in values if value is not None}


def _kind(key: str, runs: Sequence[Run]) -> str:
    if EXPECTED.fullmatch(key) or _same_artifact(key, runs):
        return "order"
    return "rounding" if ROUNDING.fullmatch(key) else "unfair"


def _same_artifact(key: str, runs: Sequence[Run]) -> bool:
    """Tell whether `key` is a path to tokens or scores whose fingerprints agree: such paths may differ."""
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
