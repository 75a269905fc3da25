"""The same tokens for every reader: TOKENS with an ORDER, Mosaic's MDS shards, Megatron's .bin and .idx.

Every document is one sample of `length` uint16 tokens, the best case for the peers: none of their samples is joined
from two documents. Ours reads one more token, the last label.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 50_000
END_OF_TEXT = 0
PIECE = 4096

Documents = Iterator[NDArray[np.uint16]]


def documents(samples: int, length: int, seed: int) -> Documents:
    """Yield the tokens in pieces [n, length]: END_OF_TEXT, then other tokens; deterministic given the seed."""
    generator = np.random.default_rng(seed)
    for first in range(0, samples, PIECE):
        piece = generator.integers(1, VOCABULARY, (min(PIECE, samples - first), length), dtype=np.uint16)
        piece[:, 0] = END_OF_TEXT
        yield piece


def write_all(folder: Path, samples: int, length: int, seed: int) -> dict[str, Path]:
    """Write every format, or reuse it; return the folders by name.

    Raises ModuleNotFoundError with the name of a missing peer and how to install it.
    """
    writers: dict[str, Callable[[Path, Documents, int], None]] = {
        "tokens": _write_tokens,
        "mds": _write_mds,
        "megatron": _write_megatron,
    }
    paths = {name: folder / f"{name}-{samples}x{length}-{seed}" for name in writers}
    for name, write in writers.items():
        if not paths[name].exists():
            partial = paths[name].with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                write(partial, documents(samples, length, seed), length)
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(f"{error.name} is missing: `make bench-peers` installs the peers") from error
            os.replace(partial, paths[name])
    return paths


def _write_tokens(folder: Path, pieces: Documents, length: int) -> None:
    """Write TOKENS with one source, and a shuffled ORDER next to them."""
    from curriculum.arrange.arrange import ArrangeSettings, run
    from curriculum.artifact.create import create
    from curriculum.tokens.encode import TRAIN, Group
    from curriculum.tokens.tokens import KIND
    from curriculum.tokens.writer import TokenWriter

    folder.mkdir()
    with create(folder / "tokens", KIND, config={}, inputs={}) as draft:
        writer = TokenWriter(draft.path, "uint16", END_OF_TEXT, length)
        first = 0
        for piece in pieces:
            lengths, origins = np.full(len(piece), length), np.arange(first, first + len(piece))
            writer.append(Group(TRAIN, 0, piece.ravel(), lengths, origins, 0))
            first += len(piece)
        facts = {"seq_len": length, "vocab_size": VOCABULARY, "end_of_text": END_OF_TEXT, "dtype": "uint16"}
        draft.facts.update(facts, tokenizer_fingerprint="none", slices=writer.finish({"benchmark": 0}))
    run(ArrangeSettings(tokens=str(folder / "tokens"), output=str(folder / "order"), batch_size=1, stages=1))


def _write_mds(folder: Path, pieces: Documents, length: int) -> None:
    """Write Mosaic's shards: one fixed-size array per sample, neither compressed nor hashed."""
    streaming = import_streaming()
    with streaming.MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint16:{length}"}) as writer:
        for piece in pieces:
            for tokens in piece:
                writer.write({"tokens": tokens})


def _write_megatron(folder: Path, pieces: Documents, length: int) -> None:
    """Write Megatron's indexed dataset: one document per sample."""
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    folder.mkdir()
    builder = IndexedDatasetBuilder(str(folder / "data.bin"), dtype=np.uint16)
    for piece in pieces:
        builder.add_document(torch.from_numpy(piece.ravel().astype(np.int32)), [length] * len(piece))
    builder.finalize(str(folder / "data.idx"))


def import_streaming() -> Any:
    """Import mosaicml-streaming with an empty torchvision module, which it only needs for vision datasets.

    transformers is imported first, because it would inspect the empty torchvision.
    """
    import transformers.feature_extraction_utils  # noqa: F401

    if "torchvision" not in sys.modules:
        contents: dict[str, dict[str, Any]] = {
            "torchvision": {},
            "torchvision.datasets": {"VisionDataset": type("VisionDataset", (), {})},
            "torchvision.transforms": {},
            "torchvision.transforms.functional": {"to_tensor": None},
        }
        for name, members in contents.items():
            module = ModuleType(name)
            module.__path__ = []
            module.__dict__.update(members)
            sys.modules[name] = module
    import streaming

    return streaming
