"""Panels: the layout of logged metrics in W&B, derived from their names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

STEP, TOKENS = "trainer/step", "trainer/tokens"
"""The x-axes in W&B."""

SECTIONS = {
    "train": ("train", TOKENS),
    "val": ("val, at stage ends", TOKENS),
    "bench": ("bench, at stage ends", TOKENS),
    "curriculum": ("curriculum, planned and realised", TOKENS),
    "source": ("source", TOKENS),
    "bucket": ("bucket", TOKENS),
    "optim": ("optim", TOKENS),
    "guard": ("guard, skipped steps", STEP),
    "throughput": ("throughput", STEP),
    "straggler": ("straggler", STEP),
    "memory": ("memory", STEP),
    "time": ("time", STEP),
    "data": ("data", STEP),
}
"""Sections in display order: metric name prefix to section title and x-axis."""


@dataclass(frozen=True)
class Plot:
    """One line plot: a line per metric and run."""

    title: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """Plots under one heading, with a common x-axis."""

    title: str
    x: str
    plots: tuple[Plot, ...]


def sections_of(names: Collection[str]) -> list[Section]:
    """Return the sections that show the metrics of these names; empty sections are left out.

    Planned and realised shares of a bucket are one plot. Standard errors (`..._stderr`) are not plotted.
    """
    sections = []
    for prefix, (title, x) in SECTIONS.items():
        titles: dict[str, list[str]] = {}
        for name in sorted(names, key=lambda name: (name.count("/"), name)):
            if name.startswith(f"{prefix}/") and not name.endswith("_stderr"):
                titles.setdefault(_title(name), []).append(name)
        if titles:
            plots = tuple(Plot(title, tuple(metrics)) for title, metrics in titles.items())
            sections.append(Section(title, x, plots))
    return sections


def _title(name: str) -> str:
    first, _, rest = name.partition("/")
    kind, _, bucket = rest.partition("/")
    return f"{first}/{bucket}" if first == "curriculum" and kind in ("planned", "realised") else name
