"""The bytes of a text that a tokenizer loses: drops, changes, or maps to its unknown token.

Every document is checked. Where the tokens spell the text byte by byte, comparing lengths is a proof: tokens can lose
bytes but not invent them. Everywhere else, and wherever the lengths differ, decode(encode(text)) is compared with text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from curriculum.tokens.bytes import bytes_by_id, is_byte_level, unknown_token
from curriculum.tokens.tokenizer import TextTokenizer

UNKNOWN = -(1 << 40)
"""Length of the unknown token where tokens are plain text: no sum of lengths then equals a text's."""
FORMS = ("NFC", "NFD", "NFKC", "NFKD")


class LostBytes:
    """Counts what a tokenizer loses of texts."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        data = tokenizer.data
        spelled = bytes_by_id(data, tokenizer.vocabulary)
        self._lengths_V = np.array([len(part) for part in spelled], dtype=np.int64)
        token = unknown_token(data)
        self._unknown = tokenizer.vocabulary.get(token) if token is not None else None
        self._byte_level = is_byte_level(data)
        if self._unknown is not None and not self._byte_level:
            self._lengths_V[self._unknown] = UNKNOWN
        normalizers = _parts(data.get("normalizer"), "normalizers")
        self._forms = tuple(part["type"] for part in normalizers if part["type"] in FORMS)
        self._added = _bytes_added(data, normalizers)
        if self._byte_level and self._added:
            self._added = None

    def of(
        self, texts: Sequence[str], raw: Sequence[bytes], encoded: Sequence[npt.NDArray[np.uint32]]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return the lost bytes of each text, int64 [n], and whether its tokens decode to another text, bool [n].

        `raw` are the texts in UTF-8, `encoded` their token ids. O(tokens), and the cost of decoding where lengths prove
        nothing.
        """
        sizes = np.array([len(part) for part in raw], dtype=np.int64)
        lost = np.zeros(len(texts), dtype=np.int64)
        changed = np.zeros(len(texts), dtype=np.bool_)
        doubtful = np.arange(len(texts))
        if self._added is not None and len(texts):
            ends = np.cumsum([len(ids) for ids in encoded])
            sums = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(self._lengths_V[np.concatenate(encoded)])))
            missing = sizes + self._added - np.diff(sums[np.concatenate((np.zeros(1, dtype=np.int64), ends))])
            proven = np.array([self._kept_by_normalizer(text) for text in texts])
            proven &= missing >= 0 if self._byte_level else missing == 0
            lost[proven], changed[proven] = missing[proven], missing[proven] > 0
            doubtful = np.flatnonzero(~proven)
        for i in doubtful.tolist():
            lost[i], changed[i] = self._decoded(texts[i], raw[i], encoded[i])
        return lost, changed

    def _kept_by_normalizer(self, text: str) -> bool:
        return all(
            text.isascii() or unicodedata.is_normalized(cast(Literal["NFC", "NFD", "NFKC", "NFKD"], form), text)
            for form in self._forms
        )

    def _decoded(self, text: str, raw: bytes, ids: npt.NDArray[np.uint32]) -> tuple[int, bool]:
        """Return how many of a text's bytes are not in the decoded text, by value, and whether the two differ."""
        found = self._tokenizer.decode(ids if self._unknown is None else ids[ids != self._unknown])
        if found == text:
            return 0, False
        wanted, there = (
            np.bincount(np.frombuffer(part, dtype=np.uint8), minlength=256) for part in (raw, found.encode())
        )
        return int(np.maximum(wanted - there, 0).sum()), True


def _bytes_added(data: Mapping[str, Any], normalizers: Sequence[Mapping[str, Any]]) -> int | None:
    """Return how many bytes the tokens of a text have more than the text if nothing is lost; None if that varies."""
    model = data.get("model") or {}
    if model.get("type") not in ("BPE", "Unigram") or model.get("dropout"):
        return None
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return None
    added = 0
    for part in normalizers:
        if part["type"] == "Prepend" and part.get("prepend") == "\u2581":
            added += 1
        elif part["type"] not in FORMS and not _writes_spaces(part):
            return None
    pre = _parts(data.get("pre_tokenizer"), "pretokenizers")
    for part in pre:
        if part["type"] == "ByteLevel" and part.get("add_prefix_space", True):
            return None
        if part["type"] == "Metaspace":
            if len(pre) > 1 or part.get("replacement") != "\u2581":
                return None
            added += part.get("prepend_scheme", "always") != "never" and part.get("add_prefix_space", True)
    return added


def _writes_spaces(part: Mapping[str, Any]) -> bool:
    return part["type"] == "Replace" and part.get("pattern") == {"String": " "} and part.get("content") == "\u2581"


def _parts(whole: Any, key: str) -> list[dict[str, Any]]:
    """Return the members of a normalizer or pre-tokenizer, sequences resolved."""
    if not isinstance(whole, dict):
        return []
    if whole.get("type") == "Sequence":
        return [part for inner in whole[key] for part in _parts(inner, key)]
    return [whole]
