"""The demo's text: files that any machine with Python and this project's dependencies has on disk.

    pdpc demo        collects it once into a TEXT artifact: one .jsonl per source (columns text, source, id)

Nothing is downloaded, imported or run: files are read in order of their names, code with `ast`. A source's documents
are drawn by a hash of their ids until its budget is full, so that names early in the alphabet are not favored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from curriculum.artifact.create import create, reusable
from curriculum.artifact.manifest import open_manifest
from curriculum.work.printable import printable_lines
from launch.demo.sources import Document, Places, rank, read_sources

RECIPE = 3
"""Version of the selection; raise it when the same machine would give a different text."""

BUDGETS = {
    "help_topics": 450_000,
    "licences": 550_000,
    "package_code": 900_000,
    "package_descriptions": 600_000,
    "package_docstrings": 550_000,
    "stdlib_code": 1_000_000,
    "stdlib_docstrings": 700_000,
}
"""Maximum UTF-8 bytes per source: 4.75 MB in all, the largest 21 %."""

LONGEST = 12_000
"""Maximum characters of a document; a longer one is cut at a blank line."""
SHORTEST = 200
"""Minimum characters of a document; a shorter one is left out."""
LEAST_BYTES, LEAST_SOURCES, LARGEST_SHARE = 4_000_000, 5, 0.45


def collect(folder: Path) -> None:
    """Write this machine's TEXT artifact into `folder`, or reuse a complete one, and print its table.

    The text is a snapshot: packages installed later do not make it stale. About 6 MB, under 20 s.
    Raises ValueError when the machine has too little text (see `check`), ArtifactError when `folder` holds text of
    another RECIPE or something else.
    """
    config = {"recipe": RECIPE, "budgets": BUDGETS, "longest": LONGEST, "shortest": SHORTEST}
    if not reusable(folder, "text", config=config, inputs={}):
        skipped: Counter[str] = Counter()
        kept = arrange_sources(read_sources(Places.of_this_python(), skipped), BUDGETS, skipped)
        check(kept)
        with create(folder, "text", config=config, inputs={}) as draft:
            for source, documents in kept.items():
                write(draft.path / f"{source}.jsonl", source, documents)
            draft.facts.update(facts_of(kept, skipped))
    print(printable_lines(table(open_manifest(folder, "text").facts)))


def arrange_sources(
    sources: Mapping[str, list[Document]], budgets: Mapping[str, int], skipped: Counter[str]
) -> dict[str, list[Document]]:
    """Leave out exact duplicates, documents that are not text and those over a source's budget; cut long documents.

    Returns the documents of each non-empty source, sorted by id.
    """
    seen: set[bytes] = set()
    seen_pieces: set[bytes] = set()  # licenses that differ in their first lines share their later pieces
    kept = {}
    for source in sorted(sources):
        whole = list(_new_documents(sources[source], seen, skipped))
        chosen, size = [], 0
        for name, text in sorted(whole, key=lambda document: rank(document[0])):
            size += len(text.encode())
            if size > budgets[source]:
                break
            chosen.append((name, text))
        skipped["documents over the budget"] += len(whole) - len(chosen)
        pieces = (piece for document in sorted(chosen) for piece in cut(document))
        if new := list(_new_documents(pieces, seen_pieces, skipped)):
            kept[source] = new
    return kept


def _new_documents(documents: Iterable[Document], seen: set[bytes], skipped: Counter[str]) -> Iterator[Document]:
    for name, text in documents:
        text = text.strip("\n") + "\n"
        if len(text) < SHORTEST:
            skipped["documents too short"] += 1
            continue
        try:
            digest = blake2b(text.encode(), digest_size=16).digest()
        except UnicodeEncodeError:  # lone surrogates from escapes in docstrings
            skipped["documents that are not UTF-8"] += 1
            continue
        if digest in seen:
            skipped["exact duplicates"] += 1
            continue
        seen.add(digest)
        yield name, text


def cut(document: Document) -> Iterator[Document]:
    """Cut a document at the last blank line before LONGEST characters, else at the last newline, else at LONGEST."""
    name, text = document
    number = 1
    while len(text) > LONGEST:
        end = max(text.rfind("\n\n", LONGEST // 2, LONGEST), 0) or max(text.rfind("\n", 1, LONGEST), 0) or LONGEST
        yield (f"{name}#{number}", text[:end].rstrip("\n") + "\n")
        text = text[end:].lstrip("\n")
        number += 1
    yield (f"{name}#{number}" if number > 1 else name), text


def check(kept: Mapping[str, list[Document]]) -> None:
    """Raise ValueError when there are too few sources or bytes, or one source is too large a share."""
    sizes = {source: sum(len(text.encode()) for _, text in documents) for source, documents in kept.items()}
    total = sum(sizes.values())
    if len(sizes) < LEAST_SOURCES or total < LEAST_BYTES or max(sizes.values()) > LARGEST_SHARE * total:
        raise ValueError(
            f"demo text: this machine has {total} bytes in {len(sizes)} sources {sizes}, the demo needs {LEAST_BYTES} "
            f"in {LEAST_SOURCES}, none above {LARGEST_SHARE:.0%}: install a full Python with its standard library "
            "(not a stripped one) and the project's dependencies, or set text to a folder of .jsonl files"
        )


def write(path: Path, source: str, documents: list[Document]) -> None:
    """Write one source as JSON Lines."""
    with open(path, "x", encoding="utf-8", newline="\n") as file:
        for name, text in documents:
            file.write(json.dumps({"text": text, "source": source, "id": name}, ensure_ascii=False) + "\n")


def facts_of(kept: Mapping[str, list[Document]], skipped: Mapping[str, int]) -> dict[str, Any]:
    """Return the counts for the manifest: documents and text bytes by source, and left-out documents by reason."""
    rows = {
        source: {"documents": len(documents), "bytes": sum(len(text.encode()) for _, text in documents)}
        for source, documents in kept.items()
    }
    return {"sources": rows, "left_out": {reason: number for reason, number in sorted(skipped.items()) if number}}


def table(facts: Mapping[str, Any]) -> str:
    """Return the counts of `facts_of` as a table for the terminal."""
    rows = facts["sources"]
    total = {key: sum(row[key] for row in rows.values()) for key in ("documents", "bytes")}
    lines = [f"{'source':<22}{'documents':>10}{'MB':>8}{'share':>8}"]
    for name, row in [*rows.items(), ("all", total)]:
        share = row["bytes"] / max(total["bytes"], 1)
        lines.append(f"{name:<22}{row['documents']:>10}{row['bytes'] / 1e6:>8.2f}{share:>8.1%}")
    left_out = ", ".join(f"{number} {reason}" for reason, number in facts["left_out"].items())
    return "\n".join([*lines, f"left out: {left_out or 'nothing'}"])
