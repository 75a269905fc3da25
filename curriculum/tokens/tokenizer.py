"""The tokenizer: loaded or trained, made safe for untrusted text, saved in a form that Hugging Face loads."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curriculum.artifact.files import fingerprint_of, read_text, reading, write_text
from curriculum.tokens.special import as_special, named_token, template_tokens, with_template

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TRAIN_PREFIX = "train:"
MOST_IDS = 1 << 24
SMALLEST_VOCABULARY = 257  # 256 bytes and end-of-text
KNOWN_END_OF_TEXT = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
NOT_KEPT = ("auto_map", "model_max_length", "tokenizer_file")  # remote code; another model's limit; a path elsewhere


@dataclass(frozen=True)
class TokenizerSettings:
    """The tokenizer to load or train."""

    name: str = "train:8192"
    """"train:VOCAB" (a byte-level BPE trained on the training slice), a folder with a tokenizer.json, or the name of a
    Hugging Face tokenizer (downloaded if it is not in the cache)."""
    end_of_text: str | None = None
    """The token between documents. null: the tokenizer's default ("<|endoftext|>" for a trained one)."""
    bos: bool = False
    """Start every document, and every prompt of a benchmark, with the tokenizer's BOS token (end_of_text if it has
    none). The tokenizer's own template is never applied."""
    max_lost: float = 0.01
    """Largest share of a source's bytes that the tokenizer may drop, change or map to its unknown token. More is an
    error; more than 0.001 is a warning."""
    train_megabytes: int = 64
    """Most text for training the tokenizer, in 10^6 UTF-8 bytes: documents sampled uniformly, by a hash of their text,
    in one pass over the whole input."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("tokenizer.name is empty: use train:8192, a folder with a tokenizer.json, or a name")
        if self.end_of_text == "":
            raise ValueError("tokenizer.end_of_text is empty: name a token, or use null for the tokenizer's default")
        if not 0 <= self.max_lost <= 1:
            raise ValueError(f"tokenizer.max_lost={self.max_lost} must be in [0, 1], a share of a source's bytes")
        if self.train_megabytes < 1:
            raise ValueError(f"tokenizer.train_megabytes={self.train_megabytes} must be at least 1")
        self.trained_vocabulary()

    def trained_vocabulary(self) -> int | None:
        """Return VOCAB of "train:VOCAB", None for an existing tokenizer."""
        if not self.name.startswith(TRAIN_PREFIX):
            return None
        size = self.name.removeprefix(TRAIN_PREFIX)
        if not size.isascii() or not size.isdigit() or not SMALLEST_VOCABULARY <= int(size) <= MOST_IDS:
            raise ValueError(
                f"tokenizer.name={self.name!r}: {TRAIN_PREFIX} must be followed by a vocabulary size from "
                f"{SMALLEST_VOCABULARY} to {MOST_IDS}, as in train:8192"
            )
        return int(size)


class TextTokenizer:
    """Encodes documents: adds no special tokens, never truncates, and treats special tokens in a text as plain text."""

    def __init__(self, data: dict[str, Any], config: dict[str, Any], end_of_text: str) -> None:
        self._data = _canonical(data, end_of_text)
        self._config = {key: value for key, value in config.items() if key not in NOT_KEPT}
        self._tokenizer = _build(self._data)
        self._marked: Tokenizer | None = None
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        if end_of_text not in vocabulary:
            raise ValueError(
                f"tokenizer.end_of_text={end_of_text!r} is not in the vocabulary of {len(vocabulary)} tokens: "
                "name one of its tokens"
            )
        self.end_of_text_token = end_of_text
        self.end_of_text: int = vocabulary[end_of_text]
        self.vocab_size: int = max(vocabulary.values()) + 1
        if self.vocab_size > MOST_IDS:
            raise ValueError(
                f"the tokenizer's largest token id is {self.vocab_size - 1:,} with {len(vocabulary):,} tokens, but a "
                f"model has a row for every id up to it, at most {MOST_IDS:,}: number its tokens from 0"
            )
        self.fingerprint: str = fingerprint_of(self._data)
        self.vocabulary: Mapping[str, int] = vocabulary
        self.template: tuple[list[str], list[str]] = template_tokens(self._data)
        """The special tokens that its template adds before and after a text; `encode` does not."""
        if self.end_of_text in self._tokenizer.encode(end_of_text, add_special_tokens=False).ids:
            raise ValueError(
                f"tokenizer.end_of_text={end_of_text!r}: this tokenizer also encodes plain text to it, so a text could "
                "forge the end of a document: choose another token with tokenizer.end_of_text=..."
            )

    @classmethod
    def open(cls, folder: Path, end_of_text: str | None = None) -> TextTokenizer:
        """Open a folder with a tokenizer.json. Raises ValueError with the file and a fix."""
        data = _read_json(folder / TOKENIZER_FILE)
        config = _read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
        with reading(folder / TOKENIZER_FILE, "save or download the tokenizer again"):
            return cls(data, config, end_of_text or _find_end_of_text(data, config, str(folder)))

    @property
    def data(self) -> Mapping[str, Any]:
        """The contents of tokenizer.json."""
        return self._data

    @property
    def bos(self) -> int | None:
        """The token that the template adds before a text; None if it adds none. See `following`."""
        before = self.template[0]
        return None if not before else self.vocabulary[before[0]]

    @property
    def bos_token(self) -> str:
        """The tokenizer's BOS token: named in its configuration, else added by its template, else end-of-text."""
        return named_token(self._config, "bos_token") or (*self.template[0], self.end_of_text_token)[0]

    def following(self, bos: bool) -> TextTokenizer:
        """Return this tokenizer with the template of TOKENS: the BOS token before a text if `bos`, nothing otherwise.

        It encodes the same; its fingerprint differs only if the template did. Raises ValueError if the BOS token is not
        in the vocabulary, or plain text encodes to it.
        """
        token = self.bos_token if bos else None
        number = 0 if token is None else self.vocabulary.get(token)
        if number is None:
            raise ValueError(
                f"tokenizer.bos=true: the BOS token {token!r} is not in the vocabulary of {self.vocab_size} tokens: "
                f"correct bos_token in {CONFIG_FILE}, or leave tokenizer.bos out"
            )
        data = with_template(self._data, token, number)
        config = dict(self._config)
        if data is not self._data or bos or {"add_bos_token", "add_eos_token"} & set(config):
            # transformers 5 and llama.cpp go by these keys, transformers 4 by the template.
            config |= {"add_bos_token": bos, "add_eos_token": False}
        if token is not None:
            data, config["bos_token"] = as_special(data, token), token
        made = TextTokenizer(data, config, self.end_of_text_token)
        if token is not None and number in made._tokenizer.encode(token, add_special_tokens=False).ids:
            raise ValueError(
                f"tokenizer.bos=true: this tokenizer also encodes plain text to {token!r}, so a text could forge the "
                f"start of a document: name another bos_token in {CONFIG_FILE}, or leave tokenizer.bos out"
            )
        return made

    def encode(self, texts: list[str]) -> list[npt.NDArray[np.uint32]]:
        """Return the token ids of each text, uint32 [length], without end-of-text."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def encode_marked(self, texts: list[str]) -> list[npt.NDArray[np.uint32]]:
        """Return the token ids of texts written by a chat template, whose special tokens are encoded as such."""
        if self._marked is None:
            self._marked = _build(self._data)
            self._marked.encode_special_tokens = False
        encodings = self._marked.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
        return text

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which `AutoTokenizer.from_pretrained(folder)` loads."""
        folder.mkdir(parents=True, exist_ok=True)
        own = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": self.end_of_text_token}
        for name, value in ((TOKENIZER_FILE, self._data), (CONFIG_FILE, {**self._config, **own})):
            write_text(folder / name, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def load_tokenizer(settings: TokenizerSettings) -> TextTokenizer:
    """Load the existing tokenizer that `settings.name` names: a folder, else a Hugging Face name.

    Raises ValueError with what is missing and a fix.
    """
    place = Path(os.path.expanduser(settings.name))
    if place.is_dir():
        return TextTokenizer.open(place, settings.end_of_text)
    if settings.name.startswith((".", "/", "~")) or place.exists():
        raise ValueError(f"tokenizer.name={settings.name!r} is not a folder: give a folder with a {TOKENIZER_FILE}")
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(settings.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(
            f"tokenizer.name={settings.name!r} is neither a folder nor a tokenizer that Hugging Face can load "
            f"({error}): check the name and the network"
        ) from error
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"tokenizer.name={settings.name!r} has no fast version ({TOKENIZER_FILE}): choose one that does"
        )
    data = json.loads(backend.to_str())
    config = {"eos_token": found.eos_token} if found.eos_token else {}
    if settings.bos and found.bos_token:
        config["bos_token"] = found.bos_token
    return TextTokenizer(data, config, settings.end_of_text or _find_end_of_text(data, config, settings.name))


def train_tokenizer(texts: Iterable[str], vocab_size: int, end_of_text: str | None = None) -> TextTokenizer:
    """Train a byte-level BPE on texts; equal texts give equal tokenizers.

    Small texts can yield fewer tokens than `vocab_size`: check the result's `vocab_size`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    token = end_of_text or KNOWN_END_OF_TEXT[0]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[token],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TextTokenizer(json.loads(tokenizer.to_str()), {}, token)


def tokenizer_fingerprint(folder: Path) -> str:
    """Return the xxh3-128 digest of a folder's canonical tokenizer.json, which identifies how it encodes."""
    return TextTokenizer.open(folder).fingerprint


class TextPick:
    """A bounded uniform sample of texts: those with the smallest keys, up to `limit_bytes`.

    The sample depends only on the texts and their keys, not on their order.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._heap: list[tuple[int, bytes]] = []
        self._bytes = 0

    def add(self, key: int, text: bytes) -> None:
        """Offer a text as UTF-8. O(log n); memory stays below the limit plus one text."""
        if self._bytes >= self._limit and key >= -self._heap[0][0]:
            return
        heapq.heappush(self._heap, (-key, text))
        self._bytes += len(text)
        while self._bytes - len(self._heap[0][1]) >= self._limit:
            self._bytes -= len(heapq.heappop(self._heap)[1])

    def texts(self) -> Iterator[str]:
        """Yield the sampled texts by increasing key; the last one is cut at the limit."""
        left = self._limit
        for _, text in sorted(self._heap, key=lambda item: (-item[0], item[1])):
            yield text[:left].decode("utf-8", errors="ignore")  # "ignore" drops a character split by the cut
            left -= len(text)


def _canonical(data: dict[str, Any], end_of_text: str) -> dict[str, Any]:
    """Return a tokenizer.json that never truncates or pads and has end-of-text as a special token."""
    return {**as_special(data, end_of_text), "truncation": None, "padding": None}


def _build(data: dict[str, Any]) -> Tokenizer:
    tokenizer = parse(json.dumps(data))
    tokenizer.encode_special_tokens = True
    return tokenizer


def parse(text: str) -> Tokenizer:
    """Return the tokenizer described by a tokenizer.json. Raises ValueError if it is invalid."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except BaseException as error:  # Rust raises bare Exception, and a panic is not one
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{TOKENIZER_FILE} cannot be used ({error}): save the tokenizer again") from error


def _find_end_of_text(data: dict[str, Any], config: dict[str, Any], place: str) -> str:
    if named := named_token(config, "eos_token"):
        return named
    tokens = {entry.get("content") for entry in data.get("added_tokens") or []}
    vocabulary = data.get("model", {}).get("vocab")
    if isinstance(vocabulary, dict):
        tokens.update(vocabulary)
    for token in KNOWN_END_OF_TEXT:
        if token in tokens:
            return token
    raise ValueError(
        f"tokenizer {place} has no end-of-text token (no eos_token in {CONFIG_FILE}, and none of "
        f"{', '.join(KNOWN_END_OF_TEXT)} in its vocabulary): name the token with tokenizer.end_of_text=..."
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        there = ", ".join(sorted(os.listdir(path.parent))[:5]) or "nothing"
        raise ValueError(f"{path} does not exist (folder contains {there}): give a folder with a {TOKENIZER_FILE}")
    with reading(path, "save or download the tokenizer again"):
        value = json.loads(read_text(path))
    if not isinstance(value, dict):
        raise ValueError(f"{path} contains a {type(value).__name__}, not a JSON object: save the tokenizer again")
    return value
