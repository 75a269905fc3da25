import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curriculum.arrange import arrange, replan
from curriculum.arrange.arrange import ArrangeSettings
from curriculum.arrange.replan import ReplanSettings, times_of
from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import verify
from curriculum.audit.audit import audit
from curriculum.audit.step_samples import samples_of_step
from curriculum.order.sampler import CurriculumSampler
from curriculum.preference import Pdpc, Shuffled, Tilt
from curriculum.tokens.tokens import Tokens

BATCH = 16


@pytest.fixture
def parent(tokens_folder, scores_folder, tmp_path):
    def make(**changes):
        settings = {
            "tokens": str(tokens_folder),
            "scores": str(scores_folder),
            "output": str(tmp_path / "parent"),
            "preference": Pdpc(),
            "batch_size": BATCH,
        }
        return arrange.run(ArrangeSettings(**{**settings, **changes}))

    return make


@pytest.fixture
def child(tokens_folder, scores_folder, tmp_path):
    def make(parent, **changes):
        settings = {
            "order": str(parent.folder),
            "from_step": 7,
            "tokens": str(tokens_folder),
            "scores": str(scores_folder),
            "output": str(tmp_path / "child"),
            "preference": Tilt(buckets=3, steepness=-6),
        }
        return replan.run(ReplanSettings(**{**settings, **changes}))

    return make


def test_the_read_part_stays_and_the_tail_holds_the_same_samples_in_another_order(parent, child):
    old = parent()
    new = child(old)
    cursor = 7 * BATCH
    assert (new[0:cursor] == old[0:cursor]).all()
    assert (new.bucket[0:cursor] == old.bucket[0:cursor]).all()
    assert sorted(new[cursor : len(new)]) == sorted(old[cursor : len(old)])
    assert not (new[cursor : len(new)] == old[cursor : len(old)]).all()
    assert new.stage_ends == old.stage_ends
    assert (new.counts[0:7][:, : len(old.buckets)] == old.counts[0:7]).all()
    verify(new.folder)


def test_labels_plan_and_counts_of_the_tail_agree(parent, child):
    new = child(parent())
    for step in range(new.steps):
        labels = new.cell[step * BATCH : (step + 1) * BATCH]
        assert (
            np.bincount(labels, minlength=len(new.bucket_of_cell)).tolist()
            == new.cell_counts[step : step + 1][0].tolist()
        )
    tail = slice(7, new.steps)
    off = np.cumsum(new.cell_counts[tail], axis=0) - np.cumsum(new.cell_plan[tail], axis=0, dtype=np.float64)
    assert np.abs(off).max() < 1.001


def test_the_tail_follows_the_new_preference(parent, child, scores):
    old = parent(preference=Shuffled())
    new = child(old, preference=Tilt(buckets=2, steepness=-30), from_step=5)
    pd = scores.column("pd")[new[5 * BATCH : len(new)]]
    assert pd[: len(pd) // 2].mean() > pd[len(pd) // 2 :].mean()


def test_the_manifest_names_the_parent_and_audits_what_was_used(parent, child, tmp_path):
    old = parent()
    new = child(old)
    facts = new.manifest.facts
    assert new.manifest.inputs["parent"] == old.fingerprint
    assert facts["ancestors"] == [old.fingerprint]
    assert facts["replanned_at"] == {"step": 7, "cursor": 7 * BATCH}
    assert facts["audit"] == {"read": 7 * BATCH, "left": len(old) - 7 * BATCH, "left_before": len(old) - 7 * BATCH}
    again = child(new, from_step=9, output=str(tmp_path / "grandchild"), preference=Shuffled())
    assert again.manifest.facts["ancestors"] == [old.fingerprint, new.fingerprint]
    assert (again[0 : 9 * BATCH] == new[0 : 9 * BATCH]).all()


def test_repeated_samples_stay_as_often_as_they_are_left(parent, child, tokens_folder):
    old = parent(preference=Pdpc(uses={"high": 2}))
    new = child(old)
    samples = len(Tokens.open(tokens_folder))
    cursor = 7 * BATCH
    assert (times_of(new, cursor, len(new), samples) == times_of(old, cursor, len(old), samples)).all()


def test_a_bucket_of_the_tail_can_be_left_out(parent, child, tokens_folder):
    old = parent()
    new = child(old, preference=Pdpc(uses={"low": 0}))
    assert len(new) < len(old)
    facts = new.manifest.facts
    ids = new[0 : len(new)]
    assert facts["different_samples"] == len(set(ids.tolist()))
    assert facts["different_samples"] + facts["left_out"] == len(Tokens.open(tokens_folder))
    assert new.stage_ends[-1] == new.steps


@pytest.mark.parametrize("step", [0, -1, 10**6])
def test_a_step_outside_the_order_is_refused(parent, child, step):
    with pytest.raises(ValueError, match=f"from_step={step} must lie between 0 and the"):
        child(parent(), from_step=step)


def test_other_samples_are_refused(parent, child, tmp_path):
    pq.write_table(pa.table({"quality": np.arange(50, dtype=np.float32)}), tmp_path / "own.parquet")
    alone = {"tokens": None, "scores": None, "own_scores": str(tmp_path / "own.parquet"), "preference": Shuffled()}
    old = parent()
    with pytest.raises(ArtifactError, match="arranges other tokens"):
        child(old, **alone)
    few = parent(**alone, output=str(tmp_path / "few"), batch_size=4)
    pq.write_table(pa.table({"quality": np.arange(60, dtype=np.float32)}), tmp_path / "own.parquet")
    with pytest.raises(ArtifactError, match="arranges 50 samples, but there are 60"):
        child(few, **alone)


def test_a_whole_child_is_reused(parent, child):
    old = parent()
    stamp = (child(old).folder / "ids.bin").stat().st_mtime_ns
    assert (child(old).folder / "ids.bin").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("size", [8, 24, 1])
def test_the_tail_takes_another_batch_size(parent, child, size):
    old = parent()
    new = child(old, batch_size=size)
    cursor = 7 * BATCH
    assert (new.batch_size, new.batch_sizes) == (size, [[0, BATCH], [7, size]])
    assert (new.first_step, new.first_cursor) == (7, cursor)
    assert new.steps == 7 + -(-(len(old) - cursor) // size)
    assert [new.cursor_after(step) for step in (0, 3, 7, 9, new.steps)] == [0, 48, cursor, cursor + 2 * size, len(new)]
    steps = new.steps_of(np.arange(len(new)))
    assert [int((steps == step).sum()) for step in (0, 6, 7, 8)] == [BATCH, BATCH, size, size]
    assert sorted(new[:]) == sorted(old[:])
    assert (new[:cursor] == old[:cursor]).all()
    assert new.stage[len(new) - 1] == len(new.stage_ends)
    result = audit(new, None, old)
    assert result.sound, [check for check in result.checks if check.sound is False]
    found = samples_of_step(new, 8)
    assert found.ids_B.tolist() == new[cursor : cursor + size].tolist()
    assert sum(len(samples_of_step(new, step).ids_B) for step in range(1, new.steps + 1)) == len(new)


def test_a_resized_tail_is_replanned_again_before_and_after_the_change(parent, child, tmp_path):
    first = child(parent(), batch_size=8)
    again = child(first, from_step=9, batch_size=32, output=str(tmp_path / "again"))
    assert again.batch_sizes == [[0, BATCH], [7, 8], [9, 32]]
    assert again.first_cursor == 7 * BATCH + 2 * 8
    assert (again[: again.first_cursor] == first[: again.first_cursor]).all()
    assert audit(again, None, first).sound
    kept = child(first, from_step=9, output=str(tmp_path / "kept"))
    assert kept.batch_sizes == first.batch_sizes
    back = child(first, from_step=5, batch_size=BATCH, output=str(tmp_path / "back"))
    assert (back.batch_sizes, back.first_cursor) == ([[0, BATCH]], 0)


def test_a_batch_size_below_one_is_refused(parent, child):
    with pytest.raises(ValueError, match="batch_size=-4 must be at least 1"):
        child(parent(), batch_size=-4)


def test_a_sampler_reads_a_resized_order_from_the_change_on(parent, child):
    order = child(parent(), batch_size=24)
    cursor = order.first_cursor
    ranks = [list(CurriculumSampler(order, 24, rank, 2, cursor)) for rank in range(2)]
    assert [ids for step in zip(*ranks, strict=True) for part in step for ids in part] == order[cursor:].tolist()
    assert len(CurriculumSampler(order, 24, 0, 1, cursor)) == order.steps - order.first_step
    with pytest.raises(ValueError, match=rf"cursor=0 is in the part .* another size: it continues .* cursor={cursor}"):
        CurriculumSampler(order, 24, 0, 1)
    with pytest.raises(ValueError, match=f"use {cursor}, or {cursor + 24}"):
        CurriculumSampler(order, 24, 0, 1, cursor + 8)
