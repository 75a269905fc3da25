"""Twins hold their parent's samples; the mirrored plan runs backwards, the tied one stands still."""

import numpy as np
import pytest

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.arrange.replan import ReplanSettings
from curriculum.arrange.replan import run as replan
from curriculum.arrange.twin import TWINS, mirrored
from curriculum.artifact.blocks import add_blocks
from curriculum.artifact.create import create
from curriculum.artifact.files import ArtifactError
from curriculum.audit.audit import audit
from curriculum.order.order import KIND
from curriculum.preference import Pdpc, Sorted, Tilt
from curriculum.scores.columns import SampleColumns
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens
from launch.cli import main

PLAIN = Pdpc(stratify_by=None, floor=0.1, ceiling=0.9)


@pytest.fixture
def family(tokens_folder, scores_folder, tmp_path):
    """Return a function that arranges an order and its twins: (parent, twins by kind)."""

    def make(preference=PLAIN, samples=640, seed=0, **changes):
        places = {"tokens": str(tokens_folder), "scores": str(scores_folder), "output": str(tmp_path / "parent")}
        given = {"preference": preference, "batch_size": 16, "stages": 3, "max_tokens": 32 * samples, **changes}
        parent = run(ArrangeSettings(**places, **given))
        twins = {
            kind: run(ArrangeSettings(output=str(tmp_path / kind), twin=kind, twin_of=str(parent.folder), seed=seed))
            for kind in TWINS
        }
        return parent, twins

    return make


@pytest.fixture
def columns(tokens_folder, scores_folder):
    return SampleColumns(Tokens.open(tokens_folder), Scores.open(scores_folder), None)


def test_the_mirrored_order_is_the_parent_backwards_and_both_plans_sum_to_twice_the_tied_one(family):
    parent, twins = family()
    assert len(parent) == 640  # whole batches only
    assert (twins["mirrored"][:] == parent[:][::-1]).all()
    assert (twins["mirrored"].cell_counts[:] == parent.cell_counts[:][::-1]).all()
    both = parent.plan[0:40] + twins["mirrored"].plan[0:40]
    assert np.allclose(both, 2 * twins["tied"].plan[0:40], atol=0.1)
    assert np.ptp(parent.plan[0:40][:, 1]) > 10


@pytest.mark.parametrize(
    ("preference", "samples"),
    [
        (Pdpc(), 630),
        (PLAIN, 633),
        (Tilt(buckets=5, uses={"q1": 0, "q5": 3}), 635),
        (Sorted(stratify_by="source"), 631),
    ],
)
def test_every_twin_is_sound_and_holds_the_parents_samples(family, columns, preference, samples):
    parent, twins = family(preference, samples)
    for kind, twin in twins.items():
        result = audit(twin, columns, parent)
        assert [check for check in result.checks if check.sound is False] == []
        assert (twin.steps, twin.batch_size, twin.stage_ends) == (parent.steps, parent.batch_size, parent.stage_ends)
        assert twin.manifest.inputs["twin_of"] == parent.fingerprint
        same = np.unique if kind == "permuted" else np.sort
        assert (same(twin[:]) == same(parent[:])).all()
        unchecked = [check.name for check in result.checks if check.sound is None]
        assert unchecked == (["scores"] if kind == "permuted" or parent.buckets[0].uses == 0 else [])


def test_an_order_with_a_short_last_batch_is_mirrored_sample_by_sample(family):
    parent, twins = family(samples=633)
    twin = twins["mirrored"]
    sizes = np.diff([parent.cursor_after(step) for step in range(parent.steps + 1)])
    assert sizes[-1] == 9
    exact = mirrored(parent.cell_counts[:], sizes)
    assert np.allclose(exact.sum(axis=1), sizes)
    assert np.allclose(exact.sum(axis=0), parent.cell_counts[:].sum(axis=0))
    assert np.abs(np.cumsum(twin.cell_counts[:] - exact, axis=0)).max() < 1 + 1e-6
    assert np.allclose(
        mirrored(np.array([[2, 0], [1, 1], [0, 1]]), np.array([2, 2, 1])), [[0.5, 1.5], [1.5, 0.5], [1, 0]]
    )
    for cell in range(2):  # each step takes the last of the parent's samples that are left of a bucket
        left = parent[:][parent.cell[:] == cell][::-1]
        for step, count in enumerate(twin.cell_counts[:][:, cell]):
            part = slice(twin.cursor_after(step), twin.cursor_after(step + 1))
            assert set(twin[part][twin.cell[part] == cell]) == set(left[:count])
            left = left[count:]


def test_a_tied_order_has_no_direction_and_another_sequence(family, scores):
    parent, twins = family(Sorted(), 633)
    pd, position = scores.column("pd"), np.arange(633)
    assert np.corrcoef(pd[parent[:]], position)[0, 1] > 0.9
    assert np.corrcoef(pd[twins["mirrored"][:]], position)[0, 1] < -0.9
    for kind in ("tied", "permuted"):
        assert abs(np.corrcoef(pd[twins[kind][:]], position)[0, 1]) < 0.12


def test_a_tied_order_has_every_buckets_share_at_every_step(family):
    parent, twins = family()
    even = np.arange(1, 41)[:, None] * 16 * parent.cell_counts[:].sum(axis=0) / 640
    assert np.abs(np.cumsum(twins["tied"].cell_counts[:], axis=0) - even).max() < 1


def test_permuted_scores_keep_the_plan_and_every_source_in_its_place(family, tokens_folder, scores):
    parent, twins = family(Pdpc(), 637)
    twin, tokens = twins["permuted"], Tokens.open(tokens_folder)
    assert (twin.cell_counts[:] == parent.cell_counts[:]).all()
    assert (tokens.source_of(twin[:]) == tokens.source_of(parent[:])).all()
    assert (twin[:] == parent[:]).mean() < 0.05
    pd = scores.column("pd")
    for source in range(2):
        there = tokens.source_of(parent[:]) == source
        apart = [pd[order[:]][there & (order.bucket[:] == 1)].mean() for order in (parent, twin)]
        assert apart[0] > apart[1] + 0.03
    assert [(bucket.low, bucket.high) for bucket in twin.buckets] == [(None, None)] * 2


def test_a_twin_is_reused_and_depends_on_its_seed(family, tmp_path):
    parent, twins = family()
    words = {"twin_of": str(parent.folder), "twin": "tied"}
    assert run(ArrangeSettings(output=str(tmp_path / "tied"), **words)).fingerprint == twins["tied"].fingerprint
    with pytest.raises(ArtifactError, match="twin"):
        run(ArrangeSettings(output=str(tmp_path / "tied"), seed=1, **words))
    other = run(ArrangeSettings(output=str(tmp_path / "other"), seed=1, **words))
    assert (other[:] == twins["tied"][:]).mean() < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"twin": "tied"}, "needs twin_of=ORDER"),
        ({"twin_of": "o"}, "twin=None is unknown"),
        ({"twin_of": "o", "twin": "evil"}, "twin='evil' is unknown: use one of mirrored, tied, permuted"),
        ({"twin_of": "o", "twin": "tied", "batch_size": 32}, "batch_size has no effect with twin=tied"),
        ({"twin_of": "o", "twin": "tied", "preference": Tilt()}, "preference has no effect"),
        ({"twin_of": "o", "twin": "tied", "sources": ["web"]}, "sources has no effect"),
    ],
)
def test_settings_that_a_twin_does_not_read_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        ArrangeSettings(output="twin", **changes)


def test_twins_of_twins_and_of_replanned_orders_are_rejected(family, tokens_folder, scores_folder, tmp_path):
    parent, twins = family()
    places = {"tokens": str(tokens_folder), "scores": str(scores_folder), "output": str(tmp_path / "child")}
    child = replan(ReplanSettings(order=str(parent.folder), from_step=10, **places))
    for order, message in ((child, "was replanned"), (twins["tied"], "is a twin itself")):
        with pytest.raises(ValueError, match=message):
            run(ArrangeSettings(output=str(tmp_path / "no"), twin="tied", twin_of=str(order.folder)))


def test_the_command_line_writes_and_verifies_a_twin(family, tmp_path, capsys):
    parent, _ = family(samples=633)
    twin = tmp_path / "again"
    assert main(["arrange", f"twin_of={parent.folder}", "twin=mirrored", f"output={twin}"]) == 0
    assert main(["inspect", str(twin), "--verify", f"parent={parent.folder}"]) == 0
    shown = capsys.readouterr().out
    assert "twin          mirrored, seed 0" in shown
    assert "it holds the parent's 633 different samples" in shown
    assert main(["arrange", f"twin_of={parent.folder}", "twin=mirrored", "preference=tilt", f"output={twin}"]) == 2


def test_a_parent_that_contradicts_itself_is_rejected(family, tmp_path):
    """Its files have the right checksums, but the plan is that of other positions."""
    parent, _ = family()
    forged, counts = tmp_path / "forged", parent.cell_counts[:][:, ::-1]
    assert (counts != parent.cell_counts[:]).any()
    with create(forged, KIND, config=parent.manifest.config, inputs=parent.manifest.inputs) as draft:
        for name in ("ids.bin", "cells.bin", "plan.bin"):
            (draft.path / name).write_bytes((parent.folder / name).read_bytes())
        (draft.path / "counts.bin").write_bytes(np.ascontiguousarray(counts, "<i4").tobytes())
        draft.facts |= parent.manifest.facts
        add_blocks(draft)
    with pytest.raises(ArtifactError, match="its positions are not those of its plan"):
        run(ArrangeSettings(output=str(tmp_path / "twin"), twin="tied", twin_of=str(forged)))
