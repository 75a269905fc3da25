"""Standard streams that are closed, full, abandoned or not UTF-8 cost output, not the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from curriculum.work.printable import printable_output

WORK = """
import os, subprocess, sys
from curriculum.work.streams import lost_output, open_streams
open_streams()
for _ in range(3):
    print("\\u4e2d\\u6587 \\x1b[31m \\x1b]0;x\\x07 \\u202e")
    sys.stdout.flush()
print("to stderr", file=sys.stderr)
child = subprocess.run([sys.executable, "-c", "import os; os.write(1, b'from a child\\\\n')"])
with open(sys.argv[1], "w") as file:
    file.write(f"{lost_output()}, child {child.returncode}, lowest {file.fileno()}")
"""
OUTPUT = "\u4e2d\u6587 \\x1b[31m \\x1b]0;x\\x07 \\u202e\n" * 3


def worked(tmp_path: Path, redirection: str = "", **environment: str) -> tuple[int, str, str]:
    """Run WORK in a shell; return its exit code, what it says at its end, and its standard output."""
    script, said = tmp_path / "work.py", tmp_path / "said"
    script.write_text(WORK, "utf-8")
    said.write_text("", "utf-8")
    command = f'"$0" "$1" "$2" {redirection}'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, str(script), str(said)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    return done.returncode, said.read_text("utf-8"), done.stdout


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        ("", "None, child 0"),
        (">/dev/full", "No space left on device, child"),
        (">&-", "it was closed, child 0"),
        (">&- 2>&-", "it was closed, child 0"),
        ("<&- >&- 2>&-", "it was closed, child 0"),
        ("2>/dev/full", "None, child 0"),
        ("2>&-", "None, child 0"),
    ],
)
def test_work_outlives_its_streams(tmp_path: Path, redirection: str, said: str) -> None:
    code, found, _ = worked(tmp_path, redirection)
    assert (code, found.startswith(said)) == (0, True), found
    assert int(found.rpartition(" ")[2]) > 2  # no file of ours has a standard number


def test_work_outlives_its_reader(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    script, said = tmp_path / "work.py", tmp_path / "said"
    script.write_text(WORK, "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script), str(said)], stdout=write, stderr=write, env=environment)
    os.close(write)
    assert done.returncode == 0
    assert said.read_text("utf-8").startswith("Broken pipe")


def test_what_an_encoding_lacks_is_written_as_an_escape(tmp_path: Path) -> None:
    assert worked(tmp_path, PYTHONIOENCODING="utf-8")[2] == OUTPUT + "from a child\n"
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        code, _, output = worked(tmp_path, **environment)
        assert (code, output) == (0, OUTPUT.replace("\u4e2d\u6587", "\\u4e2d\\u6587") + "from a child\n")


def test_only_styles_reach_a_terminal_and_nothing_a_file() -> None:
    text = "\x1b[1;31mred\x1b[0m \x1b[2K\r\x1b]8;;file:///x\x07 \x9b31m \x1b[6n \u2066\n\t"
    shown = "\\x1b]8;;file:///x\\x07 \\x9b31m \\x1b[6n \\u2066\n\t"
    assert printable_output(text, styled=True) == f"\x1b[1;31mred\x1b[0m \x1b[2K\r{shown}"
    assert printable_output(text, styled=False) == f"\\x1b[1;31mred\\x1b[0m \\x1b[2K\r{shown}"
