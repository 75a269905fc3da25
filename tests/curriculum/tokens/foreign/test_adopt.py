"""Adopted tokens: read in place, every token a label once, and mismatches are rejected."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import open_manifest, verify
from curriculum.tokens import ids as token_ids
from curriculum.tokens.foreign import adopt as adopt_module
from curriculum.tokens.foreign import files as foreign
from curriculum.tokens.foreign.adopt import AdoptSettings, ForeignTokenizer, run
from curriculum.tokens.tokenizer import TextTokenizer, train_tokenizer
from curriculum.tokens.tokens import IGNORED, Tokens
from launch.cli import main
from models.attention import Documents

Write = Callable[..., Path]
SILENT = Console(quiet=True)
WORD = st.lists(st.integers(1, 256), max_size=6)
SEQ_LEN = 5


def adopt(output: Path, tokenizer: Path, seq_len: int = SEQ_LEN, **slices: dict[str, str]) -> Path:
    return run(AdoptSettings(ForeignTokenizer(str(tokenizer)), **slices, seq_len=seq_len, output=str(output)), SILENT)  # type: ignore[arg-type]


def windows(ids: list[int], seq_len: int) -> list[list[int]]:
    found = [ids[start : start + seq_len + 1] for start in range(0, max(len(ids) - 1, 0), seq_len)]
    return [window + [IGNORED] * (seq_len + 1 - len(window)) for window in found]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few numbers, so that small files have many."""
    monkeypatch.setattr(foreign, "READ_BYTES", 16)
    monkeypatch.setattr(foreign, "INDEX_AT_ONCE", 3)
    monkeypatch.setattr(token_ids, "MOST_OPEN", 1)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer, write_megatron: Write) -> Path:
    """A Megatron pair of three documents that end with end-of-text, 17 tokens."""
    end = tokenizer.end_of_text
    words = [[1, 2, 3, 4], [5], [6, 7, 8, 9, 10, 11, 12, 13, 14]]
    return write_megatron(tmp_path_factory.mktemp("megatron") / "web", [[[*word, end]] for word in words])


@pytest.mark.usefixtures("small_blocks")
@settings(max_examples=80, deadline=None)
@given(
    files=st.lists(st.lists(WORD, max_size=7), min_size=1, max_size=4),
    place=st.sampled_from(["end", "start", "both"]),
    letter=st.sampled_from(["ds H", "ds I", "h", "i", "q", "H"]),
    seq_len=st.integers(2, 7),
    numbers=st.randoms(use_true_random=False),
)
def test_no_token_is_lost(
    files: list[list[list[int]]],
    place: str,
    letter: str,
    seq_len: int,
    numbers: Any,
    tokenizer: TextTokenizer,
    tokenizer_folder: Path,
    write_megatron: Write,
    write_datatrove: Write,
) -> None:
    end = [tokenizer.end_of_text]
    before, after = (end if place in wanted else [] for wanted in (("start", "both"), ("end", "both")))
    files = [*files, [[1] * (seq_len + 1)]]  # a file that fills a sample
    raw = [[[*before, *word, *after] for word in words] for words in files]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, documents in enumerate(raw):
            if letter.startswith("ds"):
                write_datatrove(folder / f"{number}.ds", documents, letter[-1])
            else:
                cut = [[document[:2], document[2:]] for document in documents]  # two sequences per document
                write_megatron(folder / str(number), cut, letter)
        pattern = str(folder / ("*.ds" if letter.startswith("ds") else "*"))
        tokens = Tokens.open(adopt(folder / "tokens", tokenizer_folder, seq_len, train={"web": pattern}))

        streams = [[token for document in documents for token in document] for documents in raw]
        expected = [window for stream in streams for window in windows(stream, seq_len)]
        everything = tokens.sample(range(len(tokens)))
        assert everything.tolist() == expected
        labels = everything[:, 1:]
        assert labels[labels != IGNORED].tolist() == [token for stream in streams for token in stream[1:]]
        assert tokens.real_tokens(range(len(tokens))).tolist() == (labels != IGNORED).sum(axis=1).tolist()
        ids = np.array([numbers.randrange(len(tokens)) for _ in range(20)])
        assert (tokens.sample(ids) == everything[ids]).all()
        assert [tokens.document(i)[1].tolist() for i in range(tokens.documents)] == [w for ws in files for w in ws]
        assert [tokens.origin(i) for i in range(tokens.documents)] == list(range(sum(map(len, files))))
        verify(folder / "tokens")
        assert not list((folder / "tokens").glob("*.ids.bin"))


def test_attention_begins_anew_at_every_document(web: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    tokens = Tokens.open(adopt(tmp_path / "tokens", tokenizer_folder, 16, train={"web": str(web)}))
    sample = torch.from_numpy(tokens.sample([0]))
    documents = Documents.of(sample[:, :-1], tokens.end_of_text)
    assert documents.lengths == (4, 2, 10)  # each except the first with the end-of-text before it


def test_documents_without_a_token_are_left_out_and_counted(
    tmp_path: Path, tokenizer: TextTokenizer, tokenizer_folder: Path, write_datatrove: Write
) -> None:
    end = tokenizer.end_of_text
    write_datatrove(tmp_path / "a.ds", [[], [1, 2, 3, end], [], [], [4, 5, end], []])
    folder = adopt(tmp_path / "tokens", tokenizer_folder, 3, train={"web": str(tmp_path / "a.ds")})
    tokens = Tokens.open(folder)
    assert [tokens.document(i)[1].tolist() for i in range(tokens.documents)] == [[1, 2, 3], [4, 5]]
    assert [tokens.origin(i) for i in range(tokens.documents)] == [1, 4]
    facts = open_manifest(folder, "tokens").facts
    assert (facts["documents_without_tokens"], facts["documents_read"]) == ({"web": 4}, 6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("with_bos", "expected"), [((True, True), 257), ((True, False), None), ((False, False), None)])
def test_bos_is_followed_where_every_document_starts_with_it(
    tmp_path: Path, write_datatrove: Write, with_bos: tuple[bool, bool], expected: int | None
) -> None:
    made = train_tokenizer(["text"], 257)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [*made.data["added_tokens"], {"id": 257, "content": "<s>", **flags, "special": True}]
    TextTokenizer({**made.data, "added_tokens": added}, {"bos_token": "<s>"}, made.end_of_text_token).save(
        tmp_path / "tokenizer"
    )
    end = made.end_of_text
    write_datatrove(tmp_path / "a.ds", [[*([257] if with_bos[0] else []), 1, 2, 3, end]])
    write_datatrove(tmp_path / "b.ds", [[end, *([257] if with_bos[1] else []), 4, 5, 6, 8]])
    tokens = Tokens.open(adopt(tmp_path / "tokens", tmp_path / "tokenizer", 3, train={"web": str(tmp_path / "*.ds")}))
    assert tokens.bos == expected
    assert TextTokenizer.open(tokens.tokenizer_folder).bos == expected
    assert open_manifest(tokens.folder, "tokens").facts.get("documents_with_bos") == (sum(with_bos) or None)
    assert tokens.input_only == (257 if any(with_bos) else None)
    labels = tokens.sample(range(len(tokens)))[:, 1:]
    assert tokens.real_tokens(range(len(tokens))).tolist() == ((labels >= 0) & (labels != 257)).sum(axis=1).tolist()
    tokens.check_tokenizer()


def test_slices_and_sources_side_by_side(
    web: Path, tmp_path: Path, tokenizer: TextTokenizer, tokenizer_folder: Path, write_datatrove: Write
) -> None:
    end = tokenizer.end_of_text
    code = write_datatrove(tmp_path / "code.ds", [[20, end], [21, 22, 23, end]], "I")
    held_out = write_datatrove(tmp_path / "held.ds", [[30, 31, end]])
    empty = write_datatrove(tmp_path / "empty.ds", [])
    folder = adopt(
        tmp_path / "tokens",
        tokenizer_folder,
        train={"web": str(web) + ".bin", "code": str(code), "dry": str(empty)},
        validation={"code": str(held_out)},
    )
    train, validation, reference = (Tokens.open(folder, name) for name in ("train", "validation", "reference"))
    assert train.sources == validation.sources == reference.sources == ["code", "dry", "web"]
    assert [train.sources[i] for i in train.source_of(range(len(train)))] == ["code"] + 4 * ["web"]
    assert [list(train.samples_of(i)) for i in range(3)] == [[0], [], [1, 2, 3, 4]]
    assert validation.sample([0]).tolist() == [[30, 31, end, *3 * [IGNORED]]]
    assert (len(reference), reference.documents) == (0, 0)
    assert len({part.fingerprint for part in (train, validation, reference)}) == 3
    packed = pickle.dumps(train)
    assert len(packed) < 500
    assert (pickle.loads(packed).sample([0, 3]) == train.sample([0, 3])).all()
    assert open_manifest(folder, "tokens").facts["dtype"] == "int32 and uint16 and uint32"


def test_the_command_line_adopts_and_inspects(
    web: Path, tmp_path: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["adopt", f"tokenizer.name={tokenizer_folder}", f"train.web={web}", f"output={tmp_path}/t", "seq_len=4"]
    assert main(words) == 0
    assert main(words) == 0
    assert "complete, reused" in capsys.readouterr().out
    assert main(["inspect", f"folder={tmp_path}/t", "verify=true"]) == 0
    assert "web.bin" in capsys.readouterr().out.replace("\n", "")
    assert main(["adopt", f"tokenizer.name={tokenizer_folder}", f"output={tmp_path}/u"]) == 2
    assert "train is empty" in capsys.readouterr().err


# changes after adoption


@pytest.fixture
def adopted(web: Path, tmp_path: Path, tokenizer_folder: Path) -> Path:
    for part in ("bin", "idx"):
        (tmp_path / f"web.{part}").write_bytes(Path(f"{web}.{part}").read_bytes())
    return adopt(tmp_path / "tokens", tokenizer_folder, train={"web": str(tmp_path / "web")})


def test_a_moved_file_is_named_and_its_tokens_stay_the_same_ones(adopted: Path, tokenizer_folder: Path) -> None:
    fingerprint, place = Tokens.open(adopted).fingerprint, adopted.parent / "elsewhere"
    place.mkdir()
    for part in ("bin", "idx"):
        (adopted.parent / f"web.{part}").rename(place / f"web.{part}")
    with pytest.raises(ArtifactError, match=r"web\.bin is missing, but .*tokens reads it in place: restore it"):
        Tokens.open(adopted)
    again = adopt(adopted.parent / "again", tokenizer_folder, train={"web": str(place / "web")})
    assert Tokens.open(again).fingerprint == fingerprint


def test_a_file_of_another_size_is_named(adopted: Path) -> None:
    with open(adopted.parent / "web.bin", "ab") as file:
        file.write(b"\0\0\0\0")
    with pytest.raises(ArtifactError, match=r"web\.bin has 72 bytes instead of 68: it changed after .* was written"):
        Tokens.open(adopted)


def test_a_flipped_bit_is_found(adopted: Path) -> None:
    path = adopted.parent / "web.bin"
    data = bytearray(path.read_bytes())
    verify(adopted)
    data[17] ^= 4
    path.write_bytes(data)
    tokens = Tokens.open(adopted)
    with pytest.raises(ArtifactError, match=r"web\.bin does not match its checksum: it changed after"):
        verify(adopted)
    with pytest.raises(ArtifactError, match=r"web\.bin is damaged between bytes 0 and 68: its checksum differs"):
        tokens.sample([0])


def test_running_again_names_what_differs(adopted: Path, tokenizer_folder: Path) -> None:
    path = adopted.parent / "web.bin"
    with pytest.raises(ArtifactError, match="seq_len: found 5, requested 6"):
        adopt(adopted, tokenizer_folder, 6, train={"web": str(adopted.parent / "web")})
    path.write_bytes(path.read_bytes())
    with pytest.raises(ArtifactError, match=r"train/web/0/web\.bin: found 'bytes=68 mtime_ns="):
        adopt(adopted, tokenizer_folder, train={"web": str(adopted.parent / "web")})


def test_facts_that_do_not_fit_are_refused(adopted: Path, edit_manifest: Callable[..., None]) -> None:
    def with_dtype(name: str) -> Callable[[dict[str, Any]], None]:
        return lambda fields: fields["facts"]["slices"]["train"]["sources"][0]["files"][0].update(dtype=name)

    edit_manifest(adopted, with_dtype("uint16"))
    with pytest.raises(ArtifactError, match=r"web\.bin has 68 bytes, but 17 tokens of type uint16 were expected"):
        Tokens.open(adopted)
    edit_manifest(adopted, with_dtype("float32"))
    with pytest.raises(ArtifactError, match=r"float32.*lacks fields of TOKENS"):
        Tokens.open(adopted)


def test_a_file_that_changes_under_the_reader_is_named(
    tmp_path: Path, tokenizer_folder: Path, write_datatrove: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_datatrove(tmp_path / "a.ds", [[1, 2, 3, 4, 5, 6, 0]])

    def scan_and_touch(*words: Any) -> Any:
        entry = foreign.scan(*words)
        path.write_bytes(path.read_bytes())
        return entry

    monkeypatch.setattr(adopt_module, "scan", scan_and_touch)
    with pytest.raises(ValueError, match=r"train/web/0/a\.ds changed while it was being read: run again"):
        adopt(tmp_path / "tokens", tokenizer_folder, train={"web": str(path)})
    assert not (tmp_path / "tokens").exists()


# rejected


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("documents", "letter", "message"),
    [
        (
            [[1, 2, 0], [3, 257, 0]],
            "i",
            r"a\.bin: token 4 is 257, not one of the tokenizer's ids 0 to 256: name the tok",
        ),
        ([[1, 2, 0], [3, -1, 0]], "h", r"a\.bin: token 4 is -1, not one of .* ids 0 to 256: build the file again"),
        (
            [[1, 2], [3, 4]],
            "i",
            r"starts at token 2, but neither that token \(3\) nor the one before it \(2\) is the end",
        ),
        (
            [[1, 2, 3, 0], [4, 5, 6, 7], [8, 0]],
            "i",
            r"starts at token 8, but neither that token \(8\).*\(7\).*append-eod",
        ),
        ([[1, 0]], "i", r"seq_len=5: no file of train fills a sample \(the largest has 2 tokens, a sample has 6\)"),
    ],
)
def test_wrong_tokens_are_refused(
    documents: list[list[int]],
    letter: str,
    message: str,
    tmp_path: Path,
    tokenizer: TextTokenizer,
    tokenizer_folder: Path,
    write_megatron: Write,
) -> None:
    assert tokenizer.end_of_text == 0
    seq_len = SEQ_LEN if len(documents) == 1 else 2
    prefix = write_megatron(tmp_path / "a", [[document] for document in documents], letter)
    with pytest.raises(ValueError, match=message):
        adopt(tmp_path / "tokens", tokenizer_folder, seq_len, train={"web": str(prefix)})
    assert not (tmp_path / "tokens").exists()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([[1, 2, 0], [3, 4], [5, 0], [6, 7]], r"starts at token 5.*chunk that cut a document.*shuffle_chunk_size"),
        ([[1, 2], [3, 4]], r"starts at token 2.*\(0\), so documents would see each other: name the token.*eos_token"),
    ],
)
def test_chunks_that_cut_documents_are_recognised(
    documents: list[list[int]], message: str, tmp_path: Path, tokenizer_folder: Path, write_datatrove: Write
) -> None:
    path = write_datatrove(tmp_path / "a.ds", documents)
    with pytest.raises(ValueError, match=message):
        adopt(tmp_path / "tokens", tokenizer_folder, 2, train={"web": str(path)})


def test_a_file_named_twice_is_refused(web: Path, tmp_path: Path, tokenizer_folder: Path) -> None:
    link = tmp_path / "link"
    for part in ("bin", "idx"):
        Path(f"{link}.{part}").symlink_to(f"{web}.{part}")
    with pytest.raises(
        ValueError, match=r"link\.bin is listed in train\.web and in validation\.web: remove it from one"
    ):
        adopt(tmp_path / "tokens", tokenizer_folder, train={"web": str(web)}, validation={"web": str(link)})


@pytest.mark.parametrize("path", ["none", "none.ds", "no*ne", "no*ne.ds"])
def test_a_path_without_files_is_refused(path: str, tmp_path: Path, tokenizer_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.web='.*none.*': .*none.* does not exist|train\.web='.*no\*ne"):
        adopt(tmp_path / "tokens", tokenizer_folder, train={"web": str(tmp_path / path)})


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.name='train:300': name the existing tokenizer"):
        ForeignTokenizer("train:300")
    tokenizer = ForeignTokenizer("gpt2")
    with pytest.raises(ValueError, match="seq_len=1 must be at least 2"):
        AdoptSettings(tokenizer, train={"web": "x"}, seq_len=1)
    with pytest.raises(ValueError, match="output is empty"):
        AdoptSettings(tokenizer, train={"web": "x"}, output="")
