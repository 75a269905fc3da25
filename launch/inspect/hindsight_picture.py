"""Hindsight as a picture: what is remembered, by bucket, and the losses behind it, over progress."""

from __future__ import annotations

from pathlib import Path

from curriculum.audit.hindsight import Hindsight
from curriculum.audit.hindsight_table import Effects
from curriculum.work.figures import check_picture, save

TITLE = "Hindsight of a PDPC run"
"""In the metadata of every picture."""
PANEL_IN, GAP_IN, LEFT_IN, RIGHT_IN, TOP_IN = 2.1, 0.75, 0.75, 0.3, 0.35
DOTS_PER_IN = 200
NORMAL = 1.96


def draw(found: Hindsight, effects: Effects, path: Path) -> None:
    """Write the picture as SVG or PNG, by the suffix of `path`. ValueError if the file is not such a picture."""
    check_picture(path, TITLE)
    from matplotlib.figure import Figure

    from train.report import theme
    from train.report.axes import legend, shortened

    height = TOP_IN + 2 * (PANEL_IN + GAP_IN)
    with theme.drawing():
        figure = Figure(figsize=(theme.WIDTH_IN + RIGHT_IN, height), facecolor=theme.colour("paper"))
        width = figure.get_figwidth()
        places = [TOP_IN + (row + 1) * PANEL_IN + row * GAP_IN for row in range(2)]
        above, below = (
            figure.add_axes(
                (LEFT_IN / width, 1 - place / height, (width - LEFT_IN - RIGHT_IN) / width, PANEL_IN / height),
                facecolor="none",
            )
            for place in places
        )
        above.axhline(0, color=theme.colour("line"), linewidth=1)
        for index, name in enumerate(found.buckets):
            colour = theme.arm_colour(index + 1)
            values, error = found.remembered_PK[:, index], NORMAL * found.error_PK[:, index]
            beside_P = found.progress_P + 0.006 * (
                index - (len(found.buckets) - 1) / 2
            )  # bars must not hide each other
            above.errorbar(beside_P, values, error, color=colour, linewidth=1.4, label=shortened(name))
            below.plot(found.progress_P, found.loss_PK[:, index], color=colour, linewidth=1.4)
            never = found.loss_PK[:, index] + values
            below.plot(found.progress_P, never, color=colour, linewidth=1, linestyle=(0, (3, 2)))
        if len(found.buckets) > 1:
            ink = theme.colour("ink")
            low, high = (effects.curve_P + sign * NORMAL * effects.error_P for sign in (-1, 1))
            above.fill_between(found.progress_P, low, high, color=ink, alpha=0.15, linewidth=0)
            above.plot(found.progress_P, effects.curve_P, color=ink, linewidth=1.8, label="same mix")
        above.set_ylabel("remembered, nats per token")
        below.set_ylabel("final loss; dashed: never read")
        for axes in (above, below):
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
            axes.set_xlabel("position in the order")
        legend(figure, above)
        save(figure, path, TITLE, dpi=DOTS_PER_IN)
