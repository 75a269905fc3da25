"""Own scores in Parquet: by sample or by document, in any order, in one file or many, and every error."""

import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curriculum.scores import own as module
from curriculum.scores.own import OwnScores


@pytest.fixture
def own(tmp_path, parquet):
    """Open columns as own scores."""
    return lambda **columns: OwnScores(parquet(tmp_path / "own.parquet", **columns))


def whole(scores, names, with_source=False):
    pieces = list(scores.chunks(names, with_source))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def test_rows_without_ids_are_samples_in_turn(own):
    scores = own(quality=[0.5, 1.5, -2.0], number=pa.array([1, 2, 3], pa.int8()))
    assert (scores.by, scores.rows, scores.names) == (None, 3, ["quality", "number"])
    assert whole(scores, ["quality"])["quality"].tolist() == [0.5, 1.5, -2.0]
    assert whole(scores, ["number"])["number"].dtype == np.float32


@pytest.mark.parametrize("batch_rows", [1, 3, 1 << 20])
def test_samples_come_in_any_order(own, monkeypatch, batch_rows):
    monkeypatch.setattr(module, "BATCH_ROWS", batch_rows)
    ids = np.random.default_rng(0).permutation(50)
    scores = own(quality=ids * 2.0, sample=ids, source=[f"s{i % 3}" for i in ids])
    columns = whole(scores, ["quality"], with_source=True)
    assert columns["quality"].tolist() == [2.0 * i for i in range(50)]
    assert columns["source"].tolist() == [i % 3 for i in range(50)]
    assert scores.names == ["quality"]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64()])
def test_ids_are_whole_numbers_of_any_width(own, kind):
    scores = own(quality=[3.0, 1.0, 2.0], sample=pa.array([2, 0, 1], kind))
    assert whole(scores, ["quality"])["quality"].tolist() == [1.0, 2.0, 3.0]


def test_a_folder_is_read_in_the_order_of_its_files(tmp_path, parquet):
    parquet(tmp_path / "parts" / "b.parquet", quality=[2.0, 3.0])
    parquet(tmp_path / "parts" / "a.parquet", quality=[0.0, 1.0])
    (tmp_path / "parts" / "README").write_text("not a table")
    scores = OwnScores(tmp_path / "parts")
    assert scores.rows == 4
    assert whole(scores, ["quality"])["quality"].tolist() == [0, 1, 2, 3]
    alone = OwnScores(tmp_path / "parts" / "a.parquet")
    assert alone.fingerprint != scores.fingerprint


def test_more_files_than_may_be_open_are_read(tmp_path, parquet):
    import resource

    for number in range(120):
        parquet(tmp_path / "parts" / f"{number:03}.parquet", quality=[float(number)])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        columns = whole(OwnScores(tmp_path / "parts"), ["quality"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert columns["quality"].tolist() == list(range(120))


def test_nulls_are_not_numbers(own):
    scores = own(quality=[1.0, None, np.nan], number=[None, 2, 3])
    assert np.isnan(whole(scores, ["quality"])["quality"]).tolist() == [False, True, True]
    assert np.isnan(whole(scores, ["number"])["number"]).tolist() == [True, False, False]


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["x", "y", "x"]),
        pa.array(["x", "y", "x"], pa.large_string()),
        pa.array(["x", "y", "x"]).dictionary_encode(),
        pa.array([True, False, True]),
        pa.array([1.0, 2.5, 1.0]),
        pa.array([10, 9, 10]),
    ],
)
def test_sources_are_names_of_any_type(own, values):
    scores = own(quality=[1.0, 2.0, 3.0], source=values)
    codes = whole(scores, ["quality"], with_source=True)["source"]
    names = [scores.sources[code] for code in codes]
    assert names == values.cast(pa.string()).to_pylist()
    assert len(scores.sources) == 2


def test_documents_come_by_ordinal(own):
    ids, columns = own(quality=[3.0, 1.0, 7.0], document=[3, 1, 7]).documents(["quality"])
    assert ids.tolist() == [1, 3, 7]
    assert columns["quality"].tolist() == [1.0, 3.0, 7.0]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1, 1], r"has 3 rows, but no row for sample 2 \(1 are missing; sample 1 occurs 2 times\)"),
        ([0, 1, 3], r"no row for sample 2 \(1 are missing; 3 is present\): give each of the samples 0 to 2 once"),
        ([1, 2, 3], r"no row for sample 0 \(1 are missing; 3 is present\)"),
        ([0, -1, 1], r"no row for sample 2 \(1 are missing; -1 is present\)"),
        ([5, 6, 7], r"no row for sample 0 \(3 are missing; 5 is present\)"),
        ([0.0, 1.0, 2.0], "column 'sample' is double with 0 nulls: give integer ids"),
        ([0, None, 2], "column 'sample' is int64 with 1 nulls: give integer ids"),
        (["a", "b", "c"], "column 'sample' is string"),
        (pa.array([2, 1, 2**63], pa.uint64()), "column 'sample' contains an invalid id: .*9223372036854775808"),
    ],
)
def test_bad_sample_ids_are_named(own, ids, message):
    with pytest.raises(ValueError, match=message):
        whole(own(quality=[1.0, 2.0, 3.0], sample=ids), ["quality"])


def test_a_document_that_stands_twice_is_named(own):
    with pytest.raises(ValueError, match=r"document 4 is listed twice \(1 duplicate rows\): keep one row"):
        own(quality=[1.0, 2.0, 3.0], document=[4, 1, 4]).documents(["quality"])


def test_a_row_without_a_source_is_an_error(own):
    with pytest.raises(ValueError, match="a row has a null source: name the source in every row"):
        whole(own(quality=[1.0, 2.0], source=["a", None]), ["quality"], with_source=True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a"], "flag": [True]}, r"has no score column among \['name', 'flag'\]: add a numeric one"),
        ({"sample": [0]}, r"has no score column among \['sample'\]"),
        ({"price": [decimal.Decimal("1.5")]}, "has no score column"),
        ({"quality": pa.array([], pa.float32())}, "has no rows: write the scores first"),
        ({"quality": [1.0], "sample": [0], "document": [0]}, "both 'sample' and 'document'"),
    ],
)
def test_tables_that_hold_no_scores_are_named(own, columns, message):
    with pytest.raises(ValueError, match=message):
        own(**columns)


def test_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["quality", "quality"])
    pq.write_table(table, tmp_path / "own.parquet")
    with pytest.raises(ValueError, match="two columns are named 'quality'"):
        OwnScores(tmp_path / "own.parquet")


def test_files_that_are_none_are_named(tmp_path, parquet):
    with pytest.raises(ValueError, match="nowhere does not exist: give a Parquet file"):
        OwnScores(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="does not exist: give a Parquet file"):
        OwnScores(tmp_path)
    for content in (b"", b"PAR1", b"quality\n1.0\n", b"PAR1" + bytes(100) + b"PAR1"):
        (tmp_path / "bad.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.parquet cannot be read .*own_scores takes Parquet"):
            OwnScores(tmp_path / "bad.parquet")
    parquet(tmp_path / "parts" / "a.parquet", quality=[1.0])
    parquet(tmp_path / "parts" / "b.parquet", quality=[1])
    with pytest.raises(
        ValueError, match=r"the columns of .*b\.parquet differ from those of .*a\.parquet: write the same columns"
    ):
        OwnScores(tmp_path / "parts")


def test_the_fingerprint_is_of_the_content(tmp_path, parquet):
    one, same, other = (
        OwnScores(parquet(tmp_path / name, quality=[value])).fingerprint
        for name, value in (("a.parquet", 1.0), ("b.parquet", 1.0), ("c.parquet", 2.0))
    )
    assert one == same != other
