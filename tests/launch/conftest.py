"""Fixtures of the launch tests: programs that leave no processes or files behind."""

import os
import signal
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

TAG = "PDPC_TEST_TAG"


def tagged(tag: str) -> list[int]:
    """Return the live processes with the tag in their environment: all that a program started, including orphans."""
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


@contextmanager
def containment(folder: Path):
    """Yield an environment with homes and caches in `folder`; fail if a process started with it is left at the end."""
    tag = uuid.uuid4().hex
    home = folder / "home"
    (home / "tmp").mkdir(parents=True)
    homes = {"HOME": home, "TMPDIR": home / "tmp", "XDG_CACHE_HOME": home / ".cache", "HF_HOME": home / "hf"}
    try:
        yield {**os.environ, **{name: str(path) for name, path in homes.items()}, TAG: tag}
        deadline = time.monotonic() + 20
        while (left := tagged(tag)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") for pid in left]
    finally:
        kill_all(tag)


def kill_all(tag: str) -> None:
    """SIGKILL every process of a containment at once, like a power cut."""
    while left := tagged(tag):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


@pytest.fixture
def contained(tmp_path):
    with containment(tmp_path) as environment:
        yield environment


@pytest.fixture(scope="session")
def power_cut():
    """Return a function that kills all programs started in an environment."""
    return lambda environment: kill_all(environment[TAG])
