"""Sentences for the reader: in what the arms differ but should not, and the seeds of an arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from train.evaluation.answers import OTHER_TASK_FILES
from train.report.arms import Arm
from train.report.fairness.differences import (
    DOUBT,
    LEAST_LOST,
    LOST,
    RATE,
    TOKENS_PER_STEP,
    UNFAIR,
    Difference,
    fact_differences,
    setting_differences,
    share_lost,
)
from train.report.fairness.facts import lost_steps
from train.report.records import Run

MUST_AGREE = {
    "tokens": "the tokens differ",
    "tokenizer": "the tokenizers differ: losses per token cannot be compared",
    "held-out text": "the held-out texts differ",
    "benchmark files": "the benchmarks' task files differ",
    "scores of the held-out text": "the scores differ: the low-PD and high-PD halves are not the same text",
}
"""Facts that must agree, by the names of FINGERPRINTS, with their own sentences."""
OWN_SENTENCE = (*MUST_AGREE, "parameters", "code", LOST)
OF_SEEDS = ("batch size", "steps planned", "sequence length", "changes accepted in mid-run", RATE, TOKENS_PER_STEP)
"""Facts in which the seeds of an arm must agree."""


def warnings(arms: Sequence[Arm], found: Sequence[Difference]) -> list[str]:
    """Return one sentence for each respect in which arms or seeds differ but should not; `found`: all differences."""
    runs = [run for arm in arms for run in arm.runs]
    result = []
    unexpected = more_than_the_order(found)
    if unexpected:
        result.append(
            f"The arms differ in more than the order: {', '.join(unexpected)}. "
            "In a fair comparison only the order differs; these may explain the differences below."
        )
    result += _lost(arms, found)
    for arm in arms:
        result += _unlike_seeds(arm)
    for difference in found:
        if difference.what in MUST_AGREE and difference.kind == UNFAIR:
            prints = ", ".join(dict.fromkeys(str(value) for value in difference.values.values()))
            result.append(f"The arms are not comparable: {MUST_AGREE[difference.what]} (fingerprints {prints}).")
    if "seed" not in unexpected:
        result += _other_seeds(arms)
    if len(values := _recorded(runs, "parameters")) > 1:
        result.append(f"The models differ in size ({', '.join(sorted(values))} parameters).")
    result += _machines(runs, found) + _unknown(runs, found)
    return result + _same_order(arms)


def more_than_the_order(found: Sequence[Difference]) -> list[str]:
    """Return the names of what differs, without what has a sentence of its own."""
    return [one.what for one in found if one.kind == UNFAIR and one.what not in OWN_SENTENCE]


def _lost(arms: Sequence[Arm], found: Sequence[Difference]) -> list[str]:
    """Return a sentence if guards skipped or rolled back more than a small share of an arm's steps."""
    shares = [share for arm in arms if (share := share_lost(arm.runs)) is not None]
    if not shares or max(shares) < LEAST_LOST:
        return []
    texts = [f"{run.name} {lost_steps(run)}" for arm in arms for run in arm.runs if run.lost and run.lost.steps]
    unequal = any(one.what == LOST and one.kind == UNFAIR for one in found)
    effect = (
        "At the same tokens read, the arms have learnt from different numbers of tokens, which may explain the "
        "differences below."
        if unequal
        else "The arms have learnt from fewer tokens than they have read."
    )
    return [f"Guards skipped or rolled back steps, which did not move the weights: {'; '.join(texts)}. {effect}"]


def _unlike_seeds(arm: Arm) -> list[str]:
    """Return sentences for what the runs of an arm differ in apart from the seed, and for repeated seeds."""
    result = []
    groups = {run.name: [run] for run in arm.runs}
    found = [*setting_differences(groups, free="seed"), *fact_differences(groups, {}, OF_SEEDS)]
    unexpected = [difference.what for difference in found if difference.kind == UNFAIR]
    if unexpected:
        result.append(
            f"The seeds of {arm.name} differ in more than the seed: {', '.join(unexpected)}. "
            "They are not repeats of the same run, so the interval does not measure seed-to-seed variation."
        )
    arranged = [found for run in arm.runs if (found := run.fact("arranged"))]
    if len({repr((found.get("preference"), found.get("twin"))) for found in arranged}) > 1:
        result.append(f"The seeds of {arm.name} differ in more than the seed: their orders use different preferences.")
    values = {run.name: run.stages[-1].get("val/loss") for run in arm.runs if run.stages}
    copies = [name for name, value in values.items() if value is not None and list(values.values()).count(value) > 1]
    if copies:
        result.append(f"{' and '.join(copies)} end with the same held-out loss to the last digit: copies of one run?")
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


def _machines(runs: Sequence[Run], found: Sequence[Difference]) -> list[str]:
    """Return sentences for other machines and other software."""
    result = []
    if len(values := _recorded(runs, "world_size")) > 1:
        result.append(
            f"The arms ran on different numbers of processes ({', '.join(sorted(values))}): "
            "their throughput is not comparable."
        )
    code = next((one.values for one in found if one.what == "code" and one.kind == UNFAIR), {})
    if code:
        listed = "; ".join(f"{arm} {value}" for arm, value in code.items())
        result.append(
            f"The arms ran with different source code of PDPC (digests {listed}): see what changed between them."
        )
    other = [one.what.removeprefix("version of ") for one in found if one.what.startswith("version of ")]
    if other:
        result.append(f"The arms ran with different versions of {', '.join(other)}.")
    return result


def _unknown(runs: Sequence[Run], found: Sequence[Difference]) -> list[str]:
    """Return sentences for what is not known, and for records that contradict each other."""
    result = []
    doubtful = [one.what for one in found if one.kind == DOUBT]
    if doubtful:
        result.append(f"Not known for every arm, and so not compared: {', '.join(doubtful)}.")
    unknown = [run.name for run in runs if not run.config or not run.info]
    if unknown:
        result.append(f"The settings of {', '.join(unknown)} are unknown: config.json or run.json is missing.")
    for run in runs:
        again = [str(record.get("stage", "?")) for record in run.stages if record.get(OTHER_TASK_FILES)]
        if again:
            result.append(
                f"Stage {', '.join(again)} of {run.name} was evaluated again with other task files than the run began "
                "with: its benchmarks are not comparable."
            )
        if run.contradictions:
            result.append(
                f"config.json of {run.name} contradicts its run.json, which has a checksum: "
                f"{'; '.join(run.contradictions)}. The values of run.json are compared."
            )
        attempts = run.fact("lives") or []
        if attempts and int(attempts[0].get("step", 0)) > 0:
            result.append(
                f"The attempts of {run.name} are on record from step {attempts[0]['step']:,} on: settings that changed "
                "before are unknown (run.json was removed)."
            )
    partly = [run.name for run in runs if run.partly and not run.from_wandb]
    if partly:
        result.append(f"Only the settings that bind a run are known for {', '.join(partly)}: config.json is missing.")
    stored = [run.name for run in runs if run.from_wandb]
    if stored:
        result.append(f"For {', '.join(stored)}, only the settings stored in W&B are compared.")
    return result


def _same_order(arms: Sequence[Arm]) -> list[str]:
    """Return sentences for orders that are the same but should not be."""
    orders = {arm.name: [run.fact("fingerprints", "order") for run in arm.runs] for arm in arms}
    every = [order for found in orders.values() for order in found]
    if len(arms) > 1 and all(every) and len(set(every)) == 1:
        return ["All arms used the same order: there is no curriculum to compare."]
    base = arms[0].name
    same = [arm.name for arm in arms[1:] if set(orders[arm.name]) & set(orders[base]) - {None}]
    result = [f"{', '.join(same)} used an order of {base}: there is no curriculum to compare."] if same else []
    shared = [arm.name for arm in arms if len(arm.runs) > 1 and len(_recorded(arm.runs, "fingerprints", "order")) == 1]
    if shared:
        result.append(
            f"The seeds of {', '.join(shared)} share one order: the interval covers the initial weights, "
            "but not the shuffling of the order."
        )
    return result


def _recorded(runs: Sequence[Run], *keys: str) -> set[str]:
    """Return the distinct values at `keys` in run.json; runs without one are left out."""
    values: list[Any] = [run.fact(*keys) for run in runs]
    return {str(value) for value in values if value is not None}
