"""An ORDER on disk: it opens instantly, is read by position, and no damage to it goes unnoticed."""

import shutil

import numpy as np
import pytest

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.arrange.interleave import OrderWriter
from curriculum.artifact.create import create
from curriculum.artifact.files import ArtifactError
from curriculum.artifact.mapped import OpenFile
from curriculum.order.order import CELLS, COUNTS, IDS, KIND, PLAN, Order
from curriculum.preference import Tilt

FILES = [IDS, CELLS, PLAN, COUNTS, "blocks.bin", "manifest.json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokens_of, parquet):
    root = tmp_path_factory.mktemp("order")
    tokens_of(root / "tokens", {"arts": 300, "web": 700})
    own = parquet(root / "own.parquet", quality=np.random.default_rng(0).normal(size=1000))
    preference = Tilt(score="quality", buckets=3, stratify_by="source")
    run(
        ArrangeSettings(
            output=str(root / "order"),
            tokens=str(root / "tokens"),
            own_scores=own,
            preference=preference,
            batch_size=16,
        )
    )
    return root / "order"


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "order")


def read_whole(folder):
    order = Order.open(folder)
    columns = (order[:], order.cell[:], order.bucket[:], order.stage[:])
    return [column.tolist() for column in (*columns, order.plan[:], order.counts[:])]


def test_positions_and_steps_are_read_as_a_list_would_be(folder):
    order = Order.open(folder)
    ids = order[:].tolist()
    assert sorted(ids) == list(range(1000))
    for where in (slice(3, 9), slice(-5, None), slice(None, None, 7), slice(None, None, -3), slice(20, 5, -2)):
        assert order[where].tolist() == ids[where]
        assert order.bucket[where].tolist() == order.bucket[:].tolist()[where]
        assert (order.plan[where] == order.plan[:][where]).all()
        assert (order.counts[where] == order.counts[:][where]).all()
    assert [order[position] for position in (0, 999, -1, -1000)] == [ids[0], ids[999], ids[-1], ids[0]]
    assert order.stage[0] == 1
    assert order.stage[-1] == 4
    assert order.counts[:].sum() == 1000
    assert order.cell_counts[:].shape == order.cell_plan[:].shape == (63, 6)
    for outside in (1000, -1001):
        with pytest.raises(IndexError, match=f"position {outside} is outside an order of 1000 samples"):
            order[outside]


def test_buckets_are_summed_over_strata(folder):
    order = Order.open(folder)
    assert order.strata == ["arts", "web"]
    assert order.stratum_of_cell.tolist() == [0, 0, 0, 1, 1, 1]
    assert (order.counts[5:9] == order.cell_counts[5:9].reshape(4, 2, 3).sum(axis=1)).all()
    assert (order.bucket[:] == order.cell[:] % 3).all()


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_of_any_file_is_found(copy, name):
    path = copy / name
    data, whole, rng = path.read_bytes(), read_whole(copy), np.random.default_rng(len(name))
    tries = 200 // len(FILES) + 1
    for bit in rng.integers(0, 8 * len(data), tries).tolist():
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            read_whole(copy)
    path.write_bytes(data)
    assert read_whole(copy) == whole


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["gone", "short", "long", "zeros"])
def test_any_file_that_is_gone_torn_or_zeroed_is_found(copy, name, damage):
    path = copy / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"short": data[:-2], "long": data + b"\0", "zeros": bytes(len(data))}[damage])
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        read_whole(copy)


def test_files_of_two_orders_cannot_be_mixed(copy, tmp_path, folder):
    order = Order.open(folder)
    with create(tmp_path / "other", KIND, config={}, inputs={}) as draft, OrderWriter(draft, 1000, 6) as writer:
        writer.steps(order.cell_plan[:], order.cell_counts[:])
        writer.positions(order[:][::-1], order.cell[:][::-1])
        draft.facts.update({**order.manifest.facts, **writer.finish()})
    for name in FILES:
        mine = (copy / name).read_bytes()
        theirs = (tmp_path / "other" / name).read_bytes()
        if mine != theirs:
            (copy / name).write_bytes(theirs)
            with pytest.raises(ArtifactError):
                read_whole(copy)
            (copy / name).write_bytes(mine)
    assert read_whole(copy)[0] == order[:].tolist()


def test_opening_reads_no_array(copy, monkeypatch):
    for name in (IDS, CELLS, PLAN, COUNTS):
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(bytes(len(data)))  # damaged everywhere, but not checked
    looked, read = [], OpenFile.read
    monkeypatch.setattr(OpenFile, "read", lambda self, *where: looked.append(self.path.name) or read(self, *where))
    order = Order.open(copy)
    assert looked == []
    with pytest.raises(ArtifactError, match="is damaged between bytes 0 and"):
        order[0:5]
    assert looked == [IDS]


@pytest.mark.parametrize(("largest", "dtype"), [(1 << 31, "<u4"), ((1 << 32) - 1, "<u4"), (1 << 32, "<u8")])
def test_ids_are_as_wide_as_they_must_be(tmp_path, folder, largest, dtype):
    ids = np.array([0, largest - 1, 7, largest - 2], dtype=np.uint64)
    with create(tmp_path / "order", KIND, config={}, inputs={}) as draft, OrderWriter(draft, largest, 300) as writer:
        writer.steps(np.array([[1.5, 0.5]] * 2), np.array([[2, 0], [1, 1]]))
        writer.positions(ids[:3], np.array([0, 0, 1]))
        writer.positions(ids[3:], np.array([0]))
        facts = {
            "samples": 4, "batch_size": 2, "steps": 2, "stage_ends": [1, 2], "strata": ["all"],
            "buckets": [{"name": name, "low": None, "high": None, "samples": 2} for name in ("low", "high")],
            "cells": {"stratum": [0, 0], "bucket": [0, 1]},
        }  # fmt: skip
        draft.facts.update(facts, **writer.finish())
        assert draft.facts["id_dtype"] == dtype
    order = Order.open(tmp_path / "order")
    assert order[:].tolist() == ids.tolist()
    assert order.bucket[:].tolist() == [0, 0, 1, 0]
    assert order.manifest.facts["cell_dtype"] == "<u2"


def test_an_order_of_another_build_is_named(tmp_path):
    with create(tmp_path / "order", KIND, config={}, inputs={}) as draft:
        draft.facts.update(samples=3)
    with pytest.raises(ArtifactError, match=r"batch_size.*lacks facts of an ORDER; remove .* and arrange again"):
        Order.open(tmp_path / "order")
