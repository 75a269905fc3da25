"""A Ray cluster on this machine that loses an actor."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.processes import below
from curriculum.work.progress import Meter


@contextmanager
def losing_an_actor(patch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield a list for the pid of the killed actor: the driver kills it when an actor reports the first chunk."""
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install pdpc[ray]")
    place = tempfile.mkdtemp(prefix="ray")  # for sockets: their paths would be too long under pytest's folder
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=place)
    killed: list[int] = []
    count = Meter.count

    def counting(meter: Meter, counted: Sequence[int]) -> None:
        count(meter, counted)
        if not killed:
            killed.append(
                next(pid for pid in below(os.getpid()) if b"ray::Actor" in Path(f"/proc/{pid}/cmdline").read_bytes())
            )
            os.kill(killed[0], signal.SIGKILL)

    patch.setattr(Meter, "count", counting)
    try:
        yield killed
    finally:
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)
