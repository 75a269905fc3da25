"""The demo's text: what every machine with Python and this project's packages has on its disk.

    pdpc demo        collects it once into a TEXT artifact: one .jsonl a source (columns text, source, id)

Nothing is fetched, imported or run: files are read in the order of their names, code through `ast`. Which documents
fit into a source's budget is drawn by a hash of their ids, so that the letter A has no head start.
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
from launch.demo.sources import Document, Places, rank, read_sources

RECIPE = 1
"""Version of what is collected; raise it when the text of the same machine would change."""

BUDGETS = {
    "help_topics": 1_000_000,
    "licences": 1_300_000,
    "package_code": 3_150_000,
    "package_descriptions": 1_500_000,
    "package_docstrings": 1_300_000,
    "stdlib_code": 3_650_000,
    "stdlib_docstrings": 1_700_000,
}
"""Most UTF-8 bytes of each source: 13.6 MB in all, the largest 27 %."""

LONGEST = 12_000
"""Characters at which a document is cut, at the blank line before."""
SHORTEST = 200
"""Characters under which a document is left out."""
LEAST_BYTES, LEAST_SOURCES, LARGEST_SHARE = 12_000_000, 5, 0.45


def collect(folder: Path) -> None:
    """Write the TEXT artifact of this machine into `folder`, or keep a whole one, and print its table.

    The text is a snapshot: packages installed later do not make it stale. About 16 MB, under 20 s.
    Raises ValueError when the machine has too little text (see `check`), ArtifactError when `folder` holds another
    recipe's text or something else.
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
    print(table(open_manifest(folder, "text").facts))


def arrange_sources(
    sources: Mapping[str, list[Document]], budgets: Mapping[str, int], skipped: Counter[str]
) -> dict[str, list[Document]]:
    """Leave out exact duplicates, what is not text and what is over a source's budget; cut what is long.

    Returns the documents of each source (sources that end up empty are left out), sorted by id.
    """
    seen: set[bytes] = set()
    seen_pieces: set[bytes] = set()  # licences that differ in their first lines share their later pieces
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
        except UnicodeEncodeError:  # lone surrogates out of escapes in docstrings
            skipped["documents that are not UTF-8"] += 1
            continue
        if digest in seen:
            skipped["exact duplicates"] += 1
            continue
        seen.add(digest)
        yield name, text


def cut(document: Document) -> Iterator[Document]:
    """Cut a document at the last blank line before LONGEST characters (else the last line, else there)."""
    name, text = document
    number = 1
    while len(text) > LONGEST:
        end = max(text.rfind("\n\n", LONGEST // 2, LONGEST), 0) or max(text.rfind("\n", 1, LONGEST), 0) or LONGEST
        yield (f"{name}#{number}", text[:end].rstrip("\n") + "\n")
        text = text[end:].lstrip("\n")
        number += 1
    yield (f"{name}#{number}" if number > 1 else name), text


def check(kept: Mapping[str, list[Document]]) -> None:
    """Raise ValueError when there are too few sources, too few bytes, or one source outweighs the rest."""
    sizes = {source: sum(len(text.encode()) for _, text in documents) for source, documents in kept.items()}
    total = sum(sizes.values())
    if len(sizes) < LEAST_SOURCES or total < LEAST_BYTES or max(sizes.values()) > LARGEST_SHARE * total:
        raise ValueError(
            f"demo text: this machine has {total} bytes in {len(sizes)} sources {sizes}, wanted {LEAST_BYTES} in "
            f"{LEAST_SOURCES}, none above {LARGEST_SHARE:.0%}: install a full Python with its standard library "
            "(not a stripped one) and the project's packages, or give `prepare` a text of your own"
        )


def write(path: Path, source: str, documents: list[Document]) -> None:
    """Write one source as JSON lines."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for name, text in documents:
            file.write(json.dumps({"text": text, "source": source, "id": name}, ensure_ascii=False) + "\n")


def facts_of(kept: Mapping[str, list[Document]], skipped: Mapping[str, int]) -> dict[str, Any]:
    """Return the counts that the manifest keeps: documents and text bytes by source, and what was left out."""
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
