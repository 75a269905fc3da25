"""Figures with labels from data: all are drawn, and a file is whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from curriculum.work import figures
from curriculum.work.figures import check_picture, drawn, save

NAME = "web \u4e2d\u6587"


def labelled() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().set_yticks([0, 1], [NAME, "plain"])
    return figure


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("error")
def test_characters_without_a_font_are_escapes_in_png_and_text_in_svg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "WIDE_FONTS", ("No such font", "DejaVu Serif"))
    figure = labelled()
    assert drawn(figure, "png").startswith(b"\x89PNG")
    assert {"web \\u4e2d\\u6587", "plain"} <= texts(figure)
    assert drawn(labelled(), "svg", metadata={"Date": None}).startswith(b"<?xml")


def test_a_font_that_has_them_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.font_manager import findfont, get_font

    class Wide:
        def get_charmap(self) -> dict[int, int]:
            return dict.fromkeys(map(ord, NAME), 1)

    serif = findfont("DejaVu Serif")
    monkeypatch.setattr(figures, "WIDE_FONTS", ("DejaVu Serif",))
    monkeypatch.setattr("matplotlib.font_manager.get_font", lambda path: Wide() if path == serif else get_font(path))
    figure = labelled()
    drawn(figure, "png")
    assert NAME in texts(figure)
    families = [text.get_fontfamily() for text in figure.findobj(Text)]  # type: ignore[attr-defined]
    assert all(family[-1] == "DejaVu Serif" for family in families)


def test_a_picture_is_whole_or_absent_and_replaces_only_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "plan.svg"
    save(labelled(), path, "Plan")
    check_picture(path, "Plan")
    with pytest.raises(ValueError, match=r"picture=.*plan\.svg exists and was not written by this command"):
        check_picture(path, "Another title")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(labelled(), path, "Plan")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["plan.svg"]
