"""The requests for both sides: the requested number, deterministic given the seed, four per question."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.evaluation import CHOICES, requests


def test_made_up_requests() -> None:
    pairs = requests({"requests": 40, "seed": 3}, None)
    assert len(pairs) == 40
    assert pairs == requests({"requests": 40, "seed": 3}, None) != requests({"requests": 40, "seed": 4}, None)
    assert len({context for context, _ in pairs}) == 40 // CHOICES


def test_questions_of_a_folder_alternate(tmp_path: Path) -> None:
    arc = [{"question": f"q{n}?", "choices": {"text": ["a", "b"]}} for n in range(2)]
    hella = [{"activity_label": "Work", "ctx": f"c{n}", "endings": ["x", "y"]} for n in range(2)]
    for name, rows in (("arc_easy", arc), ("hellaswag", hella)):
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name / "test.parquet")
    pairs = requests({"requests": 5}, tmp_path)
    assert pairs[0] == ("Question: q0?\nAnswer:", " a")
    assert pairs[2] == ("Work: c0", " x")
    assert pairs[4][0] == "Question: q1?\nAnswer:"
    with pytest.raises(SystemExit, match="there are only 8, request fewer"):
        requests({"requests": 9}, tmp_path)
    with pytest.raises(SystemExit, match="contains no Parquet file"):
        requests({"requests": 9}, tmp_path / "arc_easy")
