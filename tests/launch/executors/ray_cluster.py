"""A Ray cluster on this machine that loses an actor."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.processes import below


@contextmanager
def losing_an_actor(folder: Path, done: str) -> Iterator[list[int]]:
    """Yield a list for the pid of the killed actor, which is killed once `done` (a glob) matches a file in `folder`."""
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install pdpc[ray]")
    place = tempfile.mkdtemp(prefix="ray")  # for sockets: their paths would be too long under pytest's folder
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=place)
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            if list(folder.glob(done)):
                for pid in below(os.getpid()):
                    if b"ray::Actor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        return
            time.sleep(0.001)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        yield killed
    finally:
        killer.join()
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)
