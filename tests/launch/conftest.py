"""Fixtures of the launch tests: programs that leave neither processes nor files behind."""

import os
import signal
import time
import uuid
from pathlib import Path

import pytest

TAG = "PDPC_TEST_TAG"


def tagged(tag: str) -> list[int]:
    """Return the living processes whose environment holds the tag: all that a program started, whoever their parent is."""
    wanted = f"{TAG}={tag}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state != "Z" and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture
def contained(tmp_path):
    """An environment for programs; every home and cache is in tmp_path, and the test fails if a process is left."""
    tag = uuid.uuid4().hex
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    homes = {"HOME": home, "TMPDIR": home / "tmp", "XDG_CACHE_HOME": home / ".cache", "HF_HOME": home / "hf"}
    yield {**os.environ, **{name: str(path) for name, path in homes.items()}, TAG: tag}
    deadline = time.monotonic() + 20
    while (left := tagged(tag)) and time.monotonic() < deadline:
        time.sleep(0.1)
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") for pid in left]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, commands
