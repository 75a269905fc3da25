"""Answers are read back as written; a broken file is named."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from train.evaluation import answers
from train.evaluation.answers import Items, answers_path, read_answers, write_answers

ANSWERS = {
    "bench/quiz/acc": Items(np.arange(3), np.asarray([1.0, 0.0, 1.0]), np.ones(3), np.asarray([0, 0, 2])),
    "val/loss": Items(np.asarray([2, 5]), np.asarray([1.25, 3.5]), np.asarray([3.0, 1.0])),
}


def test_answers_round_trip(tmp_path: Path) -> None:
    path = answers_path(tmp_path, 40)
    write_answers(path, ANSWERS)
    found = read_answers(path)
    assert found.keys() == ANSWERS.keys()
    for key, items in ANSWERS.items():
        for name in ("ids", "values", "weights", "groups"):
            np.testing.assert_array_equal(getattr(found[key], name), getattr(items, name))
    assert found["val/loss"].mean() == pytest.approx((1.25 * 3 + 3.5) / 4)
    assert [file.name for file in path.parent.iterdir()] == ["step_00000040.parquet"]


def test_answers_of_an_earlier_version_have_no_groups(tmp_path: Path) -> None:
    path = answers_path(tmp_path, 40)
    write_answers(path, ANSWERS)
    pq.write_table(pq.read_table(path).drop_columns("group"), path)
    found = read_answers(path)
    assert [items.groups for items in found.values()] == [None, None]
    np.testing.assert_array_equal(found["val/loss"].values, ANSWERS["val/loss"].values)


def test_a_missing_file_gives_no_answers(tmp_path: Path) -> None:
    assert read_answers(answers_path(tmp_path, 1)) == {}
    write_answers(answers_path(tmp_path, 1), {})
    assert read_answers(answers_path(tmp_path, 1)) == {}


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    path = answers_path(tmp_path, 7)
    write_answers(path, ANSWERS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"step_00000007\.parquet cannot be read.*pdpc evaluate"):
        read_answers(path)


def test_a_small_file_of_answers_takes_little_memory(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 1 << 20
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["bench/" + "x" * 2000]))
    ones = pa.array(np.ones(rows))
    path = tmp_path / "answers.parquet"
    pq.write_table(pa.table({"measure": names, "item": np.arange(rows), "value": ones, "weight": ones}), path)
    before = pa.total_allocated_bytes()
    (items,) = read_answers(path).values()
    assert len(items.ids) == rows
    assert pa.total_allocated_bytes() - before < 1 << 28  # written out, the names take 2 GB
    monkeypatch.setattr(answers, "MOST_ROWS", 99)
    with pytest.raises(ValueError, match=r"answers\.parquet has 1,048,576 rows, more than the 99"):
        read_answers(path)
