"""Writing files: complete or as before, through no link; and nothing in the product writes in any other way."""

import ast
import errno
import os
import tracemalloc
from pathlib import Path

import pytest

from curriculum.artifact.files import ArtifactError, copy_file, no_links, read_bytes, replacing, write_text

ROOT = Path(__file__).parents[3]
OWN_FOLDERS = {
    "curriculum/scores/writer.py": "Parquet of a draft",
    "curriculum/tokens/writer.py": "files of a draft",
    "train/evaluation/harness/pack.py": "Parquet of a draft",
    "train/distributed/heartbeat.py": "a private temporary folder (mkdtemp)",
    "models/huggingface/tokenizer.py": "files of a draft",
    "models/huggingface/write.py": "files of a draft",
    "curriculum/pairs/select.py": "Parquet of a draft",
    "models/lora.py": "files of a draft",
    "train/objectives/reference.py": "a file opened by replacing()",
    "launch/doctor/filesystem.py": "a private temporary folder (mkdtemp)",
    "launch/doctor/network.py": "a new file with a random name",
    "launch/doctor/rank.py": "a file in a private temporary folder, named by the doctor",
    "launch/doctor/step.py": "a file in a private temporary folder",
    "curriculum/artifact/files.py": "the one place",
}
"""Files that may write to a path directly: into a folder that this process has just created under a random name."""
WRITERS = {"write_text", "write_bytes", "touch", "save", "savez", "tofile", "copyfile", "copy", "copy2", "move"}
"""Names of methods and of functions of numpy and shutil that write to a path."""


def test_a_file_is_replaced_at_once_and_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "victim")
    with replacing(tmp_path / "file") as file:
        file.write(b"ne")
        assert (tmp_path / "file").read_text() == "precious"
        file.write(b"w")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "victim").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "victim"]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    with replacing(tmp_path / "file") as one, replacing(tmp_path / "file") as other:
        one.write(b"one")
        other.write(b"other")
    assert (tmp_path / "file").read_bytes() in (b"one", b"other")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("broken", ["write", "fsync", "replace", "interrupt"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, broken, monkeypatch):
    write_text(tmp_path / "file", "old")

    def fails(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write():
        with replacing(tmp_path / "file") as file:
            file.write(b"half")
            if broken == "write":
                fails()
            if broken == "interrupt":
                raise KeyboardInterrupt

    if broken in ("fsync", "replace"):
        monkeypatch.setattr(f"curriculum.artifact.files.os.{broken}", fails)
    with pytest.raises((OSError, KeyboardInterrupt)):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_that_cannot_be_written_is_named_by_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: .*/none/file"):
        write_text(tmp_path / "none" / "file", "x")


def test_a_copy_goes_through_no_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "source").write_text("x" * 100)
    (tmp_path / "copy").symlink_to(tmp_path / "victim")
    copy_file(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "x" * 100
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_nothing_is_appended_to_what_is_not_a_file(tmp_path, kind):
    (tmp_path / "victim").write_text("precious")
    path = tmp_path / "metrics.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / ("victim" if kind == "link" else "nowhere"))
    with pytest.raises(OSError, match=r"metrics\.jsonl"), open(path, "a", opener=no_links):
        pass
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    with open(tmp_path / "victim", "a", opener=no_links) as file:
        file.write(" file")
    assert (tmp_path / "victim").read_text() == "precious file"


def test_a_small_file_is_read_without_the_memory_of_the_largest_one(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 1000)
    tracemalloc.start()
    try:
        assert read_bytes(tmp_path / "file", 1 << 40) == b"x" * 1000
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(ArtifactError, match="file has 1,000 bytes, more than the 999 that it may have"):
        read_bytes(tmp_path / "file", 999)


def writes(tree):
    """Yield (line, source) of every call that writes to a path directly."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id == "open" and len(node.args) > 1:
            if "os.O_EXCL" in ast.unparse(node.args[0]):
                continue
            mode = node.args[1].value if isinstance(node.args[1], ast.Constant) else "w"
            opener = next((ast.unparse(word.value) for word in node.keywords if word.arg == "opener"), "")
            if not (mode.startswith(("r", "x")) and "+" not in mode) and opener != "no_links":
                yield node.lineno, ast.unparse(node)
        elif isinstance(called, ast.Attribute) and called.attr in WRITERS:
            owner = ast.unparse(called.value)
            if called.attr in ("write_text", "write_bytes", "touch", "tofile") or owner in ("np", "numpy", "shutil"):
                yield node.lineno, ast.unparse(node)
        elif isinstance(called, ast.Attribute) and called.attr in ("savefig", "write_table", "to_parquet"):
            at = 1 if called.attr == "write_table" else 0
            if ast.unparse(node.args[at]) not in ("file", "stream"):
                yield node.lineno, ast.unparse(node)


def test_every_writer_goes_through_the_functions_that_follow_no_link():
    found = []
    for layer in ("curriculum", "train", "launch", "models"):
        for path in sorted((ROOT / layer).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name not in OWN_FOLDERS:
                found += [f"{name}:{line}: {call}" for line, call in writes(ast.parse(path.read_text("utf-8")))]
    assert found == []
