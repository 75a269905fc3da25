"""Drills of a step: there only when they are armed, and each at its moment."""

import re

import pytest

from tests.torture.forks import served
from tests.torture.runs import BATCH, PATIENCE_S, Material
from train import faults
from train.config.compose import compose
from train.hooks.choice import hooks_of
from train.records.consumed import read_consumed
from train.settings import TrainSettings

POINTS = ("loop.before_step", "loop.after_forward", "loop.after_backward", "loop.after_step", "loop.before_record")


@pytest.fixture
def armed():
    yield faults.arm
    faults.arm("")


def test_a_run_has_drills_only_when_they_are_armed(armed):
    settings = compose("train", TrainSettings, ["output=o", "arm=a", "data.tokens=t", "data.order=o"])
    armed("")
    usual = [hook.name for hook in hooks_of(settings)]
    assert not any("drills" in name for name in usual)
    armed("guard.loss:nth=3")
    assert [hook.name for hook in hooks_of(settings)] == ["drills", *usual, "late_drills"]


def test_the_points_of_a_step_are_passed_in_its_order_every_micro_batch_and_step(tmp_path):
    material = Material.make(tmp_path / "material")
    # Twelve samples per step in micro-batches of three: the first two forward passes are in the first step.
    words = ("log_every=1", "checkpoints.save_every=1")
    faulty = ",".join(f"{point}:nth={nth}:sleep=0" for point in POINTS for nth in (1, 2))
    with served() as forks:
        ranks = material.start(forks, tmp_path / "run", 1, words, fault=faulty)
        assert ranks.wait(PATIENCE_S) == [0], ranks.told()
    struck = re.findall(r"fault (\S+): sleep", ranks.told())
    before, forward, backward, after, record = POINTS
    assert struck == [before, forward, forward, backward, after, record, before, backward, after, record]


def test_a_rank_that_dies_after_the_update_has_it_not_on_record(tmp_path):
    material = Material.make(tmp_path / "material")
    with served() as forks:
        ranks = material.start(forks, tmp_path / "run", 1, (), fault="loop.after_step:nth=2:raise")
        assert ranks.wait(PATIENCE_S) == [1], ranks.told()
        assert read_consumed(tmp_path / "run").tolist() == material.order[:BATCH].tolist()
        assert material.finish(forks, tmp_path / "run", 1) is None
