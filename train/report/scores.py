"""What was found about the scores behind the arms, and arms that have learnt nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curriculum.scores.baseline import Baselines, baselines_of
from curriculum.scores.findings import FINDINGS, joined, of_order, of_scores
from curriculum.tokens.tokens import Tokens
from train.report.arms import Arm
from train.report.material import Material
from train.report.records import Run, finite


def score_warnings(runs: Sequence[Run], material: Material) -> list[str]:
    """Return what `pdpc score` found, unusable scores first: recorded in run.json, in the orders and in the scores.

    A last sentence names the runs whose orders follow scores about which nothing is known.
    """
    found = [of_order(run.info) for run in runs if isinstance(run.fact(FINDINGS), dict)]
    found += [of_order(order.manifest.facts) for order in material.orders.values()]
    if material.scores is not None:
        found.append(of_scores(material.scores.manifest.facts))
    whole = joined(found)
    result = [
        f"The scores are unusable, so the order is not the curriculum it claims to be: {text}."
        for text in whole.unusable
    ]
    result += [f"About the scores: {text}." for text in whole.others]
    silent = [run.name for run in runs if _unheard(run, material)]
    if silent:
        result.append(
            f"What pdpc score found about the scores behind {', '.join(silent)} is unknown: it is not recorded in the "
            "run, and neither its order nor its scores could be opened."
        )
    return result


def _unheard(run: Run, material: Material) -> bool:
    """Tell whether a run's order follows scores whose findings are recorded nowhere that can be read."""
    behind = run.fact("arranged", "inputs", "scores")
    opened = material.scores is not None and material.scores.fingerprint == behind
    return bool(behind) and run.fact(FINDINGS) is None and run.name not in material.orders and not opened


def untrained_arms(arms: Sequence[Arm], material: Material) -> tuple[list[str], list[str]]:
    """Return a sentence for each arm that ends no better than a model that has learnt nothing, and notes.

    The notes name the arms whose held-out text cannot be read: they are compared with guessing, but not with token
    frequencies.
    """
    text = _heldout_text(material)
    result: list[str] = []
    problems: dict[str, list[str]] = {}
    for arm in arms:
        run = arm.runs[0]
        losses = [loss for one in arm.runs if one.stages and (loss := finite(one.stages[-1], "val/loss")) is not None]
        if not losses:
            continue
        baselines, problem = _baselines(run, text)
        if problem:
            problems.setdefault(problem, []).append(arm.name)
        if baselines is None or not (shortfall := baselines.shortfall(sum(losses) / len(losses))):
            continue
        rate = (run.config.get("optimizer") or {}).get("lr")
        how = f"{run.stages[-1]['step']:,} steps" + (f" at a learning rate of {rate:g}" if rate else "")
        result.append(
            f"{arm.name} is {shortfall} on held-out text after {how}: it has learnt next to nothing yet, and its "
            "differences say nothing about the order."
        )
    return result, [f"{', '.join(names)}: {problem}" for problem, names in problems.items()]


@dataclass(frozen=True)
class HeldoutText:
    """The held-out text of the arms' TOKENS, or why it cannot be read."""

    fingerprint: str = ""
    baselines: Baselines | None = None
    problem: str = ""


def _heldout_text(material: Material) -> HeldoutText:
    if material.tokens is None:
        why = material.missing.get("tokens", "The tokens are unknown").rstrip(".")
        return HeldoutText(problem=why[:1].lower() + why[1:])
    try:
        validation = Tokens.open(Path(material.tokens.folder), "validation")
        if not len(validation):
            return HeldoutText(problem=f"{material.tokens.folder} has no held-out text")
        return HeldoutText(validation.fingerprint, baselines_of(validation))
    except (ValueError, OSError) as error:
        return HeldoutText(problem=f"the held-out text of {material.tokens.folder} cannot be read ({error})")


def _baselines(run: Run, text: HeldoutText) -> tuple[Baselines | None, str]:
    """Return the baselines of a run's held-out text; if it cannot be read, the uniform one only, and a note."""
    recorded, problem = run.fact("fingerprints", "validation"), text.problem
    if text.baselines is not None:
        if recorded in (None, text.fingerprint):
            return text.baselines, ""
        problem = f"its held-out text is not that of the opened TOKENS (fingerprint {text.fingerprint})"
    vocab_size = run.fact("decoder", "vocab_size")
    known = isinstance(vocab_size, int)
    compared = "with guessing only, not with token frequencies" if known else "with no baseline"
    return (
        Baselines(vocab_size, None) if known else None,
        f"the held-out loss is compared {compared}, so an arm that has learnt little may not be named: {problem}.",
    )
