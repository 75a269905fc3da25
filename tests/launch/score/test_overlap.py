"""Documents that a reference model has read count, also those that its initial weights were trained on."""

import json

import pytest

from curriculum.tokens.tokens import SLICES, Tokens
from launch.score.overlap import overlaps
from train.records.run_json import WRITTEN


@pytest.fixture
def facts_of(tokens_folder):
    def make(slice, **more):
        prints = {"tokens": Tokens.open(tokens_folder, slice).fingerprint}
        facts = dict.fromkeys(WRITTEN, "x")
        return {**facts, "paths": {"tokens": str(tokens_folder)}, "fingerprints": prints, **more}

    return make


def test_what_earlier_runs_have_read_counts(tokens_folder, facts_of, tmp_path):
    tokens = {name: Tokens.open(tokens_folder, name) for name in SLICES}
    assert overlaps(facts_of("reference"), tokens) == {"train": 0.0, "validation": 0.0, "reference": 1.0}
    for place in ("trunk", "trunk/export", "trunk/checkpoints/step_00000010"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "trunk" / "run.json").write_text(json.dumps(facts_of("train")))
        started = facts_of("reference", initial={"folder": str(tmp_path / place)})
        assert overlaps(started, tokens) == {"train": 1.0, "validation": 0.0, "reference": 1.0}


def test_a_run_that_no_longer_exists_is_unknown(tokens_folder, facts_of, tmp_path):
    tokens = {"train": Tokens.open(tokens_folder, "train")}
    assert overlaps(facts_of("reference", initial={"folder": str(tmp_path / "gone")}), tokens) == {"train": 0.0}
    assert overlaps({**facts_of("reference"), "paths": {"tokens": str(tmp_path)}}, tokens) == {}
