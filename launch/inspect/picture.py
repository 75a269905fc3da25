"""The plan of an order as a picture: bucket shares, mean score and source mix over progress."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from curriculum.audit.overview import Overview, shares
from curriculum.work.figures import check_picture, save

PANEL_IN = 2.1
GAP_IN = 0.75
LEFT_IN, RIGHT_IN = 0.7, 1.35
DOTS_PER_IN = 200
TITLE = "Plan of a PDPC order"
"""In the metadata of every picture."""


def draw(view: Overview, path: Path) -> None:
    """Write the picture as SVG or PNG, by the suffix of `path`. The same order gives the same SVG.

    Raises ValueError if the file exists and is not such a picture.
    """
    check_picture(path, TITLE)
    from matplotlib.figure import Figure

    from train.report import panels, theme
    from train.report.axes import dashes, largest_sources, patch
    from train.report.views import Plan

    with_score = view.score is not None and bool((view.scored_P > 0).any())
    count = 1 + with_score + bool(view.sources)
    height = 0.35 + count * (PANEL_IN + GAP_IN)
    progress = view.progress_P
    with theme.drawing():
        figure = Figure(figsize=(theme.WIDTH_IN + RIGHT_IN, height), facecolor=theme.colour("paper"))
        across = (LEFT_IN / figure.get_figwidth(), 1 - (LEFT_IN + RIGHT_IN) / figure.get_figwidth())
        axes = [
            figure.add_axes((across[0], 1 - bottom_in / height, across[1], PANEL_IN / height), facecolor="none")
            for bottom_in in (0.35 + (row + 1) * PANEL_IN + row * GAP_IN for row in range(count))
        ]
        plan = Plan(view.buckets, progress, shares(view.planned_PK), shares(view.realised_PK), "order")
        panels.bucket_shares(axes[0], plan)
        kinds = [patch("realised", theme.colour("bucket"), 0.6)]
        kinds += [dashes("planned", theme.colour("ink"))] if len(view.buckets) > 1 else []
        figure.legend(handles=kinds, loc="upper left", bbox_to_anchor=(across[0], 1.0), ncols=2)
        if with_score:
            panels.mean_line(axes[1], progress, view.mean_P, f"mean {view.score}")
        if view.sources:
            mix = shares(view.sources_PT)
            ranks = np.argsort(-mix.sum(axis=0), kind="stable").tolist()
            panels.source_shares(axes[-1], progress, *largest_sources(view.sources, mix, ranks))
        save(figure, path, TITLE, dpi=DOTS_PER_IN)
