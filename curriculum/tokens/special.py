"""The special tokens that a tokenizer.json puts around a text, and the template that follows the rule of TOKENS.

The rule: a document is end-of-text, then BOS if `tokenizer.bos` is set, then the tokens of its text. A prompt is the
same without the end-of-text, which only separates documents. Nothing else is added, whatever the tokenizer's own
template says. Training, scoring and benchmarks read it from TOKENS; tokenizer.json in TOKENS and in exports is saved
with a template that does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FRAMES = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")
"""Types of post-processor that add special tokens."""


def template_tokens(data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the special tokens that the post-processor of a tokenizer.json adds before and after a single text."""
    before: list[str] = []
    after: list[str] = []
    for processor in _processors(data):
        if processor["type"] == "TemplateProcessing":
            first, last = _around(processor)
        elif processor["type"] in FRAMES:
            first, last = [processor["cls"][0]], [processor["sep"][0]]
        else:
            continue
        before, after = first + before, after + last
    return before, after


def with_template(data: dict[str, Any], bos: str | None, bos_id: int) -> dict[str, Any]:
    """Return a tokenizer.json that adds `bos` before a text, or nothing if it is None; `data` itself if it does so."""
    if template_tokens(data) == ([bos] if bos is not None else [], []):
        return data
    kept = [processor for processor in _processors(data) if processor["type"] not in FRAMES]
    if bos is not None:
        kept.append(_template(bos, bos_id))
    whole = {"type": "Sequence", "processors": kept} if len(kept) > 1 else kept[0] if kept else None
    return {**data, "post_processor": whole}


def as_special(data: dict[str, Any], token: str) -> dict[str, Any]:
    """Return a tokenizer.json in which `token` of its vocabulary is a special token, so that no text encodes to it."""
    added = [dict(entry) for entry in data.get("added_tokens") or []]
    entry = next((entry for entry in added if entry.get("content") == token), None)
    if entry is not None:
        entry["special"] = True
    elif isinstance(vocabulary := data.get("model", {}).get("vocab"), dict) and token in vocabulary:
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added.append({"id": vocabulary[token], "content": token, **plain, "special": True})
    return {**data, "added_tokens": added}


def named_token(config: Mapping[str, Any], key: str) -> str | None:
    """Return a token named in tokenizer_config.json, such as `bos_token`; None if it names none."""
    named = config.get(key)
    named = named.get("content") if isinstance(named, dict) else named
    return named if isinstance(named, str) and named else None


def _processors(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    whole = data.get("post_processor")
    if not isinstance(whole, dict):
        return []
    if whole.get("type") == "Sequence":
        return [part for inner in whole["processors"] for part in _processors({"post_processor": inner})]
    return [whole]


def _around(template: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    before: list[str] = []
    after: list[str] = []
    found = before
    for piece in template["single"]:
        if "Sequence" in piece:
            found = after
        else:
            found += template["special_tokens"][piece["SpecialToken"]["id"]]["tokens"]
    return before, after


def _template(bos: str, bos_id: int) -> dict[str, Any]:
    def text(name: str, number: int) -> list[dict[str, Any]]:
        return [
            {"SpecialToken": {"id": bos, "type_id": number}},
            {"Sequence": {"id": name, "type_id": number}},
        ]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": text("A", 0) + text("B", 1),
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
