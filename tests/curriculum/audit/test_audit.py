import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.arrange.interleave import OrderWriter
from curriculum.artifact.blocks import BLOCK_BYTES
from curriculum.artifact.create import create
from curriculum.artifact.files import ArtifactError
from curriculum.audit import origin, positions
from curriculum.audit.audit import audit
from curriculum.order.order import CELLS, COUNTS, IDS, PLAN, Order
from curriculum.preference import Pdpc, Shuffled, Sorted, Tilt
from curriculum.scores.columns import SampleColumns
from curriculum.scores.own import OwnScores
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens

FACTS = [
    "samples",
    "different_samples",
    "left_out",
    "repeated",
    "buckets",
    "strata",
    "cells",
    "edges",
    "spread_evenly",
    "steps",
    "batch_size",
    "stage_ends",
    "slice",
    "seq_len",
]


@pytest.fixture
def columns(tokens_folder, scores_folder):
    return SampleColumns(Tokens.open(tokens_folder), Scores.open(scores_folder), None)


@pytest.fixture
def arranged(tokens_folder, scores_folder, tmp_path):
    def make(name="order", **changes):
        base = {"preference": Pdpc(), "batch_size": 16, "stages": 2, "workers": 1}
        places = {"tokens": str(tokens_folder), "scores": str(scores_folder), "output": str(tmp_path / name)}
        return run(ArrangeSettings(**{**places, **base, **changes}))

    return make


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An order of several blocks, arranged from own scores only."""
    root = tmp_path_factory.mktemp("large")
    scores = np.random.default_rng(0).normal(size=400_000).astype(np.float32)
    pq.write_table(pa.table({"quality": scores}), root / "own.parquet")
    preference = Tilt(score="quality", buckets=6, uses={"q1": 0, "q6": 3})
    return run(
        ArrangeSettings(
            own_scores=str(root / "own.parquet"), output=str(root / "order"), preference=preference, workers=1
        )
    )


def wrong(result):
    return {check.name: check.said for check in result.checks if check.sound is False}


def rewritten(order, folder, inputs=None, ids=None, cells=None, counts=None, plan=None, **facts):
    """Return an order with other contents and checksums that match them."""
    kept = {key: order.manifest.facts[key] for key in FACTS}
    steps, width = order.steps, len(order.bucket_of_cell)
    inputs = order.manifest.inputs if inputs is None else inputs
    with (
        create(folder, "order", config=order.manifest.config, inputs=inputs) as draft,
        OrderWriter(draft, 1 << 20, width) as writer,
    ):
        writer.positions(order[:] if ids is None else ids, order.cell[:] if cells is None else cells)
        writer.steps(
            order.cell_plan[0:steps] if plan is None else plan, order.cell_counts[0:steps] if counts is None else counts
        )
        draft.facts.update(writer.finish(), **{**kept, **facts})
    return Order.open(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"preference": Pdpc(stratify_by=None, folds=3)},
        {"preference": Tilt(buckets=5, uses={"q1": 0, "q5": 3})},
        {"preference": Sorted(descending=True)},
        {"preference": Shuffled(uses={"all": 2})},
        {"max_tokens": 20_000},
        {"max_tokens": 20_000, "preference": Shuffled()},
    ],
)
def test_what_arrange_makes_is_sound(arranged, columns, changes):
    order = arranged(**changes)
    result = audit(order, columns)
    assert [check for check in result.checks if check.sound is not True] == []
    assert result.sound
    assert result.positions == len(order)
    assert result.different_samples == order.manifest.facts["different_samples"]
    assert result.deviation < 1
    assert result.most_uses == max(bucket.uses for bucket in order.buckets)


def test_a_bucket_left_out_of_a_part_of_the_slice_is_not_compared(arranged, columns):
    order = arranged(max_tokens=20_000, preference=Tilt(buckets=4, uses={"q1": 0}))
    assert [check.name for check in audit(order, columns).checks if check.sound is None] == ["scores"]


def test_unscored_samples_are_audited_too(tmp_path):
    scores = np.arange(500, dtype=np.float32)
    scores[::7] = np.nan
    pq.write_table(pa.table({"quality": scores}), tmp_path / "own.parquet")
    own = str(tmp_path / "own.parquet")
    preference = Tilt(score="quality", uses={"unscored": 2})
    order = run(
        ArrangeSettings(
            own_scores=own, output=str(tmp_path / "o"), preference=preference, nonfinite="bucket", batch_size=8
        )
    )
    result = audit(order, SampleColumns(None, None, OwnScores(own)))
    assert [check for check in result.checks if check.sound is not True] == []
    assert result.most_uses == 2


def test_chunks_do_not_change_the_audit(arranged, columns, monkeypatch):
    order = arranged(preference=Tilt(uses={"q3": 2}))
    whole = audit(order, columns)
    for module in (positions, origin):
        monkeypatch.setattr(module, "AT_ONCE", 100)
    assert audit(order, columns) == whole


@pytest.mark.parametrize("name", [IDS, CELLS, PLAN, COUNTS])
def test_a_flipped_bit_is_named_with_its_block(large, tmp_path, name):
    shutil.copytree(large.folder, tmp_path / "bad")
    data = bytearray((tmp_path / "bad" / name).read_bytes())
    blocks = -(-len(data) // BLOCK_BYTES)
    at = len(data) - 1
    data[at] ^= 4
    (tmp_path / "bad" / name).write_bytes(data)
    result = audit(Order.open(tmp_path / "bad"))
    assert not result.sound
    found = wrong(result)
    assert list(found) == ["files"]
    first = (blocks - 1) * BLOCK_BYTES
    assert found["files"] == f"{name} is damaged in block {blocks - 1} of {blocks} (bytes {first:,} to {at:,})"
    assert result.checks[-1].said.startswith("not read, because files are damaged")
    assert result.positions is None


def test_damage_in_several_blocks_is_counted(large, tmp_path):
    shutil.copytree(large.folder, tmp_path / "bad")
    data = bytearray((tmp_path / "bad" / IDS).read_bytes())
    data[0] ^= 1
    data[-1] ^= 1
    (tmp_path / "bad" / IDS).write_bytes(data)
    assert "block 0 of" in wrong(audit(Order.open(tmp_path / "bad")))["files"]
    assert "and 1 more blocks" in wrong(audit(Order.open(tmp_path / "bad")))["files"]


def test_damaged_checksums_and_torn_files_do_not_open(large, tmp_path):
    for name, change in (("blocks.bin", lambda data: bytes([data[0] ^ 1]) + data[1:]), (IDS, lambda data: data[:-1])):
        folder = tmp_path / name
        shutil.copytree(large.folder, folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        with pytest.raises(ArtifactError, match=name):
            Order.open(folder)


def test_a_changed_manifest_is_found(large, tmp_path, edit_manifest):
    shutil.copytree(large.folder, tmp_path / "bad")
    facts = large.manifest.facts
    changed = {"left_out": facts["left_out"] - 1, "different_samples": facts["different_samples"] + 1}
    edit_manifest(tmp_path / "bad", lambda fields: fields["facts"].update(changed))
    found = wrong(audit(Order.open(tmp_path / "bad")))
    assert set(found) == {"manifest", "samples"}
    assert found["manifest"].startswith(f"fingerprint is {large.fingerprint}, but its contents give ")


def test_a_sample_in_the_place_of_another_is_found(arranged, tmp_path):
    order = arranged()
    ids = order[:]
    lost, ids[100] = ids[100], ids[7]
    result = audit(rewritten(order, tmp_path / "bad", ids=ids))
    found = wrong(result)
    assert set(found) == {"samples", "uses"}
    assert found["uses"].startswith(f"sample {ids[7]} occurs 2 times, 1 planned for bucket ")
    assert "(2 positions are wrong)" in found["uses"]
    assert f"{len(order) - 1:,} different, 1 left out, 1 repeated, but the manifest says" in found["samples"]
    assert lost != ids[7]


def test_a_sample_too_many_in_a_repeated_bucket_is_found(large, tmp_path):
    ids = large[:]
    first, *_, last = np.flatnonzero(large.bucket[:] == 5)
    assert ids[first] != ids[last]
    ids[first] = ids[last]
    found = wrong(audit(rewritten(large, tmp_path / "bad", ids=ids)))
    assert set(found) == {"uses"}
    assert "3 planned for bucket q6 (6 positions are wrong)" in found["uses"]


def test_samples_that_changed_buckets_are_found_by_their_scores(arranged, columns, tmp_path):
    order = arranged()
    ids, cells = order[:], order.cell[:]
    first, second = np.flatnonzero(cells == 0)[0], np.flatnonzero(cells == 1)[0]
    ids[[first, second]] = ids[[second, first]]
    bad = rewritten(order, tmp_path / "bad", ids=ids)
    assert wrong(audit(bad)) == {}
    assert set(wrong(audit(bad, columns))) == {"scores"}
    assert "in another bucket" in wrong(audit(bad, columns))["scores"]


def test_counts_and_cells_that_disagree_are_found(arranged, tmp_path):
    order = arranged()
    counts = np.array(order.cell_counts[0 : order.steps])
    counts[3, 0] += 1
    found = wrong(audit(rewritten(order, tmp_path / "sum", counts=counts)))
    assert found["batches"] == "step 4 of counts.bin sums to 17, not 16"
    assert "step 4 holds" in found["composition"]
    counts[3, 1] -= 1
    found = wrong(audit(rewritten(order, tmp_path / "moved", counts=counts)))
    assert "batches" not in found
    assert found["composition"].startswith("step 4 holds ")
    cells = order.cell[:]
    cells[50] = (cells[50] + 1) % 4
    assert "step 4 holds" in wrong(audit(rewritten(order, tmp_path / "cell", cells=cells)))["composition"]
    cells[50] = 9
    assert "holds cell 9 of 4" in wrong(audit(rewritten(order, tmp_path / "far", cells=cells)))["composition"]


def test_steps_that_leave_the_plan_are_found(arranged, tmp_path):
    order = arranged(preference=Pdpc(stratify_by=None))
    found = wrong(audit(rewritten(order, tmp_path / "bad", plan=np.array(order.cell_plan[0 : order.steps])[:, ::-1])))
    assert set(found) == {"deviation"}
    assert "must be less than 1" in found["deviation"]
    plan = np.array(order.cell_plan[0 : order.steps])
    plan[5] *= 1.1
    found = wrong(audit(rewritten(order, tmp_path / "row", plan=plan)))
    assert "step 6 of plan.bin sums to 17.6, not 16" in found["batches"]


def test_an_id_that_is_not_there_and_wrong_facts_are_found(arranged, tmp_path):
    order = arranged()
    ids = order[:]
    ids[20] = len(order)
    found = wrong(audit(rewritten(order, tmp_path / "far", ids=ids)))
    assert found["samples"] == f"position 20 holds sample {len(order)}, but there are {len(order):,} samples"
    assert "stages" in wrong(audit(rewritten(order, tmp_path / "stages", stage_ends=[5, order.steps - 1])))
    buckets = [{**bucket, "samples": bucket["samples"] - 1} for bucket in order.manifest.facts["buckets"]]
    found = wrong(audit(rewritten(order, tmp_path / "buckets", buckets=buckets)))
    assert set(found) == {"buckets"}


@pytest.fixture
def replanned(arranged, tmp_path):
    """A parent and a child whose part from step 10 on is reordered, in the bucket of the parent's last cell."""
    parent = arranged()
    cursor = 160

    def make(name="child", change=lambda ids: None):
        ids = np.concatenate([parent[0:cursor], parent[cursor : len(parent)][::-1]])
        cells = np.concatenate([parent.cell[0:cursor], np.full(len(parent) - cursor, 4)])
        counts, plan = (np.zeros((parent.steps, 5)) for _ in range(2))
        counts[:10, :4], plan[:10, :4] = parent.cell_counts[0:10], parent.cell_plan[0:10]
        counts[10:, 4] = plan[10:, 4] = parent.cell_counts[10 : parent.steps].sum(axis=1)
        change(ids)
        old = parent.manifest.facts
        wide = {"stratum": [*old["cells"]["stratum"], 2], "bucket": [*old["cells"]["bucket"], 2]}
        bucket = {"name": "all@10", "low": None, "high": None, "samples": len(parent) - cursor, "uses": 1}
        facts = {key: old[key] for key in FACTS} | {
            "buckets": [*old["buckets"], bucket],
            "strata": [*old["strata"], "all"],
            "cells": wide,
            "ancestors": [parent.fingerprint],
            "replanned_at": {"step": 10, "cursor": cursor},
        }
        inputs = {**parent.manifest.inputs, "parent": parent.fingerprint}
        with (
            create(tmp_path / name, "order", config=parent.manifest.config, inputs=inputs) as draft,
            OrderWriter(draft, 1 << 20, 5) as writer,
        ):
            writer.positions(ids, cells)
            writer.steps(plan, counts)
            draft.facts.update(writer.finish(), **facts)
        return parent, Order.open(tmp_path / name)

    return make


def test_a_replanned_order_is_compared_with_its_parent(replanned, columns):
    parent, child = replanned()
    alone = audit(child, columns)
    assert alone.sound
    assert {check.name for check in alone.checks if check.sound is None} == {"scores", "parent"}
    both = audit(child, columns, parent)
    assert both.sound
    assert {"read", "left", "uses"} <= {check.name for check in both.checks if check.sound}


def test_a_child_that_changed_what_was_read_or_left_is_found(replanned):
    def read(ids):
        ids[[3, 5]] = ids[[5, 3]]

    def left(ids):
        ids[[3, 500]] = ids[[500, 3]]

    def lost(ids):
        ids[500] = ids[400]

    for name, change in (("read", read), ("left", left), ("lost", lost)):
        parent, child = replanned(name, change)
        found = wrong(audit(child, parent=parent))
        assert ("left" if name == "lost" else name) in found
        assert ("uses" in found) == (name == "lost")


def test_a_foreign_parent_is_refused(replanned, arranged):
    parent, child = replanned()
    other = arranged("other", seed=5)
    with pytest.raises(ArtifactError, match=r"was replanned from .*: give that order"):
        audit(child, parent=other)
    with pytest.raises(ValueError, match="was not replanned"):
        audit(parent, parent=other)
