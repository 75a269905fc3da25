"""Files truncated, replaced, deleted or unreadable while open: an error that names them, or no harm."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curriculum.artifact import mapped
from curriculum.artifact.blocks import hash_blocks
from curriculum.artifact.mapped import OpenFile, UnreadableError
from curriculum.tokens.ids import NumberFile, Numbers, TokenIds

VALUES = np.arange(5000, dtype="<u2")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    VALUES.tofile(tmp_path / "ids.bin")
    return tmp_path / "ids.bin"


def number_file(path: Path) -> NumberFile:
    return NumberFile(path, "<u2", len(VALUES), digests=np.array(hash_blocks(path).digests, dtype="<u8"))


def reader(name: str, path: Path) -> Callable[[], Any]:
    """Open a file in one of the ways of READERS; return a function that reads near its end."""
    if name == "bytes":
        file = OpenFile(path, 10_000)
        return lambda: file.read(9_000, 10_000)
    if name.startswith("number"):
        numbers = Numbers(number_file(path))
        return lambda: numbers[-1] if name == "number" else numbers[4000:4100]
    files = 2 if name == "rows of two files" else 1
    ids = TokenIds([number_file(path)] * files, 9)
    if name == "span":
        return lambda: ids.span(4000, 4005)
    return lambda: ids.rows(np.array([4000, 5000 * files - 1000]))


READERS = ("rows", "rows of two files", "span", "numbers", "number", "bytes")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("length", [0, 1, 4096, 8193])
def test_a_cut_file_is_named_and_reads_again_once_it_is_whole(path: Path, name: str, length: int) -> None:
    read = reader(name, path)
    before = np.array(read())
    os.truncate(path, length)
    with pytest.raises(UnreadableError, match=rf"ids\.bin has {length} bytes, but had 10000 when it was opened"):
        read()
    with open(path, "r+b") as file:
        file.write(VALUES.tobytes())
    assert np.array_equal(read(), before)


@pytest.mark.parametrize("name", READERS)
def test_a_replaced_or_deleted_file_stays_what_was_opened(path: Path, name: str) -> None:
    read = reader(name, path)
    before = np.array(read())
    (path.parent / "other").write_bytes(bytes(10_000))
    os.replace(path.parent / "other", path)
    assert np.array_equal(read(), before)
    path.unlink()
    assert np.array_equal(read(), before)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("name", READERS)
def test_what_the_system_says_is_told_with_the_file(
    path: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reader(name, path)

    def fails(*_: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(mapped.os, "preadv", fails)
    monkeypatch.setattr(mapped.os, "stat", fails)
    with pytest.raises(UnreadableError, match=rf"ids\.bin can no longer be read \({os.strerror(code)}\)"):
        read()


def test_the_exit_code_is_that_of_an_input_error(path: Path) -> None:
    assert UnreadableError.exit_code == 74
    os.truncate(path, 9_999)
    with pytest.raises(UnreadableError, match="9999 bytes, but had 10000"):
        OpenFile(path, 10_000, mapped=True)


def test_what_touches_a_page_that_is_gone_leaves_its_stack(path: Path) -> None:
    """Truncation between two size checks: the kernel kills the process, and the stack shows where."""
    program = (
        "import faulthandler, os, sys; faulthandler.enable(); from pathlib import Path\n"
        "from curriculum.artifact.mapped import OpenFile\n"
        "path = Path(sys.argv[1]); file = OpenFile(path, 10_000, mapped=True)\n"
        "file.stamp(); os.truncate(path, 0); file.numbers('<u2', 5000).sum()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -7
    assert "Fatal Python error: Bus error" in done.stderr
