"""Print the contents of TOKENS by source and slice, and what the tokenizer lost of the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from curriculum.artifact.manifest import open_manifest
from curriculum.text.text import source_origins
from curriculum.tokens.tokens import KIND, SLICES
from curriculum.work.console import cell, say

SKIPPED = "skipped.jsonl"
"""File of TOKENS that lists the skipped records: place and reason, one per line."""

if TYPE_CHECKING:
    from curriculum.tokens.tokenizer import TextTokenizer

WARNED = 0.001
"""Share of a source's bytes: more lost ones are a warning."""
SHOWN = 5


def show(folder: Path, console: Console) -> None:
    """Print the contents of a TOKENS folder: a table by source and slice, then what was left out."""
    manifest = open_manifest(folder, KIND)
    facts = manifest.facts
    origin = source_origins(manifest.config, manifest.inputs) if "input" in manifest.config else None
    console.print(_table(facts, origin))
    for source, share in manifest.config.get("targets", {}).items():
        say(console, f"held out of training: {source} ({share:.1%} for the reference models, the rest for validation)")
    bits = f"{facts['vocab_size']:,} tokens, stored as {facts['dtype']}"
    say(console, f"vocabulary: {bits}; end of text: {facts['end_of_text_token']!r}; seq_len: {facts['seq_len']:,}")
    if "bos_token" in facts:
        say(console, f"documents start with {facts['bos_token']!r}, after the end of text that separates them")
    for line in _lost_lines(facts):
        say(console, line)
    for key, reason in (("blank_documents", "blank"), ("documents_without_tokens", "without tokens")):
        if facts[key]:
            by_source = ", ".join(f"{name} {count:,}" for name, count in sorted(facts[key].items()))
            say(console, f"documents left out, {reason}: {sum(facts[key].values()):,} ({by_source})")
    if skipped := facts.get("skipped_records"):
        by_reason = "; ".join(f"{count:,}: {reason}" for reason, count in skipped["by_reason"].items())
        share = skipped["count"] / (skipped["count"] + facts["documents_read"])
        places = f" ({share:.2%} of all); each is listed in {folder / SKIPPED}: {by_reason}" if by_reason else ""
        say(console, f"{'warning: ' if by_reason else ''}bad records skipped: {skipped['count']:,}{places}")


def check_lost(facts: Mapping[str, Any], limit: float) -> None:
    """Raise ValueError if the tokenizer lost more than `limit` of the bytes of a source."""
    worst = {name: _share(row) for name, row in facts.get("lost", {}).items() if _share(row) > limit}
    if not worst:
        return
    named = ", ".join(f"{name} {share:.2%}" for name, share in sorted(worst.items(), key=lambda item: -item[1])[:SHOWN])
    more = f" and {len(worst) - SHOWN} more sources" if len(worst) > SHOWN else ""
    raise ValueError(
        f"the tokenizer loses more than tokenizer.max_lost={limit} of the bytes of {named}{more} (it drops, changes "
        "or maps them to its unknown token): choose a tokenizer that spells every byte, such as train:8192, or "
        f"accept the loss with tokenizer.max_lost={_ceiling(max(worst.values()))} (finished chunks are kept)"
    )


def template_note(template: tuple[list[str], list[str]], tokenizer: TextTokenizer | None) -> str | None:
    """Return a note about what a tokenizer's own template adds and TOKENS leave out; None if that is nothing."""
    kept = [] if tokenizer is None else tokenizer.template[0]
    dropped = [
        f"{' '.join(part)!r} {where} a text"
        for part, where in zip(template, ("before", "after"), strict=True)
        if part and part != kept
    ]
    if not dropped:
        return None
    rule = f"with {kept[0]!r}" if kept else "without BOS (prepare adds it with tokenizer.bos=true)"
    return (
        f"the tokenizer's template adds {' and '.join(dropped)}; here documents start {rule}, and tokenizer.json is "
        "saved with a template that does the same"
    )


def _lost_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the tokenizer lost: a warning where that is more than WARNED of a source's bytes."""
    lost = facts.get("lost", {})
    worst = {name: row for name, row in lost.items() if _share(row) > WARNED}
    if worst:
        by_source = ", ".join(f"{name} {row['lost']:,} of {row['bytes']:,}" for name, row in worst.items())
        yield f"warning: the tokenizer loses more than {WARNED:.1%} of the bytes of a source ({by_source})"
    if lost:
        by_source = ", ".join(f"{name} {row['changed']:,}" for name, row in lost.items())
        total = sum(row["changed"] for row in lost.values())
        yield f"documents whose tokens decode to another text: {total:,} ({by_source}); all documents were checked"


def _share(row: Mapping[str, int]) -> float:
    return row["lost"] / max(1, row["bytes"])


def _ceiling(share: float) -> float:
    """Return a share rounded up to three decimals."""
    return min(1.0, math.ceil(share * 1000) / 1000)


def _table(facts: Mapping[str, Any], origin: Callable[[str], str] | None) -> Table:
    """Return a row per source and slice; `origin` says where a source's name came from."""
    table = Table()
    for name in ("source", "named by", "slice") if origin is not None else ("source", "slice"):
        table.add_column(name, overflow="fold")
    for name in ("documents", "tokens", "samples"):
        table.add_column(name, justify="right")
    lost = facts.get("lost", {})
    if lost:
        table.add_column("lost bytes", justify="right")
    slices = facts["slices"]
    keys = ("documents", "tokens", "samples")
    for index, source in enumerate(row["name"] for row in slices[SLICES[0]]["sources"]):
        for slice_name in SLICES:
            row = slices[slice_name]["sources"][index]
            first = slice_name == SLICES[0]
            names = [source if first else ""] + ([origin(source) if first else ""] if origin is not None else [])
            numbers = [f"{row[key]:,}" for key in keys]
            if lost and first:
                numbers.append(f"{_share(lost[source]):.2%}" if source in lost else "0")
            table.add_row(*map(cell, names), slice_name, *numbers, end_section=slice_name == SLICES[-1])
    for slice_name in SLICES:
        names = ["all" if slice_name == SLICES[0] else "", *([""] if origin is not None else [])]
        table.add_row(*names, slice_name, *(f"{slices[slice_name][key]:,}" for key in keys))
    return table
