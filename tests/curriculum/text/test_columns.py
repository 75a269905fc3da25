"""Columns and nested fields, records that cannot be used, and names of sources."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curriculum.text.source_names import looks_numbered
from curriculum.text.text import FileText, TextSettings, open_text, source_origins

NESTED = [{"data": {"text": f"t{i}"}, "meta": {"set": {"name": f"s{i % 2}"}}} for i in range(4)]
FOUND = [(f"t{i}", f"s{i % 2}") for i in range(4)]


def opened(*paths: Path, skip: bool = False, **settings: object) -> FileText:
    text = open_text(TextSettings(paths=[str(path) for path in paths], **settings), skip_bad=skip)
    assert isinstance(text, FileText)
    return text


def read(*paths: Path, **settings: object) -> list[tuple[str, str]]:
    text = opened(*paths, **settings)
    text.check()
    return [tuple(document) for document in text.documents()]


def lines(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_dot_leads_into_nested_objects(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *NESTED)
    (tmp_path / "b.json").write_text(json.dumps(NESTED))
    pq.write_table(pa.Table.from_pylist(NESTED), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.json", "c.parquet"):
        assert read(tmp_path / name, text_column="data.text", source_column="meta.set.name") == FOUND


def test_a_column_whose_name_has_a_dot_is_itself(tmp_path: Path) -> None:
    row = {"text": "a", "meta.set": "web"}
    lines(tmp_path / "a.jsonl", row)
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "c.parquet")
    for name in ("a.jsonl", "c.parquet"):
        assert read(tmp_path / name, source_column="meta.set") == [("a", "web")]
    both = {**row, "meta": {"set": "code"}}
    lines(tmp_path / "a.jsonl", both)
    pq.write_table(pa.Table.from_pylist([both]), tmp_path / "c.parquet")
    for name in ("a.jsonl", "c.parquet"):
        with pytest.raises(ValueError, match=rf"{name}, (line|row) 1: both a column 'meta.set' and a nested field"):
            read(tmp_path / name, source_column="meta.set")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "meta": {"sat": "x"}}, "column 'meta.set' is missing; columns are meta, text"),
        ({"text": "a", "meta": '{"set": "x"}'}, "column 'meta.set' is missing"),
        ({"text": "a", "meta": None}, "column 'meta.set' contains null"),
        ({"text": "a", "meta": {"set": ["x"]}}, "column 'meta.set' contains list"),
        ('{"text": "a", "meta": {"set": "x", "set": "y"}}', "key 'set' occurs more than once"),
        ('{"text": "a", "meta": {"set": "x"}, "meta": {"set": "y"}}', "key 'meta' occurs more than once"),
    ],
)
def test_a_nested_field_that_cannot_be_read_is_named(tmp_path: Path, row: object, message: str) -> None:
    lines(tmp_path / "a.jsonl", row)
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 1: {message}"):
        read(tmp_path / "a.jsonl", source_column="meta.set")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("meta.sat", "nested field 'meta.sat' is missing; column 'meta' contains struct"),
        ("meta.set.name", "nested field 'meta.set.name' is missing"),
        ("meta.year", "column 'meta.year' contains int64, not text"),
        ("meta", "column 'meta' contains struct"),
        ("raw", "column 'raw' contains binary, not text"),
        ("other.set", "column 'other.set' is missing; columns are meta, raw, text"),
    ],
)
def test_parquet_types_are_checked_before_the_rows(tmp_path: Path, column: str, message: str) -> None:
    rows = [{"text": "a", "raw": b"a", "meta": {"set": "x", "year": 2024}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"a\.parquet: {message}"):
        read(tmp_path / "a.parquet", source_column=column)


# records that cannot be used


def test_bad_records_fail_with_their_place(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *NESTED[:2], '{"n": ' + "1" * 5000 + ', "text": "a", "source": "s"}')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: contains a number that cannot be read"):
        read(tmp_path / "a.jsonl", text_column="data.text", source_column="meta.set.name")
    raw = pa.array([b"good"] * 300 + [b"\xff\xfe"] + [b"good"] * 5, pa.binary()).view(pa.string())
    for columns in ({"text": raw, "source": ["s"] * 306}, {"text": ["t"] * 306, "source": raw}):
        pq.write_table(pa.table(columns), tmp_path / "c.parquet", row_group_size=200)
        with pytest.raises(ValueError, match=r"c\.parquet, row 301: invalid UTF-8 at byte 0"):
            read(tmp_path / "c.parquet")


def test_skipped_records_are_listed(tmp_path: Path) -> None:
    good = {"text": "a", "source": "s"}
    bad = ["{", '{"text": "a"}', '{"text": 1, "source": "s"}', '{"text": "\\ud800", "source": "s"}', "[]"]
    for name, pack in (("a.jsonl", bytes), ("b.jsonl.gz", gzip.compress)):
        rows = [json.dumps(good), *bad[:3], "", json.dumps(good), *bad[3:], json.dumps(good)]
        (tmp_path / name).write_bytes(pack("\n".join(rows).encode()))
    (tmp_path / "c.json").write_text(json.dumps([good, "a", {"text": None}, good]))
    raw = pa.array([b"\xff", b"good", b"good"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": raw, "source": ["s", None, "s"]}), tmp_path / "d.parquet")
    (tmp_path / "e.txt").write_bytes(b"\xff")
    text = opened(tmp_path, skip=True)
    text.check()
    assert [document.text for document in text.documents()] == ["a"] * 8 + ["good"]
    places = [place.removeprefix(f"{tmp_path}/") for place, _ in text.bad.skipped]
    numbers = [f"line {number}" for number in (2, 3, 4, 7, 8)]
    assert places == [
        *(f"a.jsonl, {number}" for number in numbers),
        *(f"b.jsonl.gz, {number}" for number in numbers),
        *("c.json, element 2", "c.json, element 3", "d.parquet, row 1", "d.parquet, row 2", "e.txt"),
    ]
    assert all(reason for _, reason in text.bad.skipped)


def test_a_file_of_bad_records_only_and_a_damaged_one_fail(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *[{"body": "x"}] * 3)
    with pytest.raises(ValueError, match=r"a\.jsonl: all its 3 records are bad; the first is .*line 1: column 'text'"):
        read(tmp_path / "a.jsonl", skip=True)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a", "source": "s"}\n' * 99)[:-9])
    with pytest.raises(ValueError, match="download it again"):
        read(tmp_path / "b.jsonl.gz", skip=True)


def test_complete_files_without_documents_are_noted(tmp_path: Path) -> None:
    empty = pa.table({"text": pa.array([], pa.string()), "source": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "a.parquet")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match=r"a\.parquet contains no documents"):
        read(tmp_path)
    lines(tmp_path / "c.jsonl", {"text": "a", "source": "s"})
    text = opened(tmp_path)
    text.check()
    assert [tuple(document) for document in text.documents()] == [("a", "s")]
    assert "2 files are complete but contain no documents" in text.notes[0]
    lines(tmp_path / "d.jsonl", "")
    with pytest.raises(ValueError, match=r"d\.jsonl contains no documents"):
        read(tmp_path)


# sources by file name


@pytest.mark.parametrize(
    ("files", "paths", "sources", "warned"),
    [
        (["in/wiki/part-0.jsonl", "in/code/b.parquet", "in/code/c.txt"], ["in"], ["code", "code", "wiki"], ""),
        (["in/wiki.jsonl", "in/code.json"], ["in"], ["code", "wiki"], ""),
        (["wiki/part-0.jsonl", "code/part-0.json"], ["wiki", "code"], ["wiki", "code"], "part-0"),
        (["in/a/0.jsonl", "in/b/1.jsonl"], ["in/*/*.jsonl"], ["a", "b"], ""),
        (["a/b.jsonl", "wiki/train-00000-of-00042.jsonl"], ["a/../wiki/*"], ["wiki"], "train-00000-of-00042"),
        (["in/wiki-0001.jsonl", "in/code_02.jsonl"], ["in"], ["code_02", "wiki-0001"], "code_02, wiki-0001"),
        (["in/00/a.jsonl", "in/wiki/2023/a.jsonl"], ["in"], ["00", "2023"], "00, 2023"),
        (["in/a.txt", "in/b/c.txt"], ["in"], ["in", "b"], ""),
        (
            ["wiki/part-00000-1b4e28ba-2fa1-11d2-883f-0016d3cca427-c000.snappy.parquet"],
            ["wiki"],
            ["wiki"],
            "part-00000",
        ),
        (["wiki/train-00000-of-00042-a1b2c3d4e5f60718.parquet"], ["wiki"], ["wiki"], "train-00000-of"),
        (["wiki/d41d8cd98f00b204e9800998ecf8427e.jsonl"], ["wiki"], ["wiki"], "d41d8cd98f00b204e9800998ecf8427e"),
        (["in/shard_00000000_processed.jsonl"], ["in"], ["shard_00000000_processed"], "shard_00000000_processed"),
    ],
)
def test_sources_by_file_and_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: list[str],
    paths: list[str],
    sources: list[str],
    warned: str,
) -> None:
    for name in files:
        if name.endswith(".parquet"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"text": ["a"]}), tmp_path / name)
        else:
            lines(tmp_path / name, {"text": "a"})
    monkeypatch.chdir(tmp_path)
    text = opened(*map(Path, paths), source_column=None)
    assert [document.source for document in text.documents()] == sources
    warnings = " ".join(note for note in text.notes if note.startswith("warning: "))
    assert f"({warned}" in warnings if warned else not warnings


def test_where_a_source_name_came_from(tmp_path: Path) -> None:
    for name in ("wiki/a.jsonl", "code.jsonl", "books/one.txt"):
        lines(tmp_path / "in" / name, {"text": "a"})
    settings = TextSettings(paths=[str(tmp_path / "in")], source_column=None)
    origin = source_origins({"input": settings.content()}, open_text(settings).identity())
    assert [origin(name) for name in ("wiki", "code", "books")] == ["folder name", "file name", "folder name"]
    assert source_origins({"input": TextSettings(source_column="meta.set").content()}, {})("web") == "column meta.set"


def test_old_inputs_keep_their_identity(tmp_path: Path) -> None:
    lines(tmp_path / "wiki.jsonl", {"text": "a", "source": "s"})
    lines(tmp_path / "sub" / "a.jsonl", {"text": "a", "source": "s"})
    by_column = opened(tmp_path).identity()
    by_name = opened(tmp_path, source_column=None).identity()
    assert by_column["text/0/wiki.jsonl"] == by_name["text/0/wiki.jsonl"]
    assert by_name["text/0/sub/a.jsonl"] == by_column["text/0/sub/a.jsonl"] + " source=sub"
    assert "data_files" not in TextSettings().content()


@pytest.mark.parametrize("name", ["part-0", "part0", "00", "wiki_0003", "train-00000-of-00042", "data.12", "shard 7"])
def test_names_that_look_like_shards(name: str) -> None:
    assert looks_numbered(name)


@pytest.mark.parametrize("name", ["wiki", "c4", "gpt2", "books3", "s2orc", "wiki.en", "data", "train", "20231101.en"])
def test_names_that_do_not(name: str) -> None:
    assert not looks_numbered(name)
