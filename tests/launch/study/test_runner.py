"""Steps run once each, in order, side by side, and again only when they are missing."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curriculum.artifact.create import create
from curriculum.work.console import PlainConsole
from launch.study.progress import StudyProgress
from launch.study.runner import Runner, done_of
from launch.study.steps import Run, Step, Steps

ROOT = Path(__file__).parents[3]
DO = "import pathlib, sys; path = pathlib.Path(sys.argv[1]); path.mkdir(); (path / 'ran').write_text('x')"


def step(folder: Path, name: str, *needs: str, words: tuple[str, ...] = (), width: int | None = 1) -> Step:
    return Step(name, "demo", list(words), folder / name, list(needs), width)


def command(one: Step) -> list[str]:
    return [sys.executable, "-c", DO, str(one.output)]


def runner(folder: Path, steps: list[Step], make: object = command, room: int = 2) -> Runner:
    return Runner(folder, steps, room, None, make)  # type: ignore[arg-type]


def test_steps_run_after_what_they_need_and_once(tmp_path: Path) -> None:
    steps = [step(tmp_path, "a"), step(tmp_path, "b", "a"), step(tmp_path, "c", "a", "b")]
    assert runner(tmp_path, steps).run() == 0
    assert [done_of(tmp_path, one).is_file() for one in steps] == [True] * 3
    assert runner(tmp_path, steps).run() == 0  # their folders exist: a second mkdir would fail


def test_a_step_whose_output_is_gone_runs_again(tmp_path: Path) -> None:
    one = step(tmp_path, "a")
    runner(tmp_path, [one]).run()
    (one.output / "ran").unlink()
    one.output.rmdir()
    assert runner(tmp_path, [one]).run() == 0
    assert (one.output / "ran").is_file()


def test_a_failure_holds_up_what_needs_it_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(one: Step) -> list[str]:
        return (
            [sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"] if one.name == "a" else command(one)
        )

    steps = [step(tmp_path, "a"), step(tmp_path, "b", "a"), step(tmp_path, "c", "b"), step(tmp_path, "d")]
    assert runner(tmp_path, steps, broken).run() == 3
    assert "what went wrong" in capsys.readouterr().err
    assert [one.output.exists() for one in steps] == [False, False, False, True]
    assert runner(tmp_path, steps).run() == 0
    assert all(one.output.exists() for one in steps)


def test_the_end_of_a_log_cannot_speak_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = [sys.executable, "-c", "print('\\x1b]0;title\\x07'); raise SystemExit(3)"]
    assert runner(tmp_path, [step(tmp_path, "a")], lambda one: broken).run() == 3
    assert "\\x1b]0;title\\x07" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a namespace of processes")
def test_a_study_that_is_process_1_of_a_container(tmp_path: Path) -> None:
    words = ["unshare", "--pid", "--fork", sys.executable, "-c", SLOW, str(tmp_path)]
    if subprocess.run([*words[:3], "true"], check=False, capture_output=True).returncode:
        pytest.skip("namespaces of processes are not allowed here")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(words, env=environment, check=False, timeout=60).returncode == 0


def test_changed_settings_are_refused(tmp_path: Path) -> None:
    runner(tmp_path, [step(tmp_path, "a", words=("seed=0",))]).run()
    with pytest.raises(ValueError, match=r"was made with other settings \(pdpc demo seed=0\)"):
        runner(tmp_path, [step(tmp_path, "a", words=("seed=1",))])


def test_room_is_shared_out(tmp_path: Path) -> None:
    """Two steps of one CPU meet in a room of two; a step that needs everything runs by itself."""
    meet = (
        "import pathlib, sys, time\n"
        "path = pathlib.Path(sys.argv[1]); path.mkdir(); other = path.with_name(sys.argv[2])\n"
        "while not other.exists(): time.sleep(0.01)\n"
    )
    alone = "import pathlib, sys; path = pathlib.Path(sys.argv[1]); path.mkdir()"

    def make(one: Step) -> list[str]:
        other = {"a": "b", "b": "a"}.get(one.name)
        return [sys.executable, "-c", meet if other else alone, str(one.output), str(other)]

    steps = [step(tmp_path, "a"), step(tmp_path, "b"), step(tmp_path, "c", width=None)]
    assert runner(tmp_path, steps, make).run() == 0


def test_steps_at_the_same_time_have_different_gpus(tmp_path: Path) -> None:
    """Three GPUs: a run on two of them and one on the third meet; then one that asks for all has all."""
    meet = (
        "import os, pathlib, sys, time\n"
        "path = pathlib.Path(sys.argv[1]); path.mkdir()\n"
        "(path / 'gpus').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "others = [path.with_name(name) for name in sys.argv[2:]]\n"
        "while not all(other.exists() for other in others): time.sleep(0.01)\n"
    )

    def make(one: Step) -> list[str]:
        return [sys.executable, "-c", meet, str(one.output), *{"a": ["b"], "b": ["a"]}.get(one.name, [])]

    steps = [step(tmp_path, "a", width=2), step(tmp_path, "b"), step(tmp_path, "c", width=None)]
    assert Runner(tmp_path, steps, ["4", "5", "7"], None, make).run() == 0
    assert [(one.output / "gpus").read_text() for one in steps] == ["4,5", "7", "4,5,7"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_passed_on_and_nothing_else_starts(tmp_path: Path, number: signal.Signals) -> None:
    """Slurm's signal before the time limit reaches the run, which writes its checkpoint."""
    saves = (
        "import os, pathlib, signal, sys, time\n"
        "path = pathlib.Path(sys.argv[1]); path.mkdir(exist_ok=True)\n"
        "def save(number, frame): (path / 'saved').touch(); os._exit(128 + number)\n"
        "for number in (signal.SIGTERM, signal.SIGUSR1): signal.signal(number, save)\n"
        "if (path / 'saved').exists(): sys.exit()\n"
        "os.kill(os.getppid(), int(sys.argv[2])); time.sleep(30)\n"
    )

    def make(one: Step) -> list[str]:
        return [sys.executable, "-c", saves, str(one.output), str(int(number))]

    steps = [step(tmp_path, "a"), step(tmp_path, "b", "a")]
    assert runner(tmp_path, steps, make).run() == 128 + number
    assert (steps[0].output / "saved").exists()
    assert not steps[1].output.exists()
    assert not done_of(tmp_path, steps[0]).exists()
    assert runner(tmp_path, steps[:1], make).run() == 0


def test_a_damaged_or_replaced_output_is_named(tmp_path: Path) -> None:
    """A finished step's artifact must be complete, and the one that the study wrote; a run must be finished."""
    from tests.train.report.conftest import write_run, write_tokens

    def made(one: Step) -> list[str]:
        return [sys.executable, "-c", "pass"]

    tokens = Step("tokens", "prepare", [], tmp_path / "tokens", [], 1)
    assert runner(tmp_path, [tokens], made).run() == 1  # it succeeded without an output
    write_tokens(tokens.output)
    assert runner(tmp_path, [tokens], made).run() == 0
    ids = tokens.output / "train.ids.bin"
    data = ids.read_bytes()
    ids.write_bytes(data[:-2])
    with pytest.raises(ValueError, match=r"train\.ids\.bin has .* bytes instead of .*: it is damaged"):
        runner(tmp_path, [tokens], made)
    shutil.rmtree(tokens.output)
    write_tokens(tokens.output, {"other": 5})
    with pytest.raises(ValueError, match="was replaced after the study had made it"):
        runner(tmp_path, [tokens], made)
    run = Step("run", "train", [], tmp_path / "run", [], 1)
    write_run(run.output, "a", status="running")
    assert runner(tmp_path, [run], made).run() == 1


def test_progress(tmp_path: Path) -> None:
    """Half of one run and all of the other have been read: three quarters."""
    orders = [Step(f"order_{arm}_0", "arrange", [], tmp_path / f"order_{arm}", [], 1) for arm in ("a", "b")]
    runs = [Run(arm, "default", 0, Step(f"run_{arm}", "train", [], tmp_path / arm, [], 1)) for arm in ("a", "b")]
    output = io.StringIO()
    progress = StudyProgress(PlainConsole(file=output), Steps([*orders, *(run.step for run in runs)], runs))
    progress.line_every_s = 0.0
    progress.add([], [])
    assert output.getvalue() == "study:   0%, 0 of 4 steps done, 0 running\n"
    for order in orders:
        with create(order.output, "order", config={}, inputs={}) as draft:
            draft.facts.update(samples=10, seq_len=100)
    runs[0].step.output.mkdir()
    (runs[0].step.output / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "tokens": 500}\n{"kind": "tr')
    done = [*(order.name for order in orders), "run_b"]
    progress.add(done, [])
    progress.add(done, ["run_a"])
    line = "study:  75%, 3 of 4 steps done, 0 running, 1,500 of 2,000 training tokens"
    assert output.getvalue().splitlines()[1] == line


SLOW = """
import sys, time
from pathlib import Path
from launch.study.runner import Runner
from launch.study.steps import Step
folder = Path(sys.argv[1])
do = (
    "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); time.sleep(0.05); "
    "p.mkdir(exist_ok=True); open(p / 'n', 'a').write('x')"
)
steps = [Step(f"s{n}", "demo", [], folder / f"s{n}", [f"s{n - 1}"] if n % 3 else [], 1) for n in range(6)]
raise SystemExit(Runner(folder, steps, 2, None, lambda one: [sys.executable, "-c", do, str(one.output)]).run())
"""


def test_killed_at_random_moments(tmp_path: Path) -> None:
    draw = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], env=environment)
        time.sleep(draw.uniform(0.1, 0.8))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run([sys.executable, "-c", SLOW, str(tmp_path)], env=environment, check=False).returncode == 0
    assert sorted(path.name for path in tmp_path.glob("s*")) == [f"s{n}" for n in range(6)]
