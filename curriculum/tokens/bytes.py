"""The bytes of text that each token represents, for byte counts and for decoding runs of tokens.

Only tokenizer.json is read. Byte-level vocabularies (GPT-2's) map each byte to a character; others are plain text, with
spaces written as U+2581 and single bytes as <0xNN>.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.artifact.files import read_text, reading
from curriculum.tokens.tokenizer import TOKENIZER_FILE, parse

SPACE = "\u2581"
LONE_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@lru_cache(maxsize=8)
def token_bytes(folder: Path) -> tuple[bytes, ...] | None:
    """Return the bytes of every token by id, b"" for special tokens; None if there is no tokenizer.json."""
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return None
    with reading(path, "save or download the tokenizer again"):
        text = read_text(path)
        data = json.loads(text)
        vocabulary = parse(text).get_vocab(with_added_tokens=True)
    return bytes_by_id(data, vocabulary)


def bytes_by_id(data: Mapping[str, Any], vocabulary: Mapping[str, int]) -> tuple[bytes, ...]:
    """Return the bytes of every token by id, from a tokenizer.json and its vocabulary with added tokens.

    Special tokens and the unknown token, which the text does not hold, have none.
    """
    added = {entry["content"]: bool(entry.get("special")) for entry in data.get("added_tokens") or []}
    spelled = _byte_characters() if is_byte_level(data) else None
    unknown = unknown_token(data)
    found = [b""] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        if token == unknown:
            continue
        if token in added:
            lone = LONE_BYTE.fullmatch(token)
            found[number] = bytes([int(lone[1], 16)]) if lone else b"" if added[token] else token.encode()
        elif spelled is not None:
            found[number] = bytes(spelled[character] for character in token if character in spelled)
        elif lone := LONE_BYTE.fullmatch(token):
            found[number] = bytes([int(lone[1], 16)])
        else:
            found[number] = token.replace(SPACE, " ").encode()
    return tuple(found)


def unknown_token(data: Mapping[str, Any]) -> str | None:
    """Return the token that a tokenizer.json's model gives for what it does not know; None if it has none."""
    model = data.get("model") or {}
    number = model.get("unk_id")
    if isinstance(number, int) and isinstance(model.get("vocab"), list):  # Unigram
        return str(model["vocab"][number][0])
    token = model.get("unk_token")
    return token if isinstance(token, str) else None


@lru_cache(maxsize=8)
def byte_lengths(folder: Path) -> npt.NDArray[np.int64] | None:
    """Return the bytes of text per token, int64 [vocabulary]; None without a tokenizer.json."""
    spelled = token_bytes(folder)
    return None if spelled is None else np.array([len(part) for part in spelled], dtype=np.int64)


def bytes_of(labels_BT: npt.NDArray[np.int64], lengths_V: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the bytes of every label, in its shape; 0 if it is ignored or unknown to the tokenizer."""
    known = (labels_BT >= 0) & (labels_BT < len(lengths_V))
    return np.where(known, lengths_V[np.where(known, labels_BT, 0)], 0)


def is_byte_level(data: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer.json is byte-level: ByteLevel occurs in its decoder or pre-tokenizer."""
    text = json.dumps([data.get("decoder"), data.get("pre_tokenizer")])
    return '"ByteLevel"' in text


def _byte_characters() -> dict[str, int]:
    """Return the byte of each character of the byte-level alphabet (the inverse of GPT-2's `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(rest)}
