"""`pdpc adopt`: turn token files of Megatron and datatrove into TOKENS that read them in place, without copying.

find the files -> check their indexes -> read each once (ids, document boundaries, checksum) -> TOKENS
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console

from curriculum.artifact.blocks import BlockHasher, add_blocks
from curriculum.artifact.create import Draft, create, reusable
from curriculum.artifact.manifest import OutsideFile
from curriculum.tokens.foreign.datatrove import SUFFIX, open_datatrove
from curriculum.tokens.foreign.files import ForeignFile, scan
from curriculum.tokens.foreign.megatron import open_megatron
from curriculum.tokens.ids import NumberFile
from curriculum.tokens.settings import SMALLEST_SEQ_LEN
from curriculum.tokens.table import show, template_note
from curriculum.tokens.tokenizer import TextTokenizer, TokenizerSettings, load_tokenizer
from curriculum.tokens.tokens import INDEX_DTYPE, KIND, SLICES, part_name, samples_in
from curriculum.work.console import PlainConsole, say
from curriculum.work.progress import TokenProgress

Files = Mapping[str, Mapping[str, Sequence[ForeignFile]]]
"""The files of each source of each slice."""


@dataclass(frozen=True)
class ForeignTokenizer:
    """The tokenizer that encoded the tokens."""

    name: str
    """A folder with a tokenizer.json, or the name of a Hugging Face tokenizer (downloaded if it is not cached)."""
    end_of_text: str | None = None
    """The token between documents. null: the tokenizer's default."""

    def __post_init__(self) -> None:
        if self.settings().trained_vocabulary():
            raise ValueError(
                f"tokenizer.name={self.name!r}: name the existing tokenizer that encoded the tokens, not one to train"
            )

    def settings(self) -> TokenizerSettings:
        """Return the same settings as a `TokenizerSettings` of `pdpc prepare`."""
        return TokenizerSettings(name=self.name, end_of_text=self.end_of_text)


@dataclass(frozen=True)
class AdoptSettings:
    """Settings of `pdpc adopt`."""

    tokenizer: ForeignTokenizer
    """The tokenizer that encoded the tokens."""
    train: dict[str, str] = field(default_factory=dict)
    """Files to train on, by source: the prefix of a Megatron .bin and .idx, a datatrove .ds file, or a glob of either
    (train.web=data/web_text_document train.code='data/code/*.ds')."""
    validation: dict[str, str] = field(default_factory=dict)
    """Files to measure losses on, by source. Their documents must differ from those of `train`; this is not checked."""
    reference: dict[str, str] = field(default_factory=dict)
    """Files to train the reference models on, by source; their documents must differ from `train` and `validation`."""
    seq_len: int = 1024
    """Labels per sample; a sample is seq_len + 1 tokens of one file."""
    output: str = "artifacts/tokens"
    """Folder to write TOKENS to. It refers to the files by absolute path, so they must not be moved."""

    def __post_init__(self) -> None:
        if self.seq_len < SMALLEST_SEQ_LEN:
            raise ValueError(f"seq_len={self.seq_len} must be at least {SMALLEST_SEQ_LEN}")
        if not self.train:
            raise ValueError("train is empty: give at least one source, as in train.web=data/web_text_document")
        if not self.output:
            raise ValueError("output is empty: name the folder to write TOKENS to")

    def slices(self) -> dict[str, dict[str, str]]:
        """Return slice -> source -> path."""
        return {name: getattr(self, name) for name in SLICES}


def run(settings: AdoptSettings, console: Console | None = None) -> Path:
    """Write TOKENS, or reuse them if they are complete and match the settings; return their folder.

    Raises ValueError for errors in the files or the settings, ArtifactError if `output` contains something else or a
    file of complete TOKENS has moved or changed.
    """
    console = console or PlainConsole()
    folder = Path(os.path.expanduser(settings.output))
    tokenizer = load_tokenizer(settings.tokenizer.settings())
    files = {
        name: {source: find(f"{name}.{source}", path) for source, path in sorted(paths.items())}
        for name, paths in settings.slices().items()
    }
    _check_apart(files)
    inputs = {"tokenizer": tokenizer.fingerprint, **_identities(files)}
    config = {key: value for key, value in asdict(settings).items() if key != "output"}
    if reusable(folder, KIND, config=config, inputs=inputs):
        say(console, f"TOKENS at {folder}: complete, reused")
    else:
        _check_train(settings, files["train"])
        with create(folder, KIND, config=config, inputs=inputs) as draft:
            _write(settings, files, tokenizer, draft, console)
            for key, value in _identities(files).items():
                if inputs[key] != value:
                    raise ValueError(f"{key} changed while it was being read: run again when it is complete")
        say(console, f"TOKENS written to {folder}; token files stay in place")
    show(folder, console)
    return folder


def find(key: str, path: str) -> list[ForeignFile]:
    """Open the files matched by a prefix, a path or a glob, sorted by path. Raises ValueError with `key`."""
    place = Path(os.path.expanduser(path)).absolute()
    datatrove = place.suffix == SUFFIX
    if not datatrove:
        prefix = place.with_suffix("") if place.suffix in (".bin", ".idx") else place
        place = prefix.with_name(f"{prefix.name}.bin")
    index = place.with_suffix(".idx")  # opening an incomplete pair reports what is missing
    literal = place.is_file() or (not datatrove and index.is_file())
    found = [place] if literal else sorted(Path(name) for name in glob.glob(str(place)))
    if not found:
        raise ValueError(
            f"{key}={path!r}: {place} does not exist: give the prefix of a .bin and an .idx, a {SUFFIX} file, "
            "or a glob of either"
        )
    return [open_datatrove(file) if datatrove else open_megatron(file.with_suffix("")) for file in found]


def _identities(files: Files) -> dict[str, str]:
    return {
        f"{slice_name}/{source}/{number}/{file.path.name}": file.identity()
        for slice_name, sources in files.items()
        for source, members in sources.items()
        for number, file in enumerate(members)
    }


def _check_apart(files: Files) -> None:
    """Raise ValueError if a file is listed twice: held-out files must not be trained on."""
    seen: dict[Path, str] = {}
    for slice_name, sources in files.items():
        for source, members in sources.items():
            for file in members:
                key = f"{slice_name}.{source}"
                before = seen.setdefault(file.path.resolve(), key)
                if before != key:
                    raise ValueError(f"{file.path} is listed in {before} and in {key}: remove it from one of them")


def _check_train(settings: AdoptSettings, files: Mapping[str, Sequence[ForeignFile]]) -> None:
    longest = max(file.tokens for members in files.values() for file in members)
    if longest < settings.seq_len + 1:
        raise ValueError(
            f"seq_len={settings.seq_len}: no file of train fills a sample (the largest has {longest} tokens, "
            f"a sample has {settings.seq_len + 1}): lower seq_len or add larger files"
        )


def _write(settings: AdoptSettings, files: Files, tokenizer: TextTokenizer, draft: Draft, console: Console) -> None:
    sources = sorted({source for slice_files in files.values() for source in slice_files})
    members = [file for slice_files in files.values() for listed in slice_files.values() for file in listed]
    empty: dict[str, int] = {}
    with_bos: list[int] = []
    hashes: dict[str, BlockHasher] = {}
    with TokenProgress(console, "tokens", sum(file.tokens for file in members)) as progress:
        slices = {
            name: _SliceWriter(draft, name, settings.seq_len, tokenizer, empty, with_bos, hashes, progress).write(
                sources, files[name]
            )
            for name in SLICES
        }
    found, documents = sum(with_bos), sum(slices[name]["documents"] for name in SLICES)
    bos = tokenizer.bos_token if tokenizer.bos_token != tokenizer.end_of_text_token else None
    if bos is not None and found:
        draft.facts.update(documents_with_bos=found, input_only=tokenizer.vocabulary[bos])
    if bos is not None and 0 < found < documents:
        say(console, f"warning: {found:,} of {documents:,} documents start with {bos!r}: prompts will not")
    template = tokenizer.template
    tokenizer = tokenizer.following(bos is not None and found == documents)
    if tokenizer.bos is not None:
        draft.facts.update(bos=tokenizer.bos, bos_token=tokenizer.bos_token)
    if note := template_note(template, tokenizer):
        say(console, f"note: {note}")
    tokenizer.save(draft.path / "tokenizer")
    draft.facts.update(
        seq_len=settings.seq_len,
        vocab_size=tokenizer.vocab_size,
        dtype=" and ".join(sorted({file.dtype for file in members})),
        end_of_text=tokenizer.end_of_text,
        end_of_text_token=tokenizer.end_of_text_token,
        tokenizer_fingerprint=tokenizer.fingerprint,
        documents_read=sum(slices[name]["documents"] for name in SLICES) + sum(empty.values()),
        blank_documents={},
        documents_without_tokens=empty,
        slices=slices,
    )
    add_blocks(draft, hashes)


class _SliceWriter:
    """Writes the document starts of a slice, and checks its tokens."""

    def __init__(
        self,
        draft: Draft,
        name: str,
        seq_len: int,
        tokenizer: TextTokenizer,
        empty: dict[str, int],
        with_bos: list[int],
        hashes: dict[str, BlockHasher],
        progress: TokenProgress,
    ) -> None:
        self._draft, self._name, self._seq_len = draft, name, seq_len
        self._tokenizer, self._empty, self._progress = tokenizer, empty, progress
        self._with_bos, self._hashes = with_bos, hashes
        self._tokens = self._documents = self._origin = 0

    def write(self, sources: Sequence[str], files: Mapping[str, Sequence[ForeignFile]]) -> dict[str, Any]:
        """Return the slice's table for the manifest's facts: a row per source with one row per file inside."""
        starts_path, origins_path = (self._draft.path / part_name(self._name, part) for part in ("starts", "origins"))
        rows = []
        with open(starts_path, "xb") as starts, open(origins_path, "xb") as origins:
            for source in sources:
                members = [
                    self._file(source, number, file, starts, origins)
                    for number, file in enumerate(files.get(source, []))
                ]
                samples = sum(samples_in(member["tokens"], self._seq_len) for member in members)
                counts = {key: sum(member[key] for member in members) for key in ("documents", "tokens")}
                rows.append({"name": source, **counts, "samples": samples, "files": members})
        return {**{key: sum(row[key] for row in rows) for key in ("documents", "tokens", "samples")}, "sources": rows}

    def _file(self, source: str, number: int, file: ForeignFile, starts: BinaryIO, origins: BinaryIO) -> dict[str, Any]:
        documents = self._index(source, file, starts, origins)
        starts.flush()
        offset = self._documents * np.dtype(INDEX_DTYPE).itemsize
        begins = NumberFile(Path(starts.name), INDEX_DTYPE, documents, offset).map()
        name = f"{self._name}/{source}/{number}"
        hashes, with_bos = scan(file, begins, self._tokens, self._tokenizer, self._progress.add)
        self._hashes[name] = hashes
        self._draft.outside[name] = OutsideFile(str(file.path), hashes.bytes, hashes.entry.xxh3_128)
        self._with_bos.append(with_bos)
        self._documents += documents
        self._tokens += file.tokens
        return {"name": name, "dtype": file.dtype, "documents": documents, "tokens": file.tokens}

    def _index(self, source: str, file: ForeignFile, starts: BinaryIO, origins: BinaryIO) -> int:
        """Write each document's start and its ordinal in the input; documents without tokens are counted and left out.
        Return the number of documents written."""
        written, before = 0, 0
        for ends in file.ends():
            begins = np.concatenate((np.array([before], dtype=np.int64), ends[:-1]))
            real = ends > begins
            starts.write((self._tokens + begins[real]).astype(INDEX_DTYPE).tobytes())
            origins.write((self._origin + np.flatnonzero(real)).astype(INDEX_DTYPE).tobytes())
            written += int(real.sum())
            if not real.all():
                self._empty[source] = self._empty.get(source, 0) + int((~real).sum())
            self._origin += len(ends)
            before = int(ends[-1])
        return written
