"""The ranks meet within a time limit, and name those that are missing."""

import os
import re
import socket
import time

import psutil
import pytest

from tests.ports import free_port
from train.distributed import strangers
from train.distributed.exit_codes import FAILED, PORT_TAKEN
from train.distributed.secret import VARIABLE, proof, read_secret, write_secret
from train.distributed.store import STORE


def join(who, size, limit_s, lost, lives, named, late_s, folder):
    """Join as one rank, if it is one of `who`; it writes to a file that has its number as a name."""
    from datetime import timedelta

    import torch.distributed as dist

    from train.distributed import rendezvous as module
    from train.distributed.rendezvous import rendezvous
    from train.distributed.store import NotMet

    number = os.environ["RANK"]
    if int(number) not in who:
        return 0
    out = os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if number in lives:
        os.environ["PDPC_SECRET"] = f"{folder}/{lives[number]}"
    rank = named.get(number, int(number))
    module.LATE_S = late_s
    try:
        with rendezvous(rank, size, limit_s, os._exit) as store:
            print("met", flush=True)
            if rank == lost:
                os._exit(9)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(minutes=30))
        dist.barrier()
        print("connected", flush=True)
        return 0
    except NotMet as error:
        print(error, f"listens at {listening(int(os.environ['MASTER_PORT']))}", flush=True)
        return error.exit_code


def listening(port):
    """Return the addresses at which this process listens on a port."""
    found = psutil.Process().net_connections("tcp")
    return [f"{one.laddr.ip}:{one.laddr.port}" for one in found if one.status == "LISTEN" and one.laddr.port == port]


@pytest.fixture
def ended(forks, tmp_path):
    """Let some ranks of a world meet; return each one's output and exit code."""

    def run(who, size, limit_s, lost=None, port=None, lives=(), named=(), late_s=5.0, store=None):
        asked = {"who": who, "size": size, "limit_s": limit_s, "lost": lost, "folder": str(tmp_path)}
        asked |= {"lives": dict(lives), "named": dict(named), "late_s": late_s}
        for name in set(dict(lives).values()):
            write_secret(tmp_path / name)
        environment = {"MASTER_PORT": str(port or free_port()), **({STORE: str(store)} if store else {})}
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


def test_a_process_without_the_secret_is_refused_and_named(ended):
    ranks = ended([0, 1], 2, 2.0, lives={"0": "this", "1": "earlier"})
    assert {code for _, code in ranks.values()} == {FAILED}
    told = ranks[0][0]
    assert "of 2 ranks, 1 did not join" in told
    assert re.search(r"process \d+ on \S+ tried to join as rank 1 at 127\S+ without the secret of this attempt", told)


def test_a_stranger_does_not_keep_a_rank_from_its_place(ended):
    ranks = ended([0, 1, 2], 2, 20.0, lives={"0": "this", "1": "this"}, named={"2": 1})
    for rank in (0, 1):
        assert (ranks[rank][0].split()[-2:], ranks[rank][1]) == (["met", "connected"], 0)
    assert ranks[2][1] != 0


def test_ranks_of_one_machine_meet_in_a_file_and_listen_nowhere(ended, tmp_path):
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    with socket.socket() as taken:  # the port is of no use to them
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ranks = ended([0, 1, 2], 3, 60.0, port=taken.getsockname()[1], store=folder / "store")
    assert {(told, code) for told, code in ranks.values()} == {("met\nconnected\n", 0)}


def test_a_file_that_others_could_reach_is_refused(ended, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    told, code = ended([0, 1], 2, 2.0, store=folder / "store")[0]
    assert code == FAILED
    assert "is in a folder that others can enter" in told


def test_the_store_listens_on_loopback_only(ended):
    port = free_port()
    ranks = ended([0], 2, 1.5, port=port)
    assert "1 did not join" in ranks[0][0]
    assert f"listens at ['127.0.0.1:{port}']" in ranks[0][0]


def test_another_user_who_is_connected_is_named(monkeypatch, tmp_path):
    rows = ["  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"]
    for port, state, user in (
        (30000, "01", 4_000_001),
        (30000, "06", 4_000_002),
        (30001, "01", 4_000_003),
        (30000, "01", 0),
        (30000, "01", os.geteuid()),
    ):
        rows.append(
            f"   0: 0100007F:C0DE 0100007F:{port:04X} {state} 00000000:00000000 00:00000000 00000000  {user} 0 1"
        )
    (tmp_path / "tcp").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(strangers, "TABLES", (tmp_path / "tcp", tmp_path / "tcp6"))
    assert strangers.strangers(30000) == ["user 4000001"]
    assert strangers.strangers(1) == []


def test_a_secret_is_read_only_from_a_file_of_this_user(monkeypatch, tmp_path):
    path = tmp_path / "secret"
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_secret() is None
    write_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv(VARIABLE, str(path))
    first = read_secret()
    assert len(first) == 64
    write_secret(path)
    assert read_secret() != first
    assert proof(first, "1", "me") not in (proof(read_secret(), "1", "me"), proof(first, "2", "me"))
    for spoil, words in (
        (lambda: path.chmod(0o640), "is not a file that only this user can read"),
        (lambda: path.write_text(""), "is empty"),
        (path.unlink, "cannot be read"),
        (lambda: (path.unlink(), path.symlink_to(__file__)), "cannot be read"),
    ):
        write_secret(path)
        spoil()
        with pytest.raises(ValueError, match=rf"PDPC_SECRET=.*{words}"):
            read_secret()


def test_a_second_process_of_one_rank_is_rejected_by_name(ended):
    ranks = ended([0, 1, 2], 3, 3.0, named={"2": 1})
    told = ranks[1][0] + ranks[2][0]
    assert re.search(r"process \d+ on \S+ is rank 1, and so is process \d+ on \S+, which joined at 127", told)
    assert "end the processes left over from an earlier attempt" in told
    assert {code for _, code in ranks.values()} == {FAILED}
