"""A document that is too long is named before it fills the memory, whatever its file unpacks to."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curriculum.text.document import Document
from curriculum.text.text import TextSettings, open_text
from curriculum.tokens.settings import PrepareSettings

LARGEST = 1 << 24
UNPACKED = 1 << 29
FILES = ("line.jsonl.gz", "line.jsonl.zst", "element.json.gz", "element.json.zst", "line.jsonl", "long.txt")
READ = """
import resource, sys
from curriculum.text.text import TextSettings, open_text
import curriculum.text.lines, pyarrow.parquet, zstandard
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
for path in sys.argv[1:]:
    try:
        print(sum(1 for _ in open_text(TextSettings(paths=[path], max_document_bytes=1 << 24)).documents()))
    except ValueError as error:
        print(error)
print(peak() - before)
"""


def pieces(start: bytes, end: bytes) -> Iterator[bytes]:
    yield start
    for _ in range(UNPACKED >> 20):
        yield b"x" * (1 << 20)
    yield end


def write_bombs(folder: Path) -> list[str]:
    record = b'{"source": "web", "text": "'
    for name in FILES:
        path = folder / name
        start, end = (b"[" + record, b'"}]') if name.startswith("element") else (record, b'"}\n')
        if name.endswith(".gz"):
            with gzip.open(path, "wb", compresslevel=1) as packed:
                packed.writelines(pieces(start, end))
        elif name.endswith(".zst"):
            with open(path, "wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as writer:
                for piece in pieces(start, end):
                    writer.write(piece)
        else:
            with open(path, "wb") as file:
                file.write(b"" if name.endswith(".txt") else start)
                file.truncate(UNPACKED)  # zero bytes, which take no disk
    value = "x" * (LARGEST + 1)
    whole = pa.chunked_array([pa.array([value]).dictionary_encode()]).cast(pa.string())
    pq.write_table(pa.table({"text": whole, "source": ["web"]}), folder / "value.parquet", compression="zstd")
    short = pa.array(["x" * (1 << 20)]).dictionary_encode()
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 1024, pa.int32()), short.dictionary)
    table = pa.table({"text": rows.cast(pa.string()), "source": ["web"] * 1024})
    pq.write_table(table, folder / "rows.parquet", compression="zstd", dictionary_pagesize_limit=1 << 21)
    return [str(folder / name) for name in (*FILES, "value.parquet", "rows.parquet")]


def test_no_file_fills_the_memory(tmp_path: Path) -> None:
    paths = write_bombs(tmp_path)
    assert max(os.path.getsize(path) for path in paths if path.endswith((".gz", ".zst", ".parquet"))) < UNPACKED / 200
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", READ, *paths]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    *lines, grown_mib = done.stdout.splitlines()
    places = ("line 1", "line 1", "element 1", "element 1", "line 1", "", "row group 1")
    for path, place, line in zip(paths, places, lines, strict=False):
        assert line.startswith(f"{path}, {place}: " if place else f"{path}: "), done.stderr
        assert f"{LARGEST:,}" in line
        assert "raise input.max_document_bytes" in line
    assert lines[-1] == "1024"  # the values are allowed, but not all rows at once
    assert int(grown_mib) < 250, grown_mib  # about 64 MiB of 2048 that zstd unpacks at once


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("middle", [99, 100, 101, 70_000, 3_000_000])
def test_a_long_line_can_be_skipped_and_no_other_is_lost(tmp_path: Path, name: str, middle: int) -> None:
    frame = len(json.dumps({"text": "", "source": "web"}))
    texts = ["a" * 9, "b" * middle, "c" * 9]
    lines = [json.dumps({"text": text, "source": "web"}) for text in texts]
    raw = "\n".join(lines).encode()  # without a line end after the last
    packed = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)(raw)
    (tmp_path / name).write_bytes(packed)
    settings = TextSettings(paths=[str(tmp_path / name)], max_document_bytes=frame + 100)
    kept = [Document(text, "web") for text in texts if len(text) <= 100]
    text = open_text(settings, skip_bad=True)
    assert list(text.documents()) == kept
    assert [place for place, _ in text.bad.skipped] == [f"{tmp_path / name}, line 2"] * (3 - len(kept))
    step = max(1, text.places // 37)
    found = [document for at in range(0, text.places, step) for document in text.documents(at, at + step)]
    assert found == kept
    if len(kept) < 3:
        with pytest.raises(ValueError, match=f"line 2: has more than {frame + 100} bytes"):
            list(open_text(settings).documents())


def test_the_limit_changes_the_contents_only_where_it_decides_what_is_skipped() -> None:
    default, other = TextSettings(paths=["x"]), TextSettings(paths=["x"], max_document_bytes=5)
    assert PrepareSettings(default).content() == PrepareSettings(other).content()
    skipping = [PrepareSettings(text, on_bad_record="skip").content() for text in (default, other)]
    assert skipping[0] != skipping[1]
    assert "max_document_bytes" not in skipping[0]["input"]
    with pytest.raises(ValueError, match="max_document_bytes=0 must be at least 1"):
        TextSettings(max_document_bytes=0)
