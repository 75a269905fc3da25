"""Stage evaluations at ZeRO 3 where memory is short: they need less, fail on record, and never end or block the run."""

from __future__ import annotations

import pytest

from tests.torture.runs import PATIENCE_S, Ending, Material, difference
from train.evaluation.evaluate import FAILED

WORDS = ["zero.stage=3"]
BY_BLOCK = "gathers the weights of one block at a time"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return Material.make(tmp_path_factory.mktemp("zero3") / "material", stages=2, samples=60)


@pytest.fixture(scope="module")
def whole(material, forks, tmp_path_factory):
    """The end of an undisturbed run."""
    folder = tmp_path_factory.mktemp("zero3") / "whole"
    assert material.finish(forks, folder, 2, WORDS) is None
    return Ending.of(folder)


def test_a_model_that_does_not_fit_whole_is_evaluated_block_by_block(material, whole, forks, tmp_path):
    ranks = material.start(forks, tmp_path / "run", 2, WORDS, "memory.trial:rank=1:device_memory")
    assert ranks.wait(PATIENCE_S) == [0, 0], ranks.told()
    assert ranks.told().count(BY_BLOCK) == 1  # at the first stage; at the second everything fits
    assert difference(tmp_path / "run", material, whole) is None


def test_an_evaluation_without_memory_for_a_block_is_recorded_as_failed(material, whole, forks, tmp_path):
    fault = ",".join(f"memory.trial:rank=1:nth={nth}:memory" for nth in (2, 1))  # one that strikes hides later ones
    ranks = material.start(forks, tmp_path / "run", 2, WORDS, fault)
    assert ranks.wait(PATIENCE_S) == [0, 0], ranks.told()
    assert "heldout failed; fix the cause and rerun with: pdpc evaluate run=" in ranks.told()
    ending = Ending.of(tmp_path / "run")
    first, second = (record for record in ending.records if record["kind"] == "stage")
    assert first[FAILED] == "heldout"
    assert first["val/error"].startswith("out of memory for the weights of an evaluation (those of one block need")
    assert second == [record for record in whole.records if record["kind"] == "stage"][1]
    assert (ending.weights, ending.losses()) == (whole.weights, whole.losses())


@pytest.mark.parametrize("action", ["kill", "raise"])
def test_a_run_that_ended_while_gathering_resumes_block_by_block(material, whole, forks, tmp_path, action):
    """`raise` is an error of one rank only, which no collective can report: the others are in the gather."""
    ranks = material.start(forks, tmp_path / "run", 2, WORDS, f"memory.trial:rank=0:{action}")
    assert 0 not in ranks.wait(PATIENCE_S), ranks.told()
    ranks = material.start(forks, tmp_path / "run", 2, WORDS)
    assert ranks.wait(PATIENCE_S) == [0, 0], ranks.told()
    assert f"gathering all weights ended the process at an earlier attempt: the evaluation {BY_BLOCK}" in ranks.told()
    assert ranks.told().count(BY_BLOCK) == 1
    assert difference(tmp_path / "run", material, whole) is None


def test_a_held_out_loss_that_ends_the_process_is_skipped_at_the_fourth_attempt(material, forks, tmp_path):
    for _ in range(3):
        ranks = material.start(forks, tmp_path / "run", 1, fault="heldout.batch:kill")
        assert ranks.wait(PATIENCE_S) == [-9], ranks.told()
    ranks = material.start(forks, tmp_path / "run", 1)
    assert ranks.wait(PATIENCE_S) == [0], ranks.told()
    first, second = (record for record in Ending.of(tmp_path / "run").records if record["kind"] == "stage")
    assert first["val/error"] == "ended the process at 3 earlier attempts"
    assert second["val/loss"] > 0
