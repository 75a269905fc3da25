"""`pdpc score trial=N`: how much accuracy cheaper scores lose, measured on N samples before scoring everything."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from curriculum.scores.cheap import CheapVariant, trial
from curriculum.scores.job import ScoringJob
from curriculum.work.console import PlainConsole, cell
from launch.score.settings import ScoreSettings
from launch.score.task import device_of, load_references, threads

FRACTIONS = (0.05, 0.1, 0.25)
PARTS = (8, 4, 2)
"""Divisors of the sample length for first_tokens: an eighth, a quarter and a half of a sample."""
BUCKETS = 2


def show_trial(settings: ScoreSettings, job: ScoringJob, console: Console | None = None) -> list[CheapVariant]:
    """Score samples exactly, compare the cheaper methods on them, print a table, and return its rows."""
    import torch

    tokens = job.tokens[settings.slices[0]]
    assert settings.trial is not None, "only called with trial"
    count = min(settings.trial, len(tokens))
    ids_N = np.sort(np.random.default_rng(0).choice(len(tokens), count, replace=False))
    references = load_references(settings, job, device_of(0))
    if any(reference.text is not None for reference in references.values()):
        raise ValueError(
            f"trial={settings.trial} needs losses per token of TOKENS, which a model with another tokenizer does not "
            "give: leave trial out"
        )
    losses: dict[str, list[NDArray[np.float32]]] = {name: [] for name in references}
    started = time.monotonic()
    with threads(settings.threads):
        for start in range(0, count, settings.batch_size):
            ids_BS = torch.from_numpy(tokens.sample(ids_N[start : start + settings.batch_size]))
            for name, reference in references.items():
                losses[name].append(reference.model.losses(ids_BS).cpu().numpy())
    seconds = time.monotonic() - started
    k = [max(1, tokens.seq_len // part) for part in PARTS]
    whole = {name: np.concatenate(parts) for name, parts in losses.items()}
    found = trial(tokens, ids_N, whole, k, FRACTIONS, BUCKETS)
    samples = sum(len(part) for part in job.tokens.values())
    _print(found, count, seconds * samples / count, console or PlainConsole())
    return found


def _print(found: list[CheapVariant], count: int, seconds: float, console: Console) -> None:
    table = Table(title=f"Cheaper scores compared with exact ones, {count:,} samples", title_justify="left")
    for title in ("score", "cost", "time for all, one process", "rank correlation", f"same of {BUCKETS} buckets"):
        table.add_column(title, justify="left" if title == "score" else "right")
    for way in (CheapVariant("exact", 1.0, 1.0, 1.0), *found):
        cells = (f"{way.cost:.0%}", f"{way.cost * seconds / 60:,.1f} min", f"{way.rank_correlation:.3f}")
        table.add_row(cell(way.name), *cells, f"{way.agreement:.1%}")
    console.print(table)
