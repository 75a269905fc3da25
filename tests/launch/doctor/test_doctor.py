"""The doctor on a healthy machine, its table, its limits, and every configuration."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.doctor import host
from launch.doctor.check import Check
from launch.doctor.checks import CHECKS, GROUPS
from launch.doctor.examine import examine
from tests.launch.doctor.conftest import Doctor
from tests.launch.doctor.test_faults import HOSTS, SSH, Program, only, subject, the

ROOT = Path(__file__).resolve().parents[3]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs/experiment").glob("*.yaml"))
MODELS = sorted(path.stem for path in (ROOT / "configs/model").glob("*.yaml"))
OTHERS = [
    f"{group}={path.stem}"
    for group in ("schedule", "tracker")
    for path in sorted((ROOT / "configs" / group).glob("*.yaml"))
]


def test_a_healthy_machine_has_no_failure(doctor: Doctor, healthy: list[str]) -> None:
    code, lines = doctor(*healthy)
    assert code == 0, lines
    assert [one for one in lines[:-1] if one.startswith("FAILED")] == []
    assert "gradient norm" in the(lines, "ok", "step")
    assert the(lines, "ok", "batch").endswith("8 samples = 1 ranks x 2 micro-batches of 4")
    assert re.fullmatch(r"\d+ ok, \d+ warnings?, 0 failures", lines[-1])
    assert not any(Path(healthy[-1].partition("=")[2]).parent.glob("**/.pdpc_doctor*")), "nothing is left behind"


def test_without_arguments_the_machine_is_checked(doctor: Doctor) -> None:
    code, lines = doctor("skip=[step,deepspeed,kernels,speed]")
    assert code == 0, lines
    assert "no run was described" in the(lines, "ok", "composed")


@pytest.mark.parametrize(
    "words", [[f"experiment={name}"] for name in EXPERIMENTS] + [[f"model={name}"] for name in MODELS] + [OTHERS[:1]]
)
def test_every_configuration_passes(words: list[str], doctor: Doctor, healthy: list[str]) -> None:
    data = [word for word in healthy if word.startswith(("data.", "output=", "processes="))]
    code, lines = doctor(
        "skip=[versions,filesystem,step,artifacts]",
        *data,
        "arm=a",
        "benchmarks.tasks=[]",
        "benchmarks.task_paths=[]",
        *words,
    )
    assert code == 0, lines
    assert "valid" in the(lines, "ok", "composed")


@pytest.mark.parametrize("word", OTHERS)
def test_every_schedule_and_tracker_passes(word: str, doctor: Doctor, healthy: list[str]) -> None:
    code, lines = doctor("only=[config,services]", *healthy, word)
    assert code == 0, lines


def test_large_models_on_a_machine_without_gpus_are_left_out(doctor: Doctor) -> None:
    code, lines = doctor(only("step"), "model=3b")
    assert code == 0
    assert "run pdpc doctor on a node with GPUs" in the(lines, "warning", "step")


def test_every_node_is_examined(doctor: Doctor, healthy: list[str], program: Program) -> None:
    program("ssh", SSH.format(other="ulimit -Sn 300"))
    words = [word for word in healthy if not word.startswith("processes=")]
    code, lines = doctor("only=[open_files,shm]", *HOSTS, *words)
    assert code == 1, lines
    assert the(lines, "ok", "node1: open_files")
    assert "a process may open 300 files" in the(lines, "FAILED", "node2: open_files")
    assert the(lines, "ok", "node2: shm")


def test_the_table_is_complete_and_documented() -> None:
    page = (ROOT / "docs/doctor.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page, flags=re.MULTILINE)
    assert rows == [(check.group, check.name) for check in CHECKS]
    assert len({check.name for check in CHECKS} | set(GROUPS)) >= len(CHECKS), "names are unique"
    for check in CHECKS:
        assert check.load().__doc__


def test_an_unknown_check_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    from launch.cli import main

    assert main(["doctor", "only=[gpu]"]) == 2
    assert "there is no check 'gpu': use groups (config, versions, gpus" in capsys.readouterr().err


def test_a_check_that_hangs_is_named_and_the_others_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "shm", lambda _: time.sleep(60))
    checks = [Check("host", "shm", "size of /dev/shm"), Check("host", "open_files", "limit of open files")]
    began = time.monotonic()
    assert examine(subject(), checks, timeout_s=0.2) == 1
    assert time.monotonic() - began < 30
    lines = capsys.readouterr().out.splitlines()
    assert "not done after 0.2 s: see what hangs there (size of /dev/shm)" in the(lines, "FAILED", "shm")
    assert the(lines, "ok", "open_files")


def test_a_check_that_cannot_be_interrupted_ends_the_doctor() -> None:
    code = """
import signal, time
from launch.doctor import examine, host
from launch.doctor.checks import selected
from tests.launch.doctor.test_faults import subject

def stuck(_):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGVTALRM})
    time.sleep(60)

host.shm, examine.STUCK_S, examine._load = stuck, 0.3, lambda _: None  # the latter: without torch
examine.examine(subject(), selected(["shm", "open_files"], []), 0.2)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "not done after 0.2 s" in done.stdout
    assert done.stdout.rstrip().endswith("the checks after it were not run")


def test_a_secret_is_not_printed(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", secret := "s3cr3t-and-longer")
    _, lines = doctor(only("composed"), f"output=runs/{secret}")
    assert secret not in "".join(lines)


def test_help_explains_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    from launch.cli import main

    assert main(["doctor", "--help"]) == 0
    assert "Checks to leave out" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "hosts"), [("local", []), ("hostfile", ["cluster.hosts=[node1]"]), ("slurm", [])])
def test_every_cluster_passes(
    name: str, hosts: list[str], doctor: Doctor, healthy: list[str], program: Program
) -> None:
    program("ssh", SSH.format(other="true"))
    for other in ("pdsh", "sbatch"):
        program(other, "true")
    words = [*hosts, *(["cluster.gpus_per_node=2"] if name != "local" else [])]
    code, lines = doctor("only=[config,programs,nodes]", f"cluster={name}", *words, *healthy[:-1])
    assert code == 0, lines


def test_an_allocation_is_reached_with_srun(doctor: Doctor, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("srun", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"')
    program("ssh", "exit 255")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    code, lines = doctor("only=[nodes]", "cluster=slurm", "cluster.gpus_per_node=1")
    assert code == 0, lines
    assert [the(lines, "ok", host).endswith("output folder") for host in ("n1", "n2")] == [True, True]
