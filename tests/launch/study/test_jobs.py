"""A study on Slurm: which jobs are submitted, after which others, and what they leave. Slurm's programs are fakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.cluster.machines import Hostfile, Local
from launch.cluster.slurm import Slurm
from launch.study import study
from launch.study.settings import StudySettings
from tests.launch.study import standin
from tests.launch.study.example import written

STEPS = {"tokens": {"verb": "prepare", "input.paths": ["corpus"]}}
NAMES = ["tokens", *(f"{name}_{seed}" for names in (
    ("order_shuffled", "order_late"), ("run_shuffled_default", "run_late_default"))
    for seed in range(2) for name in names)]  # fmt: skip


def put_program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which fakes of Slurm's programs keep what was submitted, and find what is queued."""
    put_program(
        tmp_path / "bin" / "sbatch",
        f'cd {tmp_path}; echo "$@" >> submitted; echo "$((100 + $(wc -l < submitted)));cluster"; [[ ! -e broken ]]',
    )
    put_program(tmp_path / "bin" / "squeue", f"cat {tmp_path}/queued")
    put_program(tmp_path / "bin" / "scontrol", f'echo "$@" >> {tmp_path}/requeued')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    for name in ("composed", "width", "room", "command"):
        monkeypatch.setattr(study, name, getattr(study, name))  # put back what `patch` changes
    standin.patch(study)
    return tmp_path


def settings(queue: Path, **more: object) -> StudySettings:
    more = {"cluster": Slurm(gpus_per_node=4, partition="a100"), **more}
    return StudySettings(str(written(queue, seeds=2, steps=STEPS)), str(queue / "study"), **more)  # type: ignore[arg-type]


def submitted(queue: Path) -> dict[str, str]:
    """Return the dependency of every job that was submitted, by name."""
    found = {}
    for line in (queue / "submitted").read_text().splitlines():
        *words, script = line.split()
        found[Path(script).stem] = next((word for word in words if word.startswith("--dependency")), "")
    return found


def test_every_step_is_a_job_after_those_it_needs(queue: Path) -> None:
    assert study.run(settings(queue)) == 0
    numbers = {name: 101 + place for place, name in enumerate([*NAMES, "page"])}
    found = submitted(queue)
    assert list(found) == list(numbers)
    assert found["tokens"] == ""
    late = f"--dependency=afterok:{numbers['tokens']}:{numbers['order_late_1']}"
    assert found["run_late_default_1"] == late
    assert found["page"] == f"--dependency=afterany:{':'.join(str(numbers[name]) for name in NAMES)}"
    assert json.loads((queue / "study" / "slurm" / "jobs.json").read_text()) == {
        name: str(number) for name, number in numbers.items()
    }
    run, tokens = (
        (queue / "study" / "slurm" / f"{name}.sbatch").read_text() for name in ("run_late_default_0", "tokens")
    )
    assert "#SBATCH --gpus=1\n" in run
    assert "--gpus" not in tokens
    assert "--exclusive" not in run
    assert "#SBATCH --partition=a100\n" in run


def test_what_is_missing_is_submitted_again(queue: Path) -> None:
    """Two runs have failed, the rest is queued: they and the page are submitted, after the jobs that are queued."""
    study.run(settings(queue))
    numbers = json.loads((queue / "study" / "slurm" / "jobs.json").read_text())
    failed = {"run_late_default_0", "run_shuffled_default_1"}
    (queue / "queued").write_text("".join(f"{number}\n" for name, number in numbers.items() if name not in failed))
    (queue / "submitted").write_text("x\n" * 50)
    study.run(settings(queue))
    again = {name: need for name, need in submitted(queue).items() if name != "x"}
    assert set(again) == {*failed, "page"}
    assert again["run_late_default_0"] == f"--dependency=afterok:{numbers['tokens']}:{numbers['order_late_0']}"
    assert again["page"].count(":") == len(NAMES)
    (queue / "queued").write_text(" ".join(json.loads((queue / "study" / "slurm" / "jobs.json").read_text()).values()))
    (queue / "submitted").unlink()
    study.run(settings(queue))
    assert not (queue / "submitted").exists()


def test_the_jobs_make_the_study(queue: Path) -> None:
    """What the scripts run, one after the other, is the study: afterwards only its page is submitted again."""
    study.run(settings(queue))
    for name in [*NAMES, "page"]:
        if name not in ("tokens", "page"):
            assert study.run(settings(queue, cluster=Local(), step=name)) == 0
            continue
        script = queue / "study" / "slurm" / f"{name}.sbatch"
        script.write_text(script.read_text().replace("-m launch.cli study", "-m tests.launch.study.standin study"))
        done = subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    assert "The page is" in done.stdout
    found = json.loads((queue / "study" / "results.json").read_text())
    assert (list(found["primary"]["values"]), found["notes"]) == (["0", "1"], [])
    (queue / "queued").touch()
    (queue / "submitted").unlink()
    study.run(settings(queue))
    assert list(submitted(queue)) == ["page"]


def test_a_dry_run_prints_the_scripts_and_submits_nothing(queue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.run(settings(queue, dry_run=True)) == 0
    printed = capsys.readouterr().out
    assert printed.count("#!/usr/bin/env bash") == len(NAMES) + 1
    command = "sbatch --parsable --dependency=afterok:tokens:order_late_0 --kill-on-invalid-dep=yes"
    assert f"# {command} {queue}/study/slurm/run_late_default_0.sbatch\n" in printed
    assert not (queue / "study").exists()
    assert not (queue / "submitted").exists()


def test_a_job_is_signalled_and_requeued_before_its_time_limit(queue: Path) -> None:
    waits = f"import pathlib, signal, sys, time\ndef save(*_): pathlib.Path('{queue}/saved').touch(); sys.exit(138)\n"
    waits += f"signal.signal(signal.SIGUSR1, save); pathlib.Path('{queue}/began').touch(); time.sleep(60)"
    path = queue / "run.sbatch"
    setup = [f'export PATH={queue}/bin:"$PATH"']
    path.write_text(Slurm(setup=setup).job([sys.executable, "-c", waits], path, 1))
    environment = {**os.environ, "SLURM_JOB_ID": "17"}
    job = subprocess.Popen(["bash", str(path)], env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not (queue / "began").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=30) == 0
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    assert (queue / "saved").exists()
    assert (queue / "requeued").read_text() == "requeue 17\n"


def test_a_step_waits_for_what_it_needs(queue: Path) -> None:
    with pytest.raises(ValueError, match="step=order_late_0 needs tokens: run that first"):
        study.run(settings(queue, cluster=Local(), step="order_late_0"))
    with pytest.raises(ValueError, match="step=late is not a step of this study: use page, tokens"):
        study.run(settings(queue, cluster=Local(), step="late"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cluster": Hostfile(hosts=["a"])}, "a study runs on this machine or by Slurm's queue"),
        ({"cluster": Local(), "dry_run": True}, "dry_run=true has no effect without cluster=slurm"),
        ({"cluster": Slurm(nodes=2)}, "every run of a study has one node"),
        ({"at_once": 2}, "at_once=2 has no effect with cluster=slurm"),
        ({"step": "page"}, "step=page has no effect with cluster=slurm"),
    ],
)
def test_settings_without_effect_are_rejected(queue: Path, more: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(queue, **more)


def test_too_little_time_for_a_checkpoint_and_a_failing_sbatch(queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"cluster\.signal_s=31 is too short for grace_s=2"):
        study.gpus_of(Slurm(signal_s=31), type("", (), {"grace_s": 2.0, "processes": None}))
    (queue / "broken").touch()
    with pytest.raises(ValueError, match=r"sbatch --parsable \S+tokens\.sbatch failed"):
        study.run(settings(queue))
    monkeypatch.setenv("PATH", str(queue))
    with pytest.raises(ValueError, match="sbatch is not installed here"):
        study.run(settings(queue))
