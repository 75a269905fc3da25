"""Figure style and embedding: drawing defaults, colour roles, SVG prepared for inlining.

Figures are drawn with one fixed colour per role. On the page each of these colours becomes a CSS variable, so that
light and dark mode follow the reader's setting; the .svg files keep the light colours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curriculum.work.figures import drawn
from curriculum.work.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_IN = 4.9
ROLES = {
    "ink": ("#1d2733", "#e8ecf1"),
    "muted": ("#556170", "#a3afbd"),
    "line": ("#d8dee6", "#313b47"),
    "paper": ("#fdfdfe", "#141a21"),
    "arm-0": ("#6a7480", "#a9b4c1"),
    "arm-1": ("#0067b3", "#5ab4f5"),
    "arm-2": ("#c2540a", "#ff9a52"),
    "arm-3": ("#007f5f", "#3ecfa4"),
    "arm-4": ("#9c3f86", "#ea9ad6"),
    "arm-5": ("#8a6d00", "#e3c13d"),
    "bucket": ("#0066b2", "#4aa8f0"),
    "source-0": ("#3b7dbb", "#4f93d3"),
    "source-1": ("#e08a2c", "#e39a4a"),
    "source-2": ("#2a9d86", "#35ab94"),
    "source-3": ("#b55a9f", "#c374af"),
    "source-4": ("#8fa8bf", "#7d93a8"),
    "source-5": ("#c9b037", "#bda735"),
    "source-6": ("#5c5fa8", "#7f82cc"),
    "source-7": ("#7a8490", "#6a7582"),
}
"""Role to its light-mode and dark-mode colour. The arm colours are distinguishable with every common form of colour
blindness (after Okabe and Ito, 2008) and have a contrast of at least 3 with the paper; the baseline is dashed."""
TICKS = 5
"""Most intervals between the ticks of an axis: on a phone more labels would run into each other."""
ARMS = 6
SOURCES = 8


def colour(role: str) -> str:
    """Return the drawing colour of a role."""
    return ROLES[role][0]


def arm_role(index: int) -> str:
    """Return the colour role of arm number `index`; the baseline is 0."""
    return "arm-0" if index == 0 else f"arm-{1 + (index - 1) % (ARMS - 1)}"


def arm_colour(index: int) -> str:
    """Return the drawing colour of arm number `index`; the baseline is 0."""
    return colour(arm_role(index))


@dataclass(frozen=True)
class Picture:
    """One drawn figure: a standalone SVG and its description."""

    name: str
    """Short and unique on the page; prefix of the ids inside the SVG."""
    title: str
    words: str
    """Description for screen readers."""
    svg: str

    def inline(self) -> str:
        """Return the SVG for inlining in HTML: scalable, coloured by CSS variables, unique ids, with a description."""
        from markupsafe import escape

        body = self.svg[self.svg.index("<svg") :]
        body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
        body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
        body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
        body = body.replace("xlink:href", "href")
        box = re.search(r'viewBox="([^"]+)"', body)
        assert box is not None, "matplotlib writes a viewBox"
        name = f"figure-{self.name}"
        head = (
            f'<svg viewBox="{box.group(1)}" role="img" aria-labelledby="{name}-title {name}-words">'
            f'<title id="{name}-title">{escape(self.title)}</title><desc id="{name}-words">{escape(self.words)}</desc>'
        )
        content = body[body.index(">") + 1 :]
        content = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', content)
        content = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', content)
        content = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", content)
        return head + _with_variables(content).strip()


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the drawing defaults, independent of the user's matplotlib settings."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_DEFAULTS)
        yield


def canvas(
    height_in: float, *, left_in: float = 0.62, right_in: float = 0.22, top_in: float = 0.42, bottom_in: float = 0.5
) -> tuple[Figure, Any]:
    """Return a figure of the page's width with one pair of axes; margins in inches."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH_IN, height_in))
    box = (
        left_in / WIDTH_IN,
        bottom_in / height_in,
        1 - (left_in + right_in) / WIDTH_IN,
        1 - (top_in + bottom_in) / height_in,
    )
    axes = figure.add_axes(box)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(TICKS))
    axes.yaxis.set_major_locator(MaxNLocator(TICKS))
    return figure, axes


def picture(figure: Figure, name: str, title: str, words: str) -> Picture:
    """Render the figure as SVG text: no dates, the same bytes every time."""
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    svg = drawn(figure, "svg", metadata=nothing, transparent=True).decode()
    return Picture(name, printable(title), printable(words), svg)


def variables(dark: bool) -> str:
    """Return the CSS variables of all roles."""
    return " ".join(f"--{role}: {pair[dark]};" for role, pair in ROLES.items())


def _with_variables(svg: str) -> str:
    for role, (light, _) in ROLES.items():
        svg = svg.replace(light, f"var(--{role})")
    return re.sub(r"'DejaVu Sans'(, [^;\"]+)?", "var(--font)", svg)


_DEFAULTS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pdpc",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": ROLES["line"][0],
    "axes.labelcolor": ROLES["muted"][0],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "grid.color": ROLES["line"][0],
    "grid.linewidth": 0.6,
    "text.color": ROLES["ink"][0],
    "xtick.color": ROLES["line"][0],
    "ytick.color": ROLES["line"][0],
    "xtick.labelcolor": ROLES["muted"][0],
    "ytick.labelcolor": ROLES["muted"][0],
    "ytick.major.size": 0,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
