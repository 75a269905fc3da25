"""The ranks meet within a time limit, and name those that did not come."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.exit_codes import FAILED
from train.world import free_port

ROOT = Path(__file__).parents[2]
RANK = """
import logging, os, sys
from datetime import timedelta
import torch.distributed as dist
from train.meeting import NotMet, meeting
logging.basicConfig(format="%(message)s")
rank, size, limit_s, lost = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
try:
    with meeting(rank, size, limit_s, os._exit):
        print("met", flush=True)
        if rank == lost:
            os._exit(9)
        dist.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(minutes=30))
    dist.barrier()
    print("connected", flush=True)
    os._exit(0)
except NotMet as error:
    print(error, flush=True)
    os._exit(1)
"""


@pytest.fixture
def ranks():
    """Start ranks of a world; what is left of them is killed."""
    started = []

    def start(who, size, limit_s, lost=-1):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "PYTHONPATH": str(ROOT)}
        for rank in who:
            words = [sys.executable, "-c", RANK, *map(str, (rank, size, limit_s, lost))]
            started.append(
                subprocess.Popen(
                    words, env={**os.environ, **place}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
        return {
            rank: (process.communicate(timeout=60)[0], process.returncode)
            for rank, process in zip(who, started, strict=True)
        }

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_ranks_that_come_are_connected(ranks):
    for told, code in ranks([0, 1, 2], 3, 60.0).values():
        assert told.split() == ["met", "connected"]
        assert code == 0


def test_who_does_not_come_is_named(ranks):
    began = time.monotonic()
    ended = ranks([0, 2], 4, 4.0)
    assert time.monotonic() - began < 30
    assert {code for _, code in ended.values()} == {FAILED}
    told = " ".join(text for text, _ in ended.values())
    assert "of 4 ranks, 1, 3 did not come within 4 s" in told
    assert "run the same command again" in ended[2][0]


def test_a_world_without_its_first_rank_is_not_waited_for(ranks):
    ((told, code),) = ranks([1], 2, 2.0).values()
    assert code == FAILED
    assert "rank 0 was not found at 127.0.0.1:" in told


def test_a_rank_that_is_lost_while_they_are_connected_is_not_waited_for(ranks):
    ended = ranks([0, 1], 2, 4.0, lost=1)
    assert ended[1] == ("met\n", 9)
    assert ended[0][1] != 0
    assert "one was lost meanwhile" in ended[0][0]
