"""What the scores say, by source: a table for the terminal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from curriculum.scores import Scores
from curriculum.tokens import Tokens


def show(scores: Scores, tokens: Tokens, console: Console) -> None:
    """Print mean loss by model and, of a weak and a strong model, PD's mean, deviation and negative share by source."""
    models = scores.models
    with_pd = {"weak", "strong"} <= set(models)
    table = Table(title=f"SCORES {scores.folder}, slice {scores.slice}: nats a token", title_justify="left")
    for title in ("source", "samples", *models, *(("PD mean", "PD deviation", "PD < 0") if with_pd else ())):
        table.add_column(title, justify="left" if title == "source" else "right")
    columns = [scores.column(f"loss_{model}") for model in models]
    pd_N = scores.column("pd") if with_pd else None
    source_N = tokens.source_of(np.arange(len(tokens)))
    groups = [(name, source_N == index) for index, name in enumerate(tokens.sources)]
    for name, members in [*groups, ("all", np.ones(len(tokens), dtype=bool))]:
        if members.any():
            table.add_row(name, f"{members.sum():,}", *_cells(columns, pd_N, members))
    console.print(table)


def _cells(
    columns: list[NDArray[np.float32]], pd_N: NDArray[np.float32] | None, members: NDArray[np.bool_]
) -> list[str]:
    cells = [f"{column[members].mean(dtype=np.float64):.3f}" for column in columns]
    if pd_N is not None:
        pd = pd_N[members].astype(np.float64)
        cells += [f"{pd.mean():.3f}", f"{pd.std():.3f}", f"{(pd < 0).mean():.2%}"]
    return cells
