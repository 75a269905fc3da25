"""TOKENS: every token is a label once, documents are read back whole, and invalid folders are rejected."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curriculum.artifact.create import create
from curriculum.artifact.files import ArtifactError
from curriculum.tokens.encode import Group
from curriculum.tokens.tokens import IGNORED, SLICES, Tokens, samples_in
from curriculum.tokens.writer import TokenWriter, dtype_for

EOT, SEQ_LEN, VOCAB = 7, 5, 70_000
DOCUMENTS = {  # source -> token ids of its documents, in the training slice
    "web": [[10, 11, 12], [13], [14, 15, 16, 17, 18, 19, 20, 21, 22]],
    "code": [[30, 31], [32, 33, 34, 35, 36]],
    "books": [[69_999]],
}


def write(folder: Path, dtype: str = "uint32", documents: dict[str, list[list[int]]] = DOCUMENTS) -> Path:
    """TOKENS of the documents above, passed to the writer one at a time; the other slices are empty."""
    with create(folder, "tokens", config={}, inputs={}) as draft:
        writer = TokenWriter(draft.path, dtype, EOT, SEQ_LEN)
        sources = {name: index for index, name in enumerate(documents)}
        origin = 0
        for name, texts in documents.items():
            for text in texts:
                ids = np.array([EOT, *text], dtype=dtype)
                lengths, origins = np.array([len(ids)]), np.array([origin])
                writer.append(Group(0, sources[name], ids, lengths, origins, text_bytes=len(text)))
                origin += 1
        draft.facts.update(
            seq_len=SEQ_LEN,
            vocab_size=VOCAB,
            dtype=dtype,
            end_of_text=EOT,
            tokenizer_fingerprint="t",
            slices=writer.finish(sources),
        )
    return folder


def stream(name: str) -> list[int]:
    return [token for document in DOCUMENTS[name] for token in (EOT, *document)] + [EOT]


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens.open(write(tmp_path / "tokens"))


def test_samples_are_windows_of_one_source_with_one_token_overlap(tokens: Tokens) -> None:
    assert tokens.sources == ["books", "code", "web"]
    rows = iter(tokens.sample(np.arange(len(tokens))))
    for name in tokens.sources:
        ids = stream(name)
        for start in range(0, len(ids) - 1, SEQ_LEN):
            window = ids[start : start + SEQ_LEN + 1]
            assert next(rows).tolist() == window + [IGNORED] * (SEQ_LEN + 1 - len(window))
    assert next(rows, None) is None


def test_every_token_but_a_sources_first_is_a_label_once(tokens: Tokens) -> None:
    samples = tokens.sample(np.arange(len(tokens)))
    labels = samples[:, 1:]
    expected = [token for name in tokens.sources for token in stream(name)[1:]]
    assert labels[labels != IGNORED].tolist() == expected
    assert tokens.real_tokens(np.arange(len(tokens))).tolist() == (labels != IGNORED).sum(axis=1).tolist()


def test_any_order_of_ids_and_sources(tokens: Tokens) -> None:
    everything = tokens.sample(range(len(tokens)))
    ids = np.random.default_rng(0).integers(0, len(tokens), 50).astype(np.uint32)
    assert (tokens.sample(ids) == everything[ids]).all()
    assert tokens.sample([]).shape == (0, SEQ_LEN + 1)
    named = [tokens.sources[i] for i in tokens.source_of(range(len(tokens)))]
    assert named == [name for name in tokens.sources for _ in range(samples_in(len(stream(name)), SEQ_LEN))]
    for index, name in enumerate(tokens.sources):
        assert all(named[i] == name for i in tokens.samples_of(index))
    assert sum(len(tokens.samples_of(i)) for i in range(3)) == len(tokens)


def test_documents_come_back_with_source_and_origin(tokens: Tokens) -> None:
    got = [tokens.document(i) for i in range(tokens.documents)]
    expected = [(name, ids) for name in tokens.sources for ids in DOCUMENTS[name]]
    assert [(source, ids.tolist()) for source, ids in got] == expected
    assert got[0][1].dtype == np.int64
    assert [tokens.origin(i) for i in range(tokens.documents)] == [5, 3, 4, 0, 1, 2]  # order of the input


def test_empty_slices_and_empty_sources_open(tmp_path: Path) -> None:
    folder = write(tmp_path / "tokens", documents={**DOCUMENTS, "dry": [], "zoo": []})
    empty = Tokens.open(folder, "validation")
    assert (len(empty), empty.documents, empty.sources) == (0, 0, ["books", "code", "dry", "web", "zoo"])
    with pytest.raises(ValueError, match=r"sample id 0 is not in \[0, 0\)"):
        empty.sample([0])
    train = Tokens.open(folder)
    assert 2 not in train.source_of(range(len(train)))
    assert list(train.samples_of(2)) == []
    assert [train.document(i)[0] for i in range(train.documents)] == ["books", "code", "code", "web", "web", "web"]


@pytest.mark.parametrize("ids", [[-1], [10**6], [0, 99], [0.5], [[0, 1]], [True], 3])
def test_bad_sample_ids_are_refused(tokens: Tokens, ids: Any) -> None:
    for method in (tokens.sample, tokens.real_tokens, tokens.source_of):
        with pytest.raises(ValueError, match="sample id"):
            method(ids)


def test_bad_documents_sources_and_slices_are_refused(tokens: Tokens) -> None:
    for index in (-1, tokens.documents):
        with pytest.raises(ValueError, match="document"):
            tokens.document(index)
    with pytest.raises(ValueError, match="source index 3"):
        tokens.samples_of(3)
    with pytest.raises(ValueError, match=r"slice='test' is unknown: choose one of train, validation, reference"):
        Tokens.open(tokens.folder, "test")


def test_fingerprint_is_of_the_content(tokens: Tokens, tmp_path: Path) -> None:
    assert Tokens.open(write(tmp_path / "again")).fingerprint == tokens.fingerprint
    fingerprints = {Tokens.open(tokens.folder, name).fingerprint for name in SLICES}
    fingerprints.add(Tokens.open(write(tmp_path / "other", documents={**DOCUMENTS, "books": [[8]]})).fingerprint)
    assert len(fingerprints) == 4


def test_travels_between_processes_as_its_path(tokens: Tokens) -> None:
    packed = pickle.dumps(tokens)
    assert len(packed) < 500
    assert (pickle.loads(packed).sample([0, 2]) == tokens.sample([0, 2])).all()


def test_small_vocabularies_take_two_bytes(tmp_path: Path) -> None:
    assert [dtype_for(size) for size in (300, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]
    folder = write(tmp_path / "tokens", "uint16", {"web": DOCUMENTS["web"]})
    assert (folder / "train.ids.bin").stat().st_size == 2 * len(stream("web"))
    assert Tokens.open(folder).sample([0])[0].tolist() == stream("web")[: SEQ_LEN + 1]


def test_facts_that_do_not_fit_the_files_are_refused(tokens: Tokens, edit_manifest: Callable[..., None]) -> None:
    edit_manifest(tokens.folder, lambda fields: fields["facts"]["slices"]["train"]["sources"][0].update(tokens=10**12))
    with pytest.raises(ArtifactError, match=r"train\.ids\.bin has .* bytes, .* remove .* prepare again"):
        Tokens.open(tokens.folder)
    edit_manifest(tokens.folder, lambda fields: fields["facts"].pop("end_of_text"))
    with pytest.raises(ArtifactError, match="lacks fields of TOKENS"):
        Tokens.open(tokens.folder)
    with pytest.raises(ArtifactError, match="does not exist"):
        Tokens.open(tokens.folder / "missing")
