"""A rank that is rejected before it joins: the others leave with its message, and need not wait for it."""

import os
import re
import time

import pytest

from tests.ports import free_port


def join(rejected, folder):
    """Join as one of the ranks of several machines, unless it is the one that is rejected."""
    from train.distributed.rejection import RejectedElsewhere, tell
    from train.distributed.rendezvous import rendezvous

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.environ.update(LOCAL_SIZE="1", LOCAL_RANK="0")
    os.environ.pop("LOCAL_WORLD_SIZE", None)
    if rank == rejected:
        tell("pdpc train: data.tokens=/data/t does not exist", 2, os._exit)
        return 2
    try:
        with rendezvous(rank, size, 300.0, os._exit):
            return 0
    except RejectedElsewhere as error:
        (folder_of(folder) / str(rank)).write_text(str(error))
        return error.exit_code


def folder_of(text):
    from pathlib import Path

    return Path(text)


@pytest.mark.parametrize("rejected", [0, 2])
def test_the_others_leave_with_its_message(rejected, forks, tmp_path):
    began = time.monotonic()
    asked = {"rejected": rejected, "folder": str(tmp_path)}
    ranks = forks.start(f"{__name__}:join", asked, 3, tmp_path / "log", {"MASTER_PORT": str(free_port())})
    assert ranks.wait(120) == [2, 2, 2], ranks.told()
    assert time.monotonic() - began < 60  # and not the 300 s of the rendezvous
    message = rf"rank {rejected} \(process \d+ on .+\) was rejected: pdpc train: data\.tokens=/data/t does not exist"
    for rank in {0, 1, 2} - {rejected}:
        assert re.fullmatch(message, (tmp_path / str(rank)).read_text())
