"""Figures whose texts come from data: every character is drawn, by a font that has it or else as an escape."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum.artifact.files import replacing
from curriculum.artifact.outputs import check_file, holds
from curriculum.work.printable import printable_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

WIDE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS", "Unifont"),
    *("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic", "IPAexGothic"),
)
"""Fonts with Chinese, Japanese or Korean characters, and many others; those that are installed are used."""


def drawn(figure: Figure, ending: str, *, metadata: Mapping[str, str | None] | None = None, **options: Any) -> bytes:
    """Return a figure as a file's contents, by its ending: svg or png.

    SVG keeps labels as text, so that the viewer's fonts draw them. In PNG, characters that no installed font has are
    drawn as escapes, such as \\u4e2d.
    """
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # Said of every character in every label; in SVG none is drawn, in PNG all that are left can be.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        _change_texts(figure, printable_lines)
        if ending != "svg":
            lacking = _choose_fonts(figure)
            _change_texts(figure, lambda text: text.translate(lacking))
        figure.savefig(stream, format=ending, metadata=dict(metadata or {}), **options)
    return stream.getvalue()


def save(figure: Figure, path: Path, title: str, **options: Any) -> None:
    """Write a figure as SVG or PNG, by the suffix of `path`; `title` is stored in it. The file is whole or absent."""
    ending = path.suffix.removeprefix(".")
    plain: dict[str, str | None] = {"Date": None, "Creator": None} if ending == "svg" else {"Software": None}
    data = drawn(figure, ending, metadata={**plain, "Title": title}, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(data)


def check_picture(path: Path, title: str) -> None:
    """Raise ValueError if the file `path`, the value of `picture`, exists and is no figure with this title."""
    check_file("picture", path, holds(path, title))


def _change_texts(figure: Figure, change: Callable[[str], str]) -> None:
    """Change the texts of a figure, those at ticks included, which are set anew whenever it is drawn."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        if (changed := list(map(change, labels))) != labels:
            axis.set_ticks(axis.get_ticklocs(), changed)
    for text in _texts(figure):
        if (new := change(text.get_text())) != text.get_text():
            text.set_text(new)


def _choose_fonts(figure: Figure) -> dict[int, str]:
    """Give the texts of a figure fonts that have their characters; return escapes for those that no font has."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    texts = _texts(figure)
    wanted = {ord(letter) for text in texts for letter in text.get_text() if letter != "\n"}
    families = list(FontProperties().get_family())
    wanted -= get_font(findfont(FontProperties())).get_charmap().keys()
    installed = {font.name for font in fontManager.ttflist} if wanted else set()
    for family in WIDE_FONTS:
        if family in installed and wanted:
            left = wanted - get_font(findfont(FontProperties(family))).get_charmap().keys()
            families += [family] if left < wanted else []
            wanted = left
    for text in texts if len(families) > 1 else ():
        text.set_fontfamily(families)
    return {code: chr(code).encode("unicode_escape").decode() for code in wanted}


def _texts(figure: Figure) -> list[Text]:
    from matplotlib.text import Text

    found: list[Text] = figure.findobj(Text)  # type: ignore[assignment]
    return found
