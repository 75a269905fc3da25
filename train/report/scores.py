"""What was found about the scores behind the arms, and arms that have learnt nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curriculum.scores.baseline import Baselines, baselines_of
from curriculum.scores.findings import FINDINGS, joined, of_order, of_scores
from curriculum.tokens.tokens import Tokens
from train.report.arms import Arm
from train.report.material import Material
from train.report.records import Run, finite


def score_warnings(runs: Sequence[Run], material: Material) -> list[str]:
    """Return what `pdpc score` found, unusable scores first: recorded in run.json, in the orders and in the scores."""
    found = [of_order(run.info) for run in runs if isinstance(run.fact(FINDINGS), dict)]
    found += [of_order(order.manifest.facts) for order in material.orders.values()]
    if material.scores is not None:
        found.append(of_scores(material.scores.manifest.facts))
    whole = joined(found)
    return [
        *(
            f"The scores are unusable, so the order is not the curriculum it claims to be: {text}."
            for text in whole.unusable
        ),
        *(f"About the scores: {text}." for text in whole.others),
    ]


def untrained_arms(arms: Sequence[Arm], material: Material) -> list[str]:
    """Return a sentence for each arm that ends no better than a model that has learnt nothing."""
    result = []
    for arm in arms:
        run = arm.runs[0]
        losses = [loss for one in arm.runs if one.stages and (loss := finite(one.stages[-1], "val/loss")) is not None]
        baselines = _baselines(run, material)
        if not losses or baselines is None or not (shortfall := baselines.shortfall(sum(losses) / len(losses))):
            continue
        rate = (run.config.get("optimizer") or {}).get("lr")
        how = f"{run.stages[-1]['step']:,} steps" + (f" at a learning rate of {rate:g}" if rate else "")
        result.append(
            f"{arm.name} is {shortfall} on held-out text after {how}: it has learnt next to nothing yet, and its "
            "differences say nothing about the order."
        )
    return result


def _baselines(run: Run, material: Material) -> Baselines | None:
    """Return the baselines of the held-out text; the uniform one only if that text is gone, None if unknown."""
    if material.tokens is not None:
        try:
            validation = Tokens.open(Path(material.tokens.folder), "validation")
            if len(validation) and run.fact("fingerprints", "validation") in (None, validation.fingerprint):
                return baselines_of(validation)
        except (ValueError, OSError):
            pass
    vocab_size = run.fact("decoder", "vocab_size")
    return Baselines(vocab_size, None) if isinstance(vocab_size, int) else None
