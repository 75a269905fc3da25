"""Steps run once each, in order, side by side, and again only when they are missing."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.study.runner import Runner, done_of
from launch.study.steps import Step

ROOT = Path(__file__).parents[3]
DO = "import pathlib, sys; path = pathlib.Path(sys.argv[1]); path.mkdir(); (path / 'ran').write_text('x')"


def step(folder: Path, name: str, *needs: str, words: tuple[str, ...] = (), width: int | None = 1) -> Step:
    return Step(name, "prepare", list(words), folder / name, list(needs), width)


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
    with pytest.raises(ValueError, match=r"was made with other settings \(pdpc prepare seed=0\)"):
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
steps = [Step(f"s{n}", "prepare", [], folder / f"s{n}", [f"s{n - 1}"] if n % 3 else [], 1) for n in range(6)]
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
