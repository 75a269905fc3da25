"""The ranks meet within a time limit, and name those that are missing."""

import os
import re
import socket
import time

import pytest

from train.distributed.exit_codes import FAILED, PORT_TAKEN
from tests.ports import free_port


def join(who, size, limit_s, lost, lives, named, late_s, folder):
    """Join as one rank, if it is one of `who`; it writes to a file that has its number as a name."""
    from datetime import timedelta

    import torch.distributed as dist

    from train.distributed import rendezvous as module
    from train.distributed.rendezvous import NotMet, rendezvous

    number = os.environ["RANK"]
    if int(number) not in who:
        return 0
    out = os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ["PDPC_LIFE"] = lives.get(number, "")
    rank = named.get(number, int(number))
    module.LATE_S = late_s
    try:
        with rendezvous(rank, size, limit_s, os._exit):
            print("met", flush=True)
            if rank == lost:
                os._exit(9)
            dist.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(minutes=30))
        dist.barrier()
        print("connected", flush=True)
        return 0
    except NotMet as error:
        print(error, flush=True)
        return error.exit_code


@pytest.fixture
def ended(forks, tmp_path):
    """Let some ranks of a world meet; return each one's output and exit code."""

    def run(who, size, limit_s, lost=None, port=None, lives=(), named=(), late_s=5.0):
        asked = {"who": who, "size": size, "limit_s": limit_s, "lost": lost, "folder": str(tmp_path)}
        asked |= {"lives": dict(lives), "named": dict(named), "late_s": late_s}
        environment = {"MASTER_PORT": str(port or free_port())}
        ranks = forks.start(f"{__name__}:join", asked, max(who) + 1, tmp_path / "log", environment)
        codes = ranks.wait(60)
        ranks.kill()
        return {rank: ((tmp_path / str(rank)).read_text(), codes[rank]) for rank in who}

    return run


def test_ranks_that_join_are_connected(ended):
    for told, code in ended([0, 1, 2], 3, 60.0).values():
        assert told.split() == ["met", "connected"]
        assert code == 0


def test_missing_ranks_are_named(ended):
    began = time.monotonic()
    ranks = ended([0, 2], 4, 2.0)
    assert time.monotonic() - began < 30
    assert {code for _, code in ranks.values()} == {FAILED}
    assert "of 4 ranks, 1, 3 did not join within 2 s" in " ".join(told for told, _ in ranks.values())
    assert all("run the same command again" in told for told, _ in ranks.values())


def test_a_world_without_its_first_rank_is_not_waited_for(ended):
    ((told, code),) = ended([1], 2, 1.0).values()
    assert code == FAILED
    assert "rank 0 was not found at 127.0.0.1:" in told


def test_a_rank_that_is_lost_while_they_are_connected_is_not_waited_for(ended):
    ranks = ended([0, 1], 2, 3.0, lost=1)
    assert ranks[1] == ("met\n", 9)
    assert ranks[0][1] == FAILED
    assert "one was lost meanwhile" in ranks[0][0]


def test_a_port_that_is_taken_is_named(ended):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ((told, code),) = ended([0], 2, 5.0, port=taken.getsockname()[1]).values()
    assert code == PORT_TAKEN
    assert "rank 0 cannot listen at 127.0.0.1:" in told
    assert f"process {os.getpid()} holds it" in told
    assert "start the run on another port" in told


def test_a_listener_that_never_answers_is_not_waited_for(ended):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ((told, code),) = ended([1], 2, 1.0, port=other.getsockname()[1], late_s=0.5).values()
    assert code == FAILED
    assert "within 1 s: check that rank 0 of this run listens there" in told


def test_a_rank_of_another_attempt_is_not_counted(ended):
    ranks = ended([0, 1], 2, 2.0, lives={"0": "this", "1": "earlier"})
    assert {code for _, code in ranks.values()} == {FAILED}
    assert "of 2 ranks, 1 did not join" in ranks[0][0]


def test_a_second_process_of_one_rank_is_rejected_by_name(ended):
    ranks = ended([0, 1, 2], 3, 3.0, named={"2": 1})
    told = ranks[1][0] + ranks[2][0]
    assert re.search(r"process \d+ on \S+ is rank 1, and so is process \d+ on \S+, which joined at 127", told)
    assert "end the processes left over from an earlier attempt" in told
    assert {code for _, code in ranks.values()} == {FAILED}
