"""One rank of a verb: help, flags, rejections and exit codes, the same from every program that starts ranks."""

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import main
from launch.demo.demo import DemoSettings
from tests.conftest import write_text
from tests.ports import free_port
from tests.torture.forks import served
from train.distributed import signals
from train.distributed.entry import GIVE_WAY_S, RankVerb, run_rank
from train.distributed.exit_codes import DISK_FULL, FAILED, LEFT_ON_SIGINT, PORT_TAKEN, REFUSED, UNREADABLE, Refused
from train.distributed.signals import Left
from train.distributed.store import NotMet, PortTaken
from train.distributed.world import OtherRankFailed

ROOT = Path(__file__).parents[3]
NEEDED = ["output=run", "arm=a", "data.tokens=no_tokens", "data.order=no_order"]
MODULES = {"train": ["train"], **{verb: ["launch.rank", verb] for verb in ("prepare", "score", "evaluate")}}


def program(module, *words, **environment):
    """Run `python -m MODULE WORDS`."""
    where = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", **environment}
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, cwd=ROOT, env=where, capture_output=True, text=True, timeout=120)


def launched(*words):
    """Run two ranks with the DeepSpeed command line of a user; the launcher adds --local_rank."""
    place = ["--hostfile", os.devnull, "--num_gpus", "2", "--master_port", str(free_port()), "--log_level", "critical"]
    return program("deepspeed.launcher.runner", *place, "--module", *words)


@pytest.mark.parametrize("verb", MODULES)
def test_help_is_that_of_the_command_line_and_only_rank_0_prints_it(verb, capsys):
    assert main([verb, "--help"]) == 0
    wanted = capsys.readouterr().out
    assert wanted.startswith(f"pdpc {verb}: ")
    for rank, text in (("0", wanted), ("1", "")):
        done = program(*MODULES[verb], "--local_rank=0", "--help", RANK=rank)
        assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


@pytest.mark.parametrize("words", [["--help"], ["--accept-change", "x"], ["arm=[", "seed=1e"]])
def test_neither_help_nor_rejected_arguments_load_torch(words):
    code = f"import sys; from train.__main__ import main; main({words!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_the_launcher_keeps_no_word_of_ours():
    from deepspeed.launcher.runner import parse_args

    words = ["--help", "--accept-change", "x", "arm=a"]
    given = parse_args(["--num_gpus", "2", "--module", "train", *words])
    assert (given.user_script, given.user_args) == ("train", words)


def test_only_rank_0_prints_the_configuration():
    for rank, count in (("0", 1), ("1", 0)):
        done = program("train", "--local_rank=0", "--cfg", "job", "seed=7", RANK=rank)
        assert (done.returncode, done.stdout.count("seed: 7  # command line"), done.stderr) == (0, count, "")


@pytest.mark.parametrize("start", [program, launched], ids=["python", "deepspeed"])
def test_a_flag_reaches_the_run_and_its_rejection_is_logged_once(start):
    done = start("train", *NEEDED, "--accept-change", "seed", "--accept-change", "optimizer.lrr")
    assert done.returncode == REFUSED, done.stderr
    assert done.stderr.count("accept_change=optimizer.lrr is not a field of a run: ") == 1
    assert "Traceback" not in done.stderr


def test_only_verbs_that_run_on_ranks_are_started():
    done = program("launch.rank", "report")
    assert done.returncode == REFUSED
    assert done.stderr == "launch.rank: unknown verb 'report': use one of prepare, score, pairs score, evaluate\n"
    assert "--module launch.rank prepare" in program("launch.rank", "--help").stdout


@pytest.fixture
def rank(capsys, monkeypatch):
    """Run one rank whose work raises an error, or returns a value; return its exit code and its output."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook

    def be(outcome, *words, refusals=(ValueError,), **environment):
        def work(_settings, _overrides):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        verb = RankVerb("demo", "", DemoSettings, work, refusals=refusals)
        return run_rank(verb, words), capsys.readouterr().err

    yield be
    root.handlers[:], root.level, sys.excepthook = before


ENDS = {
    "done": (None, 0, ""),
    "a part failed": (1, 1, ""),
    "refused": (ValueError("the data\ndo not fit"), REFUSED, "pdpc demo: the data do not fit\n"),
    "unreadable": (Refused("demo: a cut file", UNREADABLE), UNREADABLE, "pdpc demo: a cut file\n"),
    "another rank failed": (OtherRankFailed("see there", DISK_FULL), DISK_FULL, ""),
    "lost connection": (
        RuntimeError("[gloo] Connection closed by peer [127.0.0.1]"),
        FAILED,
        "pdpc demo: rank 0 lost its connection to another rank, which ended first\n",
    ),
    "not met": (NotMet("rank 1 did not come"), FAILED, "pdpc demo: rank 1 did not come (rank 0)\n"),
    "port taken": (PortTaken("taken"), PORT_TAKEN, "pdpc demo: taken (rank 0)\n"),
    "no permission": (
        PermissionError(errno.EACCES, "denied", "run/\x1b[2J"),
        FAILED,
        "pdpc demo: [Errno 13] denied: 'run/\\x1b[2J' (rank 0)\n",
    ),
    "disk full": (OSError(errno.ENOSPC, "full"), DISK_FULL, "pdpc demo: [Errno 28] full (rank 0)\n"),
    "interrupted": (
        KeyboardInterrupt(),
        LEFT_ON_SIGINT,
        "pdpc demo: interrupted; run the same command again to resume\n",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_a_rank_ends(name, rank):
    outcome, code, said = ENDS[name]
    assert rank(outcome) == (code, said)


def test_a_rank_that_exited_on_request_or_failed(rank):
    code, said = rank(Left(signal.SIGTERM, 3))
    assert code == 143
    assert "exited on SIGTERM with a checkpoint of step 3" in said
    code, said = rank(RuntimeError("broke"))
    assert code == FAILED
    assert said.startswith("pdpc demo: rank 0 failed\nTraceback")


def test_an_error_that_is_no_rejection_is_a_failure(rank):
    code, said = rank(ValueError("shapes differ"), refusals=(Refused,))
    assert code == FAILED
    assert "Traceback" in said
    assert rank(Refused("no"), refusals=(Refused,)) == (REFUSED, "pdpc demo: no\n")
    assert rank(None, "seeed=1", refusals=(Refused,))[0] == REFUSED
    assert rank(None, PDPC_FAULT="nowhere:kill", refusals=(Refused,))[0] == REFUSED


def test_a_rejection_is_logged_by_one_rank_per_node_and_the_others_give_way(rank, monkeypatch):
    slept = []
    monkeypatch.setattr("train.distributed.entry.time.sleep", slept.append)
    assert rank(ValueError("no"), LOCAL_RANK="1", RANK="1") == (REFUSED, "")
    assert slept == []  # no launcher kills the others
    assert rank(ValueError("no"), LOCAL_RANK="1", RANK="1", CROSS_RANK="0") == (REFUSED, "")
    assert slept == [GIVE_WAY_S]
    assert rank(ValueError("no"), LOCAL_RANK="0", RANK="8") == (REFUSED, "pdpc demo: no\n")


def test_a_lost_rank_exits_with_the_code_that_the_other_one_posted(rank, monkeypatch):
    monkeypatch.setattr(signals, "posted", lambda: UNREADABLE)
    code, said = rank(RuntimeError("Connection reset by peer"))
    assert code == UNREADABLE
    assert said == "pdpc demo: rank 0 exits: another rank exited with code 74\n"


def test_ranks_of_a_chunked_verb_exit_with_the_code_of_the_one_that_failed(tmp_path):
    """Rank 0 waits until all are idle, and a rank whose disk is full never is."""
    write_text(tmp_path / "text", 200)
    words = ["prepare", f"input.paths=[{tmp_path}/text]", "tokenizer.name=train:280", "seq_len=32", "chunk_bytes=4000"]
    arguments = {"words": [*words, "--output", f"{tmp_path}/tokens"]}
    with served() as forks:
        fault = {"PDPC_FAULT": "chunk.half_written:rank=1:raise"}
        ranks = forks.start("tests.torture.forks:work", arguments, 2, tmp_path / "log", fault)
        assert ranks.wait(60) == [DISK_FULL, DISK_FULL], ranks.told()
    assert "No space left on device" in ranks.told()
