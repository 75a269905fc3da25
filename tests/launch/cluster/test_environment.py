"""What the ranks of this machine get from the user's environment, and exit codes of what they may raise."""

from __future__ import annotations

import errno

import pytest

from launch.cluster.supervisor import launcher_environment
from train.distributed.exit_codes import DISK_FULL, FAILED, REFUSED, Refused, exit_code_of


def test_the_users_own_number_of_threads_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launcher_environment(8)["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert launcher_environment(8)["OMP_NUM_THREADS"] == "8"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "full"), DISK_FULL),
        (OSError(errno.EDQUOT, "full"), DISK_FULL),
        (OSError(errno.ENAMETOOLONG, "too long"), REFUSED),
        (PermissionError(errno.EACCES, "denied"), FAILED),
        (ValueError("bad"), REFUSED),
        (Refused("bad", 74), 74),
        (RuntimeError("broken"), FAILED),
    ],
)
def test_an_error_has_the_code_of_its_kind(error, code):
    assert exit_code_of(error) == code
