"""What a run lost to its guards: skipped steps and rollbacks, each step counted once."""

import json

import pytest

from curriculum.artifact.files import ArtifactError
from train.records.skipped import Lost, lost_until


def spike(step, **more):
    return {"step": step, "reason": "spike", "tokens": 10, **more}


def rollback(step, back):
    return {"step": step, "reason": "rollback", "weights_of_step": back, "tokens": 10 * (step - back)}


@pytest.fixture
def lost(tmp_path):
    def read(entries, step=1000):
        path = tmp_path / "skipped.jsonl"
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return lost_until(path, step)

    return read


def test_skipped_steps_are_counted_up_to_a_step(lost):
    entries = [spike(3), {**spike(8), "reason": "not_finite"}, spike(20)]
    assert lost(entries) == Lost(skipped=3, rollbacks=0, steps=3, tokens=30)
    assert lost(entries, step=8) == Lost(skipped=2, rollbacks=0, steps=2, tokens=20)
    assert lost([]) == Lost()


def test_a_rollback_loses_its_steps_once_though_some_were_skipped(lost):
    entries = [spike(3), spike(7), spike(9), rollback(9, back=6)]
    assert lost(entries) == Lost(skipped=3, rollbacks=1, steps=4, tokens=40)


def test_two_rollbacks_to_the_same_weights_lose_the_longer_stretch(lost):
    entries = [spike(9), rollback(9, back=6), spike(12), rollback(12, back=6), spike(15), rollback(15, back=12)]
    assert lost(entries) == Lost(skipped=3, rollbacks=3, steps=9, tokens=90)


def test_tokens_are_unknown_in_a_record_of_an_older_version(lost):
    assert lost([spike(3), {"step": 5, "reason": "spike"}]) == Lost(skipped=2, rollbacks=0, steps=2, tokens=None)


def test_a_record_without_its_fields_is_damaged(lost):
    with pytest.raises(ArtifactError, match=r"skipped\.jsonl"):
        lost([{"step": 5, "reason": "rollback"}])
