"""`pdpc score trial=N`: how much accuracy cheaper scores lose, measured on N samples before scoring everything."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from curriculum.scores.cheap.trial import ENOUGH, CheapVariant, Stand, recommended, trial
from curriculum.scores.job import ScoringJob
from curriculum.work.console import PlainConsole, cell
from launch.score.references import check_model, identity_of, load_reference
from launch.score.settings import ScoreSettings
from launch.score.task import device_of, load_references, product_weights, threads

if TYPE_CHECKING:
    from curriculum.scores.scorer import Reference

BUCKETS = 2


def show_trial(settings: ScoreSettings, job: ScoringJob, console: Console | None = None) -> list[CheapVariant]:
    """Score samples exactly, compare the cheaper methods on them, print a table, and return its rows."""
    import torch

    tokens = job.tokens[settings.slices[0]]
    assert settings.trial is not None, "only called with trial"
    count = min(settings.trial, len(tokens))
    ids_N = np.sort(np.random.default_rng(0).choice(len(tokens), count, replace=False))
    exact = load_references(settings, job, device_of(0))
    smaller = _smaller(settings, job)
    both = [*exact.values(), *smaller.values()]
    if any(reference.text is not None for reference in both):
        raise ValueError(
            f"trial={settings.trial} needs losses per token of TOKENS, which a model with another tokenizer does not "
            "give: leave trial out"
        )
    parts: list[list[NDArray[np.float32]]] = [[] for _ in both]
    seconds = 0.0
    with threads(settings.threads):
        for start in range(0, count, settings.batch_size):
            ids_BS = torch.from_numpy(tokens.sample(ids_N[start : start + settings.batch_size]))
            for number, reference in enumerate(both):
                started = time.monotonic()
                parts[number].append(reference.model.losses(ids_BS).cpu().numpy())
                seconds += (time.monotonic() - started) * (number < len(exact))
    losses = [np.concatenate(part) for part in parts]
    own = dict(zip(exact, losses[: len(exact)], strict=True))
    found = trial(
        tokens,
        ids_N,
        [Stand("", own), *_stands(exact, own, smaller, dict(zip(smaller, losses[len(exact) :], strict=True)))],
        BUCKETS,
    )
    samples = sum(len(part) for part in job.tokens.values())
    _print(found, count, seconds * samples / count, console or PlainConsole())
    return found


def _smaller(settings: ScoreSettings, job: ScoringJob) -> dict[str, Reference]:
    """Load the models of `trial_models`. Raises ValueError, as for other models, if one cannot score the tokens."""
    first = next(iter(job.tokens.values()))
    on_text = {name: check_model(name, Path(folder), first, False) for name, folder in settings.trial_models.items()}
    return {
        name: load_reference(
            Path(folder),
            identity_of(Path(folder)),
            job.tokens,
            settings.precision,
            device=device_of(0),
            on_text=on_text[name],
            compiled=settings.compile,
        )
        for name, folder in settings.trial_models.items()
    }


def _stands(
    exact: Mapping[str, Reference],
    own: Mapping[str, NDArray[np.float32]],
    smaller: Mapping[str, Reference],
    losses: Mapping[str, NDArray[np.float32]],
) -> list[Stand]:
    """Return the stands with one exact model replaced, and with all of them.

    Their cost is that of the models' products of matrices, per token.
    """
    costs = {name: _products(reference) for name, reference in exact.items()}
    total = sum(costs.values())
    found = []
    for names in [*([name] for name in smaller), *([list(smaller)] if len(smaller) > 1 else [])]:
        cost = sum(_products(smaller[name]) if name in names else costs[name] for name in exact) / total
        words = " ".join(f"models.{name}=trial_models.{name}" for name in names)
        found.append(Stand(words, {name: losses[name] if name in names else own[name] for name in own}, cost))
    return found


def _products(reference: Reference) -> int:
    """Return the multiplications per token of a model's weights."""
    return sum(weight.numel() for weight in product_weights(reference.model))


def _print(found: list[CheapVariant], count: int, seconds: float, console: Console) -> None:
    table = Table(title=f"Cheaper scores compared with exact ones, {count:,} samples", title_justify="left")
    titles = ("score", "cost", "time for all, one process", "rank correlation", "worst source", f"same of {BUCKETS}")
    for title in titles:
        table.add_column(title, justify="left" if title in ("score", "worst source") else "right")
    for way in (CheapVariant("exact", 1.0, 1.0, 1.0), *found):
        cells = (f"{way.cost:.1%}", f"{way.cost * seconds / 60:,.1f} min", f"{way.rank_correlation:.3f}")
        worst = f"{way.worst:.3f} {way.worst_source}" if way.worst_source else ""
        table.add_row(cell(way.name), *cells, cell(worst), f"{way.agreement:.1%}")
    console.print(table)
    console.print("rank correlation and buckets are those inside sources", markup=False)
    console.print(_advice(found), markup=False, soft_wrap=True)


def _advice(found: list[CheapVariant]) -> str:
    """Return the recommendation, or that there is none."""
    if (best := recommended(found)) is not None:
        return (
            f"recommended: {best.name}, costs {best.cost:.1%} and reaches {best.rank_correlation:.3f} "
            f"(worst source {best.worst_source}: {best.worst:.3f})"
        )
    if not found:
        return f"none of them could be tried: raise trial, to reach {ENOUGH}"
    best = max(found, key=lambda way: way.rank_correlation)
    return (
        f"none of them reaches {ENOUGH}: score exactly; the best is {best.name}, costs {best.cost:.1%} and reaches "
        f"{best.rank_correlation:.3f}"
    )
