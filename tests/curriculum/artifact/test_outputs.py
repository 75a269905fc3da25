"""Outputs that cannot be written are rejected before the work, with the setting and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from curriculum.artifact.create import create, reusable
from curriculum.artifact.files import read_text
from curriculum.artifact.outputs import check_file, check_free, check_place, holds


def linked(folder: Path) -> Path:
    (folder / "dangling").symlink_to(folder / "gone")
    return folder / "dangling"


def filed(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (linked, r"dangling is a link to .*gone, which does not exist"),
        (lambda folder: linked(folder) / "in", r"dangling is a link to .*gone, which does not exist"),
        (lambda folder: folder / ("a" * 250), r"the name has 250 bytes, .*: choose one of at most 223 bytes"),
        (lambda folder: folder / ("\u4e2d" * 80), "the name has 240 bytes"),
        (lambda folder: folder / ("a" * 300), r"output=.{80}\.\.\. cannot be written to \(File name too long\)"),
        (lambda folder: folder / ("a" * 300) / "b", r"cannot be written to \(File name too long\)"),
        (lambda folder: folder.joinpath(*["a" * 200] * 25), r"cannot be written to \(File name too long\)"),
        (lambda folder: filed(folder) / "in", r"is below .*file, which is a file: give a folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path: Path, place, message: str) -> None:
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        reusable(path, "thing", config={}, inputs={})
    with pytest.raises(ValueError, match=message), create(path, "thing", config={}):
        pytest.fail("the work began")
    with pytest.raises(ValueError, match=message):
        check_file("output", path, False)
    with pytest.raises(ValueError, match=message):
        check_free("output", path, ())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_write_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    with create(there, "thing", config={}):
        pass
    monkeypatch.setattr("os.access", lambda path, _: path not in (tmp_path, tmp_path.absolute()))
    with pytest.raises(ValueError, match=r"output=.*new cannot be written \(.* is read-only\)"):
        reusable(tmp_path / "new", "thing", config={}, inputs={})
    assert reusable(there, "thing", config={}, inputs={})  # complete: nothing is written
    check_place("output", there, inside=True)


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    check_place("output", tmp_path / "link" / "new")
    check_place("output", tmp_path / "new" / "deeper")
    check_place("output", tmp_path / ("a" * 200))


def test_only_the_start_of_a_large_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_text("ours\n")
    assert holds(path, "ours")
    assert not holds(path, "theirs")
    assert not holds(tmp_path, "ours")
    assert not holds(tmp_path / "gone", "ours")
    assert read_text(path) == "ours\n"
    with open(path, "ab") as file:
        file.truncate(1 << 30)  # takes no disk
    with pytest.raises(ValueError, match=r"large has 1,073,741,824 bytes, more than the 268,435,456 .*: restore"):
        read_text(path)
