"""TOKENS exported as Megatron pairs: the layout byte by byte, and the round trip."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from curriculum.artifact.create import create
from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import verify
from curriculum.tokens.encode import Group
from curriculum.tokens.foreign import adopt, files, megatron_export
from curriculum.tokens.foreign.megatron_export import MegatronSettings, pair_names, run
from curriculum.tokens.tokens import Tokens
from curriculum.tokens.writer import TokenWriter

SILENT = Console(quiet=True)
END = 0
DOCUMENTS = {"web/en": [[10, 11, 12], [13], [14, 15, 16, 17, 18, 19, 20, 21, 22]], "code": [[30, 31], [32]], "dry": []}


def native(folder: Path, vocab_size: int = 257) -> Path:
    """TOKENS of the documents above in the training slice."""
    with create(folder, "tokens", config={}, inputs={}) as draft:
        writer = TokenWriter(draft.path, "uint32", END, 5)
        sources = {name: index for index, name in enumerate(DOCUMENTS)}
        for name, documents in DOCUMENTS.items():
            for text in documents:
                ids = np.array([END, *text], dtype=np.uint32)
                writer.append(Group(0, sources[name], ids, np.array([len(ids)]), np.array([0]), text_bytes=0))
        facts = {"seq_len": 5, "vocab_size": vocab_size, "dtype": "uint32", "end_of_text": END}
        draft.facts.update(facts, tokenizer_fingerprint="t", slices=writer.finish(sources))
    return folder


def parse(prefix: Path, letter: str) -> list[list[int]]:
    """Read a pair independently, by its layout; every document is one sequence."""
    raw, data = Path(f"{prefix}.idx").read_bytes(), Path(f"{prefix}.bin").read_bytes()
    code = {"H": 8, "i": 4}[letter]
    assert raw[:18] == b"MMIDIDX\x00\x00" + struct.pack("<QB", 1, code)
    sequences, bounds = struct.unpack_from("<QQ", raw, 18)
    lengths = struct.unpack_from(f"<{sequences}i", raw, 34)
    places = struct.unpack_from(f"<{sequences}q", raw, 34 + 4 * sequences)
    assert struct.unpack_from(f"<{bounds}q", raw, 34 + 12 * sequences) == tuple(range(sequences + 1))
    assert len(raw) == 34 + 12 * sequences + 8 * bounds
    assert sum(lengths) * struct.calcsize(letter) == len(data)
    return [
        list(struct.unpack_from(f"<{length}{letter}", data, place))
        for length, place in zip(lengths, places, strict=True)
    ]


@pytest.mark.parametrize(("vocab_size", "letter"), [(257, "H"), (65_499, "H"), (65_500, "i"), (200_000, "i")])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_documents_are_sequences_that_end_with_end_of_text(
    vocab_size: int, letter: str, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (files, megatron_export):
        monkeypatch.setattr(module, "INDEX_AT_ONCE", at_once)
    tokens = native(tmp_path / "tokens", vocab_size)
    folder = run(MegatronSettings(str(tokens), str(tmp_path / "out")), SILENT)
    assert sorted(path.name for path in folder.iterdir()) == [
        "code.bin",
        "code.idx",
        "manifest.json",
        "web%2Fen.bin",
        "web%2Fen.idx",
    ]
    for name, pair in (("code", "code"), ("web/en", "web%2Fen")):
        assert parse(folder / pair, letter) == [[*text, END] for text in DOCUMENTS[name]]
    verify(folder)


def test_there_and_back(tmp_path: Path, tokenizer_folder: Path) -> None:
    before = Tokens.open(native(tmp_path / "tokens"))
    folder = run(MegatronSettings(str(before.folder), str(tmp_path / "out")), SILENT)
    settings = adopt.AdoptSettings(
        adopt.ForeignTokenizer(str(tokenizer_folder)),
        train={"code": str(folder / "code"), "web/en": str(folder / "web%2Fen")},
        seq_len=5,
        output=str(tmp_path / "back"),
    )
    after = Tokens.open(adopt.run(settings, SILENT))
    documents = [[(s, ids.tolist()) for s, ids in map(t.document, range(t.documents))] for t in (before, after)]
    assert documents[0] == documents[1]
    again = run(MegatronSettings(str(after.folder), str(tmp_path / "out2")), SILENT)
    for name in ("code.bin", "code.idx", "web%2Fen.bin", "web%2Fen.idx"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_a_failure_leaves_nothing_and_another_slice_is_not_mixed_in(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    edit_manifest: Callable[..., None],
) -> None:
    tokens = native(tmp_path / "tokens")
    settings = MegatronSettings(str(tokens), str(tmp_path / "out"))

    def fail(*_: object) -> int:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(megatron_export, "_write_index", fail)
        with pytest.raises(RuntimeError):
            run(settings, SILENT)
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]
    run(settings, SILENT)
    run(settings)
    assert "complete, reused" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"slice='validation' of .* is empty: choose another"):
        run(MegatronSettings(str(tokens), str(tmp_path / "out"), "validation"), SILENT)
    other = native(tmp_path / "other", 300)
    edit_manifest(other, lambda fields: fields["facts"].update(end_of_text=1))
    with pytest.raises(ArtifactError, match=r"tokens: found .*, requested .*: choose another output"):
        run(MegatronSettings(str(other), str(tmp_path / "out")), SILENT)


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="slice='test' is unknown: choose one of train, validation, reference"):
        MegatronSettings("tokens", "out", "test")
    with pytest.raises(ValueError, match="output is empty"):
        MegatronSettings("tokens", "")


def test_every_source_gets_a_file_name() -> None:
    sources = [
        "web",
        "Web",
        "..",
        ".",
        ".hidden",
        "a/b",
        "n" * 300,
        "n" * 299 + "m",
        "\u4e2d" * 60,
        "x\0\n",
        "-",
        "%2E.",
    ]
    names = pair_names(sources)
    assert names["web"] == "web"
    assert names["a/b"] == "a%2Fb"
    assert names[".."] == "%2E."
    assert len({name.casefold() for name in names.values()}) == len(sources)
    for name in names.values():
        assert name.isascii()
        assert name.isprintable()
        assert not name.startswith(".")
        assert "/" not in name
        assert len(f"{name}.bin") <= 255


@pytest.mark.parametrize("name", ["..", "n" * 300, "[/red]\x1b[2J"])
def test_hostile_sources_are_exported_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setitem(DOCUMENTS, name, [[40, 41]])
    folder = run(MegatronSettings(str(native(tmp_path / "tokens")), str(tmp_path / "out")))
    verify(folder)
    run(MegatronSettings(str(tmp_path / "tokens"), str(tmp_path / "out")))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert printed.count(": 1 documents, 3 tokens: ") == 2
