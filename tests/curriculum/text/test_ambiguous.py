"""Input that could be read in two ways, or in part: rejected with its place, or read whole."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curriculum.text import arrays
from curriculum.text.text import TextSettings, open_text

ROWS = [{"text": f'text {i}: caf\u00e9 \u4e2d\u6587, \\ " ] }}\n', "source": "web", "id": i} for i in range(40)]
DOCUMENTS = [(row["text"], row["source"]) for row in ROWS]
LINES = "".join(json.dumps(row, ensure_ascii=row["id"] % 2 == 0) + "\n" for row in ROWS).encode()


def read(*paths: Path, **settings: object) -> list[tuple[str, str]]:
    text = open_text(TextSettings(paths=[str(path) for path in paths], **settings))
    text.check()
    return [tuple(document) for document in text.documents()]


def packed(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix.lower(), bytes)
    path.write_bytes(pack(data))
    return path


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.json.zst", "A.JSON.GZ"])
@pytest.mark.parametrize("layout", ["lines", "array", "indented"])
def test_json_holds_lines_or_one_array(tmp_path: Path, name: str, layout: str) -> None:
    data = {
        "lines": LINES,
        "array": json.dumps(ROWS, ensure_ascii=False).encode(),
        "indented": b"\xef\xbb\xbf\n " + json.dumps(ROWS, indent=2).encode() + b"\n\n",
    }[layout]
    assert read(packed(tmp_path / name, data)) == DOCUMENTS


@pytest.mark.parametrize("size", [1, 7, 100])
def test_blocks_may_cut_an_array_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("curriculum.text.lines.PACKED_BYTES", size)
    rows = [{"n": [-1.5e3, 1234567, None, True, float("-inf")], **row} for row in ROWS]
    path = packed(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False).encode())
    assert read(path) == DOCUMENTS
    text = open_text(TextSettings(paths=[str(path)]))
    parts = [list(text.documents(start, start + 300)) for start in range(0, text.places, 300)]
    assert [tuple(document) for part in parts for document in part] == DOCUMENTS
    assert len([part for part in parts if part]) > 5


def test_an_element_longer_than_many_blocks_is_parsed_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    decoder = arrays.json.JSONDecoder.raw_decode
    monkeypatch.setattr(
        arrays.json.JSONDecoder, "raw_decode", lambda self, *given: tries.append(1) or decoder(self, *given)
    )
    long = {"text": "word " * 1_000_000, "source": "web"}
    assert len(read(packed(tmp_path / "a.json", json.dumps([long, *ROWS]).encode()))) == len(ROWS) + 1
    assert len(tries) < 2 * (20 + len(ROWS))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"text": "a", "source": "s"}', r"a\.json, element 1: the file ends there: it is truncated"),
        (b'[{"text": "a", "source": "s', r"element 1: invalid JSON \(Unterminated string"),
        (b'[{"text": "a", "source": "s"},]', r"element 2: invalid JSON \(Expecting value\)"),
        (b'[{"text": "a", "source": "s"} {"text"', r"element 1: '\{' follows instead of a comma"),
        (b'[{"text": "a", "source": "s"}] []', r"element 1: something follows the end of the array"),
        (b'[{"text": "a", "source": "s"}, ["a"]]', r"element 2: contains a list, but every element must be"),
        (b'[{"text": "a", "source": "s"}, {"text": "\xff"}]', r"element 2: column 'source' is missing"),
        (b'[{"text": "\xff", "source": "s"}]', r"element 1: contains invalid UTF-8"),
        (b'[{"text": "\\ud800", "source": "s"}]', r"element 1: contains invalid UTF-8 or a lone surrogate"),
        (b'[{"text": "a", "source": "s", "n": ' + b"1" * 5000 + b"}]", r"element 1: contains a number"),
        (b'{"data": [\n{"text": "a"}]}', r"line 1: invalid JSON"),
        (b"[]", r"a\.json contains no documents"),
    ],
)
def test_a_broken_array_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(packed(tmp_path / "a.json", data))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", "text": "b", "source": "s"}', "key 'text' occurs more than once"),
        ('{"text": "a", "source": "s", "te\\u0078t": "a"}', "key 'text' occurs more than once"),
        ('{"text": "a", "source": "s", "source": null}', "key 'source' occurs more than once"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_repeated_key_is_rejected(tmp_path: Path, line: str, message: str, name: str) -> None:
    data = f'{{"text": "first", "source": "s"}}\n{line}\n' if name == "a.jsonl" else f"[{line}]"
    with pytest.raises(ValueError, match=rf"a\.json.*, (line 2|element 1): {message}"):
        read(packed(tmp_path / name, data.encode()))


def test_a_repeated_key_that_is_not_read_does_not_matter(tmp_path: Path) -> None:
    line = b'{"text": "a", "id": 1, "id": 2, "meta": {"url": 1, "url": 2}, "source": "s"}'
    assert read(packed(tmp_path / "a.jsonl", line)) == [("a", "s")]


def test_parquet_columns_of_one_name(tmp_path: Path) -> None:
    a, b = pa.array(["a"]), pa.array(["b"])
    for names in (["text", "text", "source"], ["text", "source", "source"]):
        pq.write_table(pa.Table.from_arrays([a, b, a], names=names), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=r"a\.parquet: column '(text|source)' occurs more than once"):
            read(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_arrays([a, b, a, b], names=["id", "text", "id", "source"]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [("b", "b")]


@pytest.mark.parametrize(
    "name", ["b.jsonl.xz", "b.jsonl.bz2", "b.ndjson", "b.csv", "b.md", "wiki_00", "b.jsonl.gz.part", "b.arrow"]
)
def test_a_folder_is_not_read_in_part(tmp_path: Path, name: str) -> None:
    packed(tmp_path / "in" / "a.jsonl", LINES)
    (tmp_path / "in" / "deeper").mkdir()
    (tmp_path / "in" / "deeper" / name).write_text("text")
    with pytest.raises(ValueError, match=rf"in also has 1 entries .*{name}.* read in part: convert"):
        read(tmp_path / "in")
    with pytest.raises(ValueError, match="in part"):
        read(tmp_path / "in" / "d*", tmp_path / "in" / "a.jsonl")
    assert read(tmp_path / "in" / "*.jsonl") == DOCUMENTS


def test_what_lies_next_to_a_corpus_is_noted(tmp_path: Path) -> None:
    packed(tmp_path / "a.jsonl", LINES)
    for name in ("README.md", "LICENSE", "dataset_infos.json", "manifest.json", "a.jsonl.sha256", "plot.png"):
        (tmp_path / name).write_text("{}")
    for name in ("_SUCCESS", "marker.done"):
        (tmp_path / name).touch()
    text = open_text(TextSettings(paths=[str(tmp_path)]))
    assert len(list(text.documents())) == len(ROWS)
    assert "8 entries skipped, not text of the corpus: LICENSE, README.md" in text.notes[0]


def test_links_are_followed_or_named(tmp_path: Path) -> None:
    packed(tmp_path / "other" / "b.jsonl", LINES)
    packed(tmp_path / "in" / "sub" / "a.jsonl", LINES)
    (tmp_path / "in" / "latest").symlink_to(tmp_path / "in" / "sub")
    assert read(tmp_path / "in") == DOCUMENTS
    (tmp_path / "in" / "other").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match=r"other \(a linked folder\).*in part"):
        read(tmp_path / "in")
    (tmp_path / "in" / "other").unlink()
    (tmp_path / "in" / "far.jsonl").symlink_to(tmp_path / "other" / "b.jsonl")
    text = open_text(TextSettings(paths=[str(tmp_path / "in")]))
    assert any("1 files are links that lead out of it, and are read: far.jsonl -> /" in note for note in text.notes)
    (tmp_path / "in" / "far.jsonl").unlink()
    (tmp_path / "in" / "gone.jsonl").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"gone\.jsonl is not a file \(a broken link"):
        read(tmp_path / "in")


def test_a_dataset_of_pickles_is_rejected_unread(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_text("cposix\nsystem\n(S'touch run'\ntR.")
    with pytest.raises(ValueError, match=r"input\.dataset=pandas reads pickles"):
        open_text(TextSettings(dataset="pandas", data_files=[str(tmp_path / "a.pkl")]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_named(tmp_path: Path) -> None:
    packed(tmp_path / "a.jsonl", LINES)
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(ValueError, match="closed cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("window", [26, 28, 31])
def test_zstd_windows_of_any_size_are_read(tmp_path: Path, window: int) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window)
    made = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(made.compress(LINES) + made.flush())
    assert read(tmp_path / "a.jsonl.zst") == DOCUMENTS


@pytest.mark.parametrize("names", [("a.jsonl", "a.jsonl.gz"), ("a.json.gz", "a.json.zst"), ("a.json", "a.json.zst")])
def test_a_file_next_to_its_compressed_copy_is_rejected(tmp_path: Path, names: tuple[str, str]) -> None:
    first, second = (packed(tmp_path / name, LINES) for name in names)
    for paths in ([tmp_path], [first, second], [tmp_path / "a.*"]):
        with pytest.raises(ValueError, match=r"a\.json.* and .*a\.json.* have one name, so they look like copies"):
            open_text(TextSettings(paths=[str(path) for path in paths]))
    second.rename(tmp_path / f"b{second.name[1:]}")
    assert len(read(tmp_path)) == 2 * len(ROWS)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jsonl", gzip.compress(LINES), "is a .gz file by its first bytes, but not by its name: rename it"),
        ("a.txt", zstandard.compress(LINES), "is a .zst file by its first bytes"),
        ("a.json.zst", gzip.compress(LINES), "is a .gz file by its first bytes"),
        ("a.jsonl.gz", LINES, "does not start like a .gz file"),
        ("a.json.zst", b"<!DOCTYPE html>", "does not start like a .zst file"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("a.jsonl.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_file_of_another_format_than_its_name_says_is_named(
    tmp_path: Path, name: str, data: bytes, reason: str, skip_bad: bool
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}.*{reason}"):
        list(open_text(TextSettings(paths=[str(path)]), skip_bad=skip_bad).documents())


def test_frames_that_hold_no_data_may_come_first(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    (tmp_path / "a.jsonl.zst").write_bytes(skippable + zstandard.compress(LINES))
    (tmp_path / "b.jsonl.gz").write_bytes(b"\0" * 8 + gzip.compress(LINES))
    assert read(tmp_path) == DOCUMENTS * 2


def test_a_pattern_that_reads_brackets_of_a_name_as_a_choice_is_corrected(tmp_path: Path) -> None:
    packed(tmp_path / "out [x]" / "a.jsonl", LINES)
    with pytest.raises(ValueError, match=r"no file matches .*brackets in a pattern.*out \[\[\]x\]/\*") as error:
        read(tmp_path / "out [x]" / "*")
    assert read(Path(str(error.value).split("'")[3])) == DOCUMENTS


def test_an_empty_entry_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path / "a.jsonl", LINES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"input\.paths has an empty entry"):
        open_text(TextSettings(paths=[""]))
