"""The CPUs that may be used are those of the affinity and of the control group's quota, not those of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from curriculum.work.cpus import threads_per_process, usable_cpus


def machine(folder: Path, line: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": f"{line}\n", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/", {}, 16),
        ("0::/job", {"sys/fs/cgroup/job/cpu.max": "max 100000\n"}, 16),
        ("0::/job", {"sys/fs/cgroup/job/cpu.max": "300000 100000\n"}, 3),
        ("0::/job/a", {"sys/fs/cgroup/job/cpu.max": "150000 100000\n", "sys/fs/cgroup/job/a/cpu.max": "max 100000"}, 2),
        ("0::/", {"sys/fs/cgroup/cpu.max": "3200000 100000\n"}, 16),
        ("0::/", {"sys/fs/cgroup/cpu.max": "1000 100000\n"}, 1),
        ("0::/", {"sys/fs/cgroup/cpu.max": "no numbers\n"}, 16),
        (
            "4:cpu,cpuacct:/job",
            {
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        ("4:cpu:/", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 16),
    ],
)
def test_the_affinity_and_the_quota_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cpus(machine(tmp_path, line, files)) == expected


@pytest.mark.parametrize(
    ("variable", "chosen", "expected"),
    [(None, None, 2), ("6", None, 6), ("6", 3, 3), ("4,2", None, 4), ("all", None, 2), ("0", None, 2), ("", None, 2)],
)
def test_a_setting_then_the_users_variable_then_a_share_decides(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, chosen: int | None, expected: int
) -> None:
    monkeypatch.setattr("curriculum.work.cpus.usable_cpus", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert threads_per_process(4, chosen) == expected
    if variable is None:
        assert threads_per_process(100) == 1
