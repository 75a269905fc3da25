"""Input text: every format gives the same documents, and errors give the location and a fix."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curriculum.text import lines as text_lines
from curriculum.text.document import Document
from curriculum.text.formats import stem
from curriculum.text.text import TextSettings, open_text

ROOT = Path(__file__).resolve().parents[3]
ROWS = [Document(f"text {i}: caf\u00e9 \u4e2d\u6587\nsecond line", "web" if i % 3 else "code") for i in range(700)]
LINES = "".join(json.dumps(row._asdict(), ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(ROWS)).encode()


def write(path: Path, rows: list[Document] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row._asdict()) + "\n" for row in rows).encode()
    if path.name.endswith(".jsonl"):
        path.write_bytes(lines)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines))
    elif path.name.endswith(".zst"):
        path.write_bytes(zstandard.compress(lines))
    else:
        columns = {"id": range(len(rows)), "text": [r.text for r in rows], "source": [r.source for r in rows]}
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path, row_group_size=100)
    return path


def read(*paths: Path | str, **settings: object) -> list[Document]:
    return list(open_text(TextSettings(paths=[str(path) for path in paths], **settings)).documents())


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "A.PARQUET"])
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    text = open_text(TextSettings(paths=[str(write(tmp_path / name))]))
    assert list(text.documents()) == ROWS
    assert text.fraction_read == pytest.approx(1.0, abs=0.02)
    assert list(text.documents()) == ROWS  # a second pass yields the same


def test_compressed_files_of_several_parts_are_read_to_the_end(tmp_path: Path) -> None:
    middle = LINES.index(b"\n", len(LINES) // 2) - 7  # inside a line: parts may end anywhere
    for name, compress in (("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)):
        (tmp_path / name).write_bytes(compress(LINES[:middle]) + compress(LINES[middle:]))
        assert read(tmp_path / name) == ROWS


def test_a_line_longer_than_a_block_and_a_missing_last_newline(tmp_path: Path) -> None:
    long = Document("x" * 3_000_000, "web")
    body = "\ufeff" + json.dumps(long._asdict()) + "\n\n" + json.dumps(ROWS[0]._asdict())
    (tmp_path / "a.jsonl").write_text(body, "utf-8")
    assert read(tmp_path / "a.jsonl") == [long, ROWS[0]]


def test_folder_and_glob_are_read_by_relative_path(tmp_path: Path) -> None:
    rows = {name: [Document(name, "s")] for name in ("b/1.jsonl", "a/2.parquet", "a/10.jsonl.gz", "c.jsonl")}
    for name in reversed(rows):
        write(tmp_path / "in" / name, rows[name])
    (tmp_path / "in" / "README.md").write_text("not text of the corpus")
    (tmp_path / "in" / "SHA256SUMS.txt").write_text("nor this")
    (tmp_path / "in" / ".hidden.jsonl").write_text("not looked at")
    folder = open_text(TextSettings(paths=[str(tmp_path / "in")]))
    assert [text for text, _ in folder.documents()] == ["a/10.jsonl.gz", "a/2.parquet", "b/1.jsonl", "c.jsonl"]
    assert any("2 entries skipped" in note and "README.md, SHA256SUMS.txt" in note for note in folder.notes)
    assert [t for t, _ in read(tmp_path / "in" / "*" / "*.*")] == ["a/10.jsonl.gz", "a/2.parquet", "b/1.jsonl"]
    twice = open_text(TextSettings(paths=[str(tmp_path / "in" / "**" / "*.jsonl"), str(tmp_path / "in" / "c.jsonl")]))
    assert [text for text, _ in twice.documents()] == ["b/1.jsonl", "c.jsonl"]
    assert any("listed twice" in note for note in twice.notes)


def test_source_without_a_column_is_the_stem_and_of_txt_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "wiki.en.jsonl.zst", ROWS[:1])
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "one.txt").write_bytes("\ufeffline\r\nline".encode())
    (tmp_path / "books" / "empty.txt").touch()
    got = read(tmp_path, source_column=None)
    assert got == [("", "books"), ("line\r\nline", "books"), (ROWS[0].text, "wiki.en")]
    assert read(tmp_path / "books") == got[:2]
    assert stem("web/en.jsonl.gz") == "en"


@pytest.mark.parametrize("name", ["a\udcff.jsonl", "b\udcff/c.txt"])
def test_a_name_that_is_no_text_names_no_source(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"text": "x", "source": "web"}\n')
    with pytest.raises(ValueError, match=r"the name is not UTF-8, but a source takes it: rename it"):
        read(tmp_path, source_column=None)
    if name.endswith(".jsonl"):
        assert read(tmp_path) == [("x", "web")]


def test_other_columns_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "hello", "domain": "news", "text": 3}\n')
    assert read(tmp_path / "a.jsonl", text_column="body", source_column="domain") == [("hello", "news")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a", "source": ', r"a\.jsonl, line 3: invalid JSON .*must be a JSON object"),
        (b"[" * 100_000, r"line 3: invalid JSON"),
        (b'["a"]', r"line 3: contains a list"),
        (b'{"body": "a", "source": "s"}', r"line 3: column 'text' is missing; columns are body, source: .*text_column"),
        (b'{"text": "a", "kind": "s"}', r"line 3: column 'source' is missing; .*source_column.*null"),
        (b'{"text": null, "source": "s"}', r"line 3: column 'text' contains null"),
        (b'{"text": 7, "source": "s"}', r"line 3: column 'text' contains int"),
        (b'{"text": "a", "source": ""}', r"line 3: column 'source' is empty"),
        (b'{"text": "\xff\xfe", "source": "s"}', r"line 3: invalid UTF-8 at byte 10"),
        (b'{"text": "\\ud800", "source": "s"}', r"line 3: contains a lone surrogate"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    good = b'{"text": "a", "source": "s"}\n'
    (tmp_path / "a.jsonl").write_bytes(good * 2 + line + b"\n" + good)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_torn_and_foreign_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else b"this is no archive at all" * 9)
    with pytest.raises(ValueError, match=rf"{name}.*(download it again)"):
        read(path)


def test_parquet_names_missing_columns_and_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.parquet: column 'body' is missing; columns are id, source, text"):
        read(write(tmp_path / "a.parquet"), text_column="body")
    pq.write_table(pa.table({"text": ["a", None], "source": ["s", "s"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet, row 2: column 'text' contains null"):
        read(tmp_path / "b.parquet")
    raw = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": raw, "source": ["s", "s"]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet.*UTF-?8"):
        read(tmp_path / "c.parquet")
    pq.write_table(
        pa.table({"text": pa.array([], pa.string()), "source": pa.array([], pa.string())}), tmp_path / "d.parquet"
    )
    with pytest.raises(ValueError, match=r"d\.parquet contains no documents"):
        read(tmp_path / "d.parquet")


def test_missing_unknown_and_empty_inputs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n")
    (tmp_path / "b.jsonl").touch()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "c.txt").touch()
    (tmp_path / "none").mkdir()
    for entry, message in {
        "missing.jsonl": "does not exist",
        "*.parquet": "no file matches",
        "a.csv": "unknown extension",
        "*.csv": "unknown extension",
        "b.jsonl": "is empty",
        "t": r"c\.txt is empty",
        "none": "no file that PDPC reads",
    }.items():
        with pytest.raises(ValueError, match=message):
            read(tmp_path / entry)
    with pytest.raises(ValueError, match="no input given"):
        read()
    (tmp_path / "t" / "d.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"d\.txt: invalid UTF-8"):
        read(tmp_path / "t")


def test_check_finds_a_bad_last_file_before_the_first_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    (tmp_path / "z.jsonl").write_text('{"content": "x"}\n')
    with pytest.raises(ValueError, match=r"z\.jsonl, line 1: column 'text' is missing"):
        open_text(TextSettings(paths=[str(tmp_path)])).check()


def test_identity_follows_changes_and_not_places(tmp_path: Path) -> None:
    first, second = (write(tmp_path / place / "sub" / "a.jsonl") for place in ("x", "y"))
    os.utime(second, ns=(first.stat().st_atime_ns, first.stat().st_mtime_ns))
    before = open_text(TextSettings(paths=[str(tmp_path / "x")])).identity()
    assert list(before) == ["text/0/sub/a.jsonl"]
    assert before == open_text(TextSettings(paths=[str(tmp_path / "y")])).identity()
    os.utime(second, ns=(0, 1))
    assert before != open_text(TextSettings(paths=[str(tmp_path / "y")])).identity()
    write(first, ROWS[:5])
    assert before != open_text(TextSettings(paths=[str(tmp_path / "x")])).identity()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"paths": ["a"], "dataset": "b"}, "exclude each other"),
        ({"paths": ["a"], "streaming": True}, r"need input\.dataset"),
        ({"paths": ["a"], "split": "validation"}, r"input\.split=validation: these need input\.dataset"),
        ({"paths": ["a"], "data_files": ["b"]}, r"input\.data_files=\['b'\]: these need input\.dataset"),
        ({"text_column": ""}, "text_column is empty"),
        ({"source_column": ""}, "source_column is empty"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextSettings(**settings)


DATASET_SCRIPT = """
import datasets, json, sys
from curriculum.text.text import TextSettings, open_text
folder, saved = sys.argv[1:]
datasets.disable_progress_bars()
plain = list(open_text(TextSettings(dataset=folder)).documents())
streamed = list(open_text(TextSettings(dataset=folder, streaming=True)).documents())
datasets.load_dataset(folder, split="train").save_to_disk(saved)
again = list(open_text(TextSettings(dataset=saved)).documents())
unnamed = next(open_text(TextSettings(dataset=folder, source_column=None)).documents())
parts = []
for wanted in (dict(), dict(streaming=True), dict(saved=True)):
    kind = dict(dataset=saved) if wanted.pop("saved", False) else dict(dataset=folder, **wanted)
    text = open_text(TextSettings(**kind))
    length = -(-text.places // 2)
    parts.append([list(text.documents(start, start + length)) for start in range(0, text.places, length)])
errors = []
for wrong in (dict(text_column="body"), dict(split="test"), dict(streaming=True, text_column="body")):
    try:
        open_text(TextSettings(dataset=folder, **wrong)).check()
    except ValueError as error:
        errors.append(str(error))
try:
    open_text(TextSettings(dataset="nobody/nothing-of-that-name"))
except ValueError as error:
    errors.append(str(error))
identity = [open_text(TextSettings(dataset=folder, streaming=s)).identity() for s in (False, True)]
print(json.dumps([plain, streamed, again, unnamed, parts, errors, identity]))
"""


def test_hugging_face_datasets_offline(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    write(folder / "train-0.parquet", ROWS[:400])
    write(folder / "train-1.parquet", ROWS[400:])
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DATASET_SCRIPT, str(folder), str(tmp_path / "saved")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    plain, streamed, again, unnamed, parts, errors, (mapped, stream) = json.loads(done.stdout.splitlines()[-1])
    assert [tuple(row) for row in plain] == ROWS
    assert plain == streamed == again
    assert [len(part) for part in parts[1]] == [400, 300]  # a stream's shards are its files
    for two in parts:
        assert len(two) == 2
        assert two[0] + two[1] == plain
    assert unnamed == [ROWS[0].text, "corpus"]
    assert "column 'body' is missing; columns are id, source, text" in errors[0]
    assert "split 'test'" in errors[1]
    assert "column 'body' is missing" in errors[2]
    assert "nobody/nothing-of-that-name" in errors[3]
    assert mapped["text/fingerprint"]
    assert stream["text/file/train-0.parquet"].startswith("bytes=")


PARTS_SCRIPT = """
import datasets, json, sys
from pathlib import Path
from curriculum.text.text import TextSettings, open_text
folder = Path(sys.argv[1])
datasets.disable_progress_bars()
rows = {"text": [str(i) for i in range(10)], "source": ["s"] * 10, "meta": [{"set": "m"}] * 10}
made = datasets.Dataset.from_dict(rows)
made.save_to_disk(folder / "one")
datasets.Dataset.from_dict(rows, split="validation").save_to_disk(folder / "named")
datasets.DatasetDict({"train": made, "test": made}).save_to_disk(folder / "both")
made.to_parquet(folder / "a.parquet")
part = datasets.load_dataset("parquet", data_files=str(folder / "a.parquet"), split="train[:40%]")
part.save_to_disk(folder / "part")
def read(**given):
    try:
        text = open_text(TextSettings(**given))
        text.check()
        return "".join(document.text for document in text.documents())
    except ValueError as error:
        return str(error)
found = {}
for split in ("train", "train[:50%]", "train[3:5]", "train[-2:]", "train[:20%]+train[80%:]", "nonsense", "train["):
    found[split] = read(dataset=str(folder / "one"), split=split)
found["streamed"] = read(dataset=str(folder / "one"), split="train[:50%]", streaming=True)
found["named"] = read(dataset=str(folder / "named"), split="validation[:30%]")
found["not named"] = read(dataset=str(folder / "named"))
found["both"] = read(dataset=str(folder / "both"), split="train[:10%]+test[:10%]")
found["part"] = read(dataset=str(folder / "part"))
found["subset"] = read(dataset=str(folder / "one"), subset="en")
files = [str(folder / "*.parquet")]
found["parquet"] = read(dataset="parquet", data_files=files, split="train[:30%]")
found["nested"] = read(dataset="parquet", data_files=files, source_column="meta.set", streaming=True)
found["no files"] = read(dataset="parquet")
print(json.dumps(found))
"""


def test_parts_of_saved_datasets_and_files_of_formats(tmp_path: Path) -> None:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARTS_SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = {
        "train": "0123456789",
        "train[:50%]": "01234",
        "train[3:5]": "34",
        "train[-2:]": "89",
        "train[:20%]+train[80%:]": "0189",
        "streamed": "01234",
        "named": "012",
        "both": "00",
        "part": "0123",
        "parquet": "012",
        "nested": "0123456789",
    }
    assert {name: found[name] for name in expected} == expected
    assert "Unknown split" in found["nonsense"]
    assert "the saved splits are train: set input.split" in found["train["]
    assert "the saved splits are validation" in found["not named"]
    assert "input.subset='en' does not apply to a saved dataset" in found["subset"]
    assert "name its files with input.data_files" in found["no files"]


def mixed(folder: Path) -> Path:
    """Every format in one folder, long and short lines, blank lines, empty texts, and empty .txt files at the end."""
    rows = [Document(f"{i} " + "word " * (i * 37 % 300), "web") for i in range(300)]
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
        write(folder / name, rows)
    lines = "".join(json.dumps(row._asdict()) + "\n" * (1 + i % 3) for i, row in enumerate(rows)).encode()
    (folder / "e.jsonl").write_bytes(b"\n\n" + lines.rstrip(b"\n"))
    middle = len(lines) // 3
    (folder / "f.jsonl.gz").write_bytes(gzip.compress(lines[:middle]) + b"\0" * 7 + gzip.compress(lines[middle:]))
    for name, text in (("g.txt", "some text"), ("h.txt", ""), ("i.txt", "")):
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("size", [1500, 7000, 40_001])
def test_ranges_of_places_cut_the_text_into_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("curriculum.text.lines.PACKED_BYTES", 512)
    settings = TextSettings(paths=[str(mixed(tmp_path / "in"))])
    whole = list(open_text(settings).documents())
    ranges = [(start, start + size) for start in range(0, open_text(settings).places, size)]
    forward, parts, ends = open_text(settings), [], {}
    for start, stop in ranges:
        parts.append(list(forward.documents(start, stop)))
        for name, first, last in forward.spans:
            assert ends.get(name, 0) == first <= last
            ends[name] = last
    assert [document for part in parts for document in part] == whole
    assert len([part for part in parts if part]) > 3
    jumping = open_text(settings)  # out of order, with one part interrupted: no state may leak
    for index in sorted(range(len(ranges)), key=lambda i: i * 7919 % 13):
        next(jumping.documents(*ranges[(index * 5) % len(ranges)]), None)
        assert list(jumping.documents(*ranges[index])) == parts[index]
    every_other = open_text(settings)  # as read by one of two workers
    assert [list(every_other.documents(*part)) for part in ranges[1::2]] == parts[1::2]


def test_a_part_is_read_without_what_is_before_it(tmp_path: Path) -> None:
    """A broken line fails only in its own part, and is reported by its line number in the file."""
    rows = [json.dumps({"text": f"text {i}", "source": "s"}) for i in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows[:150], "{", *rows[150:]]))
    text = open_text(TextSettings(paths=[str(tmp_path / "a.jsonl")]))
    size = text.places // 4
    assert 45 < len(list(text.documents(0, size))) < 55
    with pytest.raises(ValueError, match=r"a\.jsonl, line 151: invalid JSON"):
        list(text.documents(2 * size, text.places))


def test_a_packed_file_is_unpacked_once_by_a_reader_that_goes_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curriculum.text.lines.PACKED_BYTES", 512)
    text = open_text(TextSettings(paths=[str(write(tmp_path / "a.jsonl.gz"))]))
    opened = []
    honest = text_lines._read_blocks
    monkeypatch.setattr(text_lines, "_read_blocks", lambda path: opened.append(path) or honest(path))
    for start in range(0, text.places, 1000):
        list(text.documents(start, start + 1000))
    assert len(opened) == 1
