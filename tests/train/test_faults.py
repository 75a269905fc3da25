"""Fault points: the syntax, what each action does, and that every point in the code is in the table."""

import ast
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import main
from train import faults

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _disarm():
    yield
    faults.arm("")


def test_a_point_that_is_not_armed_does_nothing():
    faults.arm("")
    faults.fault("loop.before_step")
    assert not faults.poisoned("guard.loss")


def test_a_fault_strikes_the_nth_time_only_on_its_rank(monkeypatch):
    faults.arm("loop.after_step:rank=1:nth=2:raise, guard.loss:nth=1,guard.loss:nth=3")
    for _ in range(3):
        faults.fault("loop.after_step")
    monkeypatch.setenv("RANK", "1")
    faults.fault("loop.after_step")
    with pytest.raises(RuntimeError, match=r"fault loop\.after_step"):
        faults.fault("loop.after_step")
    faults.fault("loop.after_step")
    assert [faults.poisoned("guard.loss") for _ in range(4)] == [True, False, True, False]


def test_raise_is_a_full_disk_where_a_file_is_written():
    faults.arm("checkpoint.after_shard:raise")
    with pytest.raises(OSError, match="No space left on device") as caught:
        faults.fault("checkpoint.after_shard")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loop.befor_step", "did you mean loop.before_step"),
        ("nonsense", "The points are world.joined, "),
        ("loop.before_step:explode", "'explode' in 'loop.before_step:explode' is invalid: use rank=R, nth=N"),
        ("loop.before_step:nth=0", "'nth=0' in"),
        ("loop.before_step:nan", "action 'nan' does not fit loop.before_step"),
        ("guard.loss:kill", "use only nan"),
    ],
)
def test_invalid_faults_are_rejected_with_a_suggestion(text, said):
    with pytest.raises(ValueError, match=r"^PDPC_FAULT: ") as caught:
        faults.arm(text)
    assert said in str(caught.value)


def test_every_point_in_the_code_is_in_the_table_and_the_other_way_round():
    named = set()
    for path in [*ROOT.glob("train/**/*.py"), *ROOT.glob("launch/**/*.py"), *ROOT.glob("curriculum/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if called in ("fault", "poisoned", "_mark"):  # scoring is told its mark: curriculum knows no faults
                assert isinstance(node.args[0], ast.Constant), f"{path}: a point is named by a literal"
                named.add(node.args[0].value)
    assert named <= set(faults.POINTS)
    assert {point for point in faults.POINTS if not point.startswith("tracker.")} <= named


@pytest.mark.parametrize(("action", "code"), [("kill", -9), ("exit", 1)])
def test_kill_and_exit_end_the_process(action, code):
    program = f"from train import faults; faults.arm('loop.before_step:{action}'); faults.fault('loop.before_step')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert f"fault loop.before_step: {action} (rank 0)" in done.stderr


def test_doctor_lists_the_points_and_an_unknown_one_is_rejected_before_the_run(capsys, monkeypatch):
    assert main(["doctor", "--faults"]) == 0
    out = capsys.readouterr().out
    for name, point in faults.POINTS.items():
        assert name in out
        assert point.about in out
    monkeypatch.setenv("PDPC_FAULT", "nowhere:kill")
    assert main(["doctor", "--faults"]) == 2
    assert "there is no point 'nowhere'" in capsys.readouterr().err
