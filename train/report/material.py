"""The artifacts that a run refers to, opened for the report; for one that cannot be opened, a sentence says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curriculum.order.order import Order
    from curriculum.scores.scores import Scores
    from curriculum.tokens.tokens import Tokens

from train.report.records import Run


@dataclass(frozen=True)
class Material:
    """Orders by run, and the scores and tokens that all arms share; `missing` says why one is None."""

    orders: dict[str, Order]
    scores: Scores | None
    tokens: Tokens | None
    missing: dict[str, str]
    """`scores`, `tokens` or `order/<run>` to a sentence."""


def open_material(runs: list[Run]) -> Material:
    """Open the artifacts in the runs' run.json. Missing, moved or changed ones are no error: the page reports them."""
    missing: dict[str, str] = {}
    orders: dict[str, Order] = {}
    for run in runs:
        order, sentence = _open_order(run)
        if order is None:
            missing[f"order/{run.name}"] = sentence
        else:
            orders[run.name] = order
    scores, missing["scores"] = _first(runs, _open_scores)
    tokens, missing["tokens"] = _first(runs, _open_tokens)
    if scores is not None and tokens is not None:
        try:
            scores.check(tokens)
        except ValueError as error:
            scores, missing["scores"] = None, f"The scores belong to other tokens: {error}."
    for run in runs:
        order = orders.get(run.name)
        if order is not None and tokens is not None and order.manifest.inputs.get("tokens") != tokens.fingerprint:
            del orders[run.name]
            missing[f"order/{run.name}"] = (
                f"The order of {run.name} was arranged for other tokens than those at {tokens.folder}."
            )
    return Material(orders, scores, tokens, {name: text for name, text in missing.items() if text})


def _first(runs: list[Run], opening: Callable[[Run], tuple[Any, str]]) -> tuple[Any, str]:
    """Return the artifact from the first run that has one; else None and why it is missing."""
    sentences: list[str] = []
    for run in runs:
        artifact, sentence = opening(run)
        if artifact is not None:
            return artifact, ""
        sentences.append(sentence)
    named = [sentence for sentence in sentences if "records no" not in sentence]
    return None, (named or sentences)[0]


def _open_order(run: Run) -> tuple[Order | None, str]:
    from curriculum.order.order import Order

    return _open(run, "order", lambda path, slice: Order.open(path))


def _open_scores(run: Run) -> tuple[Scores | None, str]:
    from curriculum.scores.scores import Scores

    return _open(run, "scores", lambda path, slice: Scores.open(path, slice))


def _open_tokens(run: Run) -> tuple[Tokens | None, str]:
    from curriculum.tokens.tokens import Tokens

    return _open(run, "tokens", lambda path, slice: Tokens.open(path, slice))


def _open(run: Run, what: str, opening: Callable[[Path, str], Any]) -> tuple[Any, str]:
    """Open the artifact `what` at the path in run.json, and compare its fingerprint with the recorded one."""
    path = run.fact("paths", what)
    if run.from_wandb:
        return None, f"{run.name} was read from W&B, which records no {what}."
    if not path:
        return None, f"The run {run.name} records no {what}."
    if not Path(path).is_dir():
        verb = "is" if what == "order" else "are"
        return None, f"The {what} of {run.name} {verb} no longer at {path}."
    try:
        artifact = opening(Path(path), run.fact("paths", "slice") or "train")
    except (ValueError, OSError) as error:
        return None, f"The {what} of {run.name} cannot be opened: {error}."
    recorded, found = run.fact("fingerprints", what), artifact.fingerprint
    if recorded and recorded != found:
        return (
            None,
            f"{path} is not the {what} that {run.name} used (fingerprint {found}, recorded {recorded}).",
        )
    return artifact, ""
