"""An order on the terminal: its provenance, its buckets, and its plan in tenths of progress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.audit.overview import NO_SOURCE, Overview, shares
from curriculum.order.order import Order
from curriculum.scores.findings import of_order
from curriculum.work.console import cell, say
from curriculum.work.printable import printable
from launch.inspect.attempts import lines_of
from launch.inspect.subject import Subject

PARTS = 10
MOST_SOURCES = 12
NAME_LETTERS = 40
"""Letters of a name in a table, at most: the numbers next to it must fit."""
LEVELS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
"""Block characters in eighths of the full height."""


def show(subject: Subject, view: Overview, console: Any) -> None:
    """Print the summary."""
    for line in _lines(subject):
        say(console, line)
    console.print()
    console.print(_buckets(subject.order, view))
    console.print()
    console.print(_plan(view.merged(PARTS)))
    if console.is_terminal:
        for line in sketch(view):
            console.print(cell(line), no_wrap=True, crop=True)


def _lines(subject: Subject) -> Iterator[str]:
    order = subject.order
    manifest = order.manifest
    facts, config = manifest.facts, manifest.config
    if subject.run is not None:
        yield from lines_of(subject.run)
        yield ""
    yield f"ORDER {order.folder}"
    yield f"fingerprint   {manifest.fingerprint}"
    yield f"created       {manifest.created_at} by PDPC {manifest.code_version}, seed {config['seed']}"
    yield f"preference    {_preference(config['preference'])}"
    for name, print_ in manifest.inputs.items():
        yield f"{name:<13} {print_}"
    if "twin" in config:
        yield f"twin          {config['twin']['kind']}, seed {config['twin']['seed']}"
    if facts.get("ancestors"):
        yield f"ancestors     {', '.join(facts['ancestors'])}"
    if facts.get("replanned_at"):
        where = facts["replanned_at"]
        yield f"replanned     after step {where['step']:,}, {where['cursor']:,} samples consumed"
    last = len(order) - order.cursor_after(order.steps - 1)
    short = f" (the last of {last:,})" if last != order.batch_size else ""
    sizes = ", then of ".join(
        f"{size:,}" + (f" from step {first + 1:,}" if first else "") for first, size in order.batch_sizes
    )
    steps = f"{order.steps:,} steps of {sizes}{short}"
    yield f"samples       {len(order):,} in {steps}, slice {facts['slice']}"
    yield (
        f"of these      {facts['different_samples']:,} distinct, {facts['repeated']:,} repeated; "
        f"{facts['left_out']:,} left out"
    )
    ends = ", ".join(f"{end:,}" for end in order.stage_ends)
    yield f"stages        {len(order.stage_ends)}, ending after steps {ends}"
    strata = [name for name in order.strata if name not in NO_SOURCE]
    if strata and not facts.get("ancestors"):
        yield f"cells         {len(order.bucket_of_cell):,}: each bucket within each of {_some(strata)}"
    if facts.get("spread_evenly"):
        yield f"spread evenly {_some(facts['spread_evenly'])}: too few distinct scores to form buckets"
    for text in of_order(facts).all:
        yield f"scores found  {text}"


def _preference(preference: dict[str, Any]) -> str:
    """Return a preference as its name and its non-empty parameters."""
    rest = {key: value for key, value in preference.items() if key != "name" and value not in (None, {}, [], "")}
    parts = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in rest.items()]
    return f"{preference['name']} {' '.join(parts)}".rstrip()


def _buckets(order: Order, view: Overview) -> Any:
    """Return a table of the buckets: edges, samples, uses, positions."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="BUCKETS", title_justify="left")
    table.add_column("bucket", no_wrap=True, max_width=NAME_LETTERS, overflow="ellipsis")
    for title in ("scores", "samples", "uses", "positions", "share"):
        table.add_column(title, justify="left" if title == "scores" else "right", no_wrap=True)
    total_K = view.realised_PK.sum(axis=0)
    edges = order.manifest.facts.get("edges", {})
    for index, bucket in enumerate(order.buckets):
        ends = (bucket.low, bucket.high)
        between = "" if ends == (None, None) else f"{_edge(bucket.low, '-inf')} to {_edge(bucket.high, 'inf')}"
        share = f"{100 * total_K[index] / max(1, len(order)):.2f}%"
        table.add_row(
            cell(bucket.name), between, f"{bucket.samples:,}", str(bucket.uses), f"{int(total_K[index]):,}", share
        )
    if len(edges) > 1:
        texts = [f"{_cut(name)} {' '.join(f'{edge:.4g}' for edge in row)}" for name, row in edges.items()]
        table.caption, table.caption_justify = cell(f"edges by source: {_some(texts)}"), "left"
    return table


def _cut(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 1]}\u2026"


def _edge(value: float | None, open_end: str) -> str:
    return open_end if value is None else f"{value:.4g}"


def _plan(view: Overview) -> Any:
    """Return a table with a column per tenth of progress: bucket shares planned and realised, mean score, sources."""
    from rich.table import Table

    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), title="PLAN, percent of the batch", title_justify="left"
    )
    table.add_column("progress up to", no_wrap=True, max_width=NAME_LETTERS, overflow="ellipsis")
    for end in view.edges_P[1:]:
        table.add_column(f"{100 * end / view.edges_P[-1]:.0f}%", justify="right", no_wrap=True)
    table.add_row("step", *(f"{end:,}" for end in view.edges_P[1:]))
    planned, realised = shares(view.planned_PK), shares(view.realised_PK)
    for index, bucket in enumerate(view.buckets):
        table.add_row(cell(f"{bucket} planned"), *_percent(planned[:, index]))
        table.add_row(cell(f"{bucket} realised"), *_percent(realised[:, index]))
    if view.score is not None:
        table.add_row(cell(f"mean {view.score}"), *("" if np.isnan(mean) else f"{mean:.3f}" for mean in view.mean_P))
    mix = shares(view.sources_PT)
    for index in np.argsort(-mix.sum(axis=0), kind="stable")[:MOST_SOURCES]:
        table.add_row(cell(f"from {view.sources[index]}"), *_percent(mix[:, index]))
    if len(view.sources) > MOST_SOURCES:
        table.caption = f"and {len(view.sources) - MOST_SOURCES} smaller sources"
    return table


def _percent(values: NDArray[np.float64]) -> list[str]:
    return [f"{100 * value:.1f}" if value > 0 else "-" for value in values]


def sketch(view: Overview) -> Iterator[str]:
    """Yield one line per bucket: its realised share over progress, drawn in block characters."""
    table = shares(view.realised_PK)
    top = max(float(table.max()), 1e-12)
    names = [_cut(printable(name)) for name in view.buckets]
    width = max(map(len, names))
    yield f"REALISED SHARE over progress, full height is {100 * top:.0f}%"
    for index, name in enumerate(names):
        heights = np.ceil(table[:, index] / top * (len(LEVELS) - 1)).astype(int)
        yield f"{name:<{width}} {''.join(LEVELS[height] for height in heights)}"


def _some(names: list[str], most: int = MOST_SOURCES) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
