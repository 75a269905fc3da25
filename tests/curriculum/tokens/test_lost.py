"""Bytes that a tokenizer drops, changes or does not know are counted by source, exactly, and limited."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from curriculum.artifact.manifest import open_manifest
from curriculum.text.text import TextSettings
from curriculum.tokens.job import TextWorker, run
from curriculum.tokens.lost import LostBytes
from curriculum.tokens.settings import PrepareSettings
from curriculum.tokens.tokenizer import TextTokenizer, TokenizerSettings, train_tokenizer

TEXTS = [f"document {n}: " + " ".join(f"word{(n * 7 + k) % 23}" for k in range(40)) for n in range(20)]
END = "<|endoftext|>"


def built(model: str, **changes: Any) -> TextTokenizer:
    """A tokenizer that has only seen TEXTS: byte-level, of characters with an unknown token, or as Llama 2's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    unknown = {"unk_token": "<unk>"} if model != "bytes" else {}
    made = Tokenizer(models.BPE(**unknown, byte_fallback=model == "fallback"))
    if model == "bytes":
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    elif model == "characters":
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        made.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    special = [*([] if model == "bytes" else ["<unk>"]), END]
    if model == "fallback":
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=600, special_tokens=special))
    data = json.loads(made.to_str())
    if changes.get("normalizer"):
        data["normalizer"] = changes["normalizer"]
    return TextTokenizer(data, {"eos_token": END}, END)


def lost(tokenizer: TextTokenizer, *texts: str) -> list[tuple[int, bool]]:
    found = LostBytes(tokenizer).of(texts, [text.encode() for text in texts], tokenizer.encode(list(texts)))
    return list(zip(*(part.tolist() for part in found), strict=True))


def test_dropped_bytes_are_counted_one_by_one() -> None:
    tokenizer = built("bytes")
    assert lost(tokenizer, TEXTS[0], "", TEXTS[0] + "Z", "wordZZ \u0416") == [
        (0, False),
        (0, False),
        (1, True),
        (4, True),
    ]


def test_unknown_characters_are_lost() -> None:
    tokenizer = built("characters")
    assert lost(tokenizer, TEXTS[0], " " + TEXTS[0]) == [(0, False), (1, True)]  # Metaspace takes the space for its own
    assert lost(tokenizer, TEXTS[0] + "\u0416", "Z" + TEXTS[0]) == [(2, True), (1, True)]
    assert lost(tokenizer, "word\u2581word") == [(3, True)]  # it decodes to a space


def test_byte_fallback_loses_nothing() -> None:
    tokenizer = built("fallback")
    assert lost(tokenizer, TEXTS[0], "\u4e2d\u6587 \U0001f600\n\t Z", "  two") == [(0, False)] * 3


@pytest.mark.parametrize(
    ("normalizer", "text", "expected"),
    [
        ({"type": "Lowercase"}, "Word WORD", (5, True)),  # as many bytes, but others
        ({"type": "NFC"}, "worde\u0301", (3, True)),
        ({"type": "NFC"}, "word \uf900", (3, True)),  # to another character of three bytes
        ({"type": "NFC"}, "word caf\u00e9 \u732b", (0, False)),
        ({"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, "word  \n word", (3, True)),
    ],
)
def test_what_a_normalizer_changes_is_lost(normalizer: dict[str, Any], text: str, expected: tuple[int, bool]) -> None:
    tokenizer = train_tokenizer([*TEXTS, text], 300)
    changed = TextTokenizer({**tokenizer.data, "normalizer": normalizer}, {}, tokenizer.end_of_text_token)
    assert lost(changed, text) == [expected]


def prepare(folder: Path, **changes: Any) -> tuple[str, dict[str, Any]]:
    built("bytes").save(folder / "lossy")
    rows = [
        {"text": text + (" \u0416\u0429" if n % 2 else ""), "source": "ru" if n % 2 else "en"}
        for n, text in enumerate(TEXTS)
    ]
    rows.append({"text": "\u0416" * 10, "source": "ru"})  # nothing of it is left
    if not (folder / "d.jsonl").exists():
        (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    console = Console(file=io.StringIO(), width=100)
    made = PrepareSettings(
        input=TextSettings(paths=[str(folder / "d.jsonl")]),
        tokenizer=TokenizerSettings(name=str(folder / "lossy"), max_lost=changes.pop("max_lost", 0.01)),
        **{"seq_len": 16, "reference_fraction": 0.0, "validation_fraction": 0.0, **changes},
        output=str(folder / "tokens"),
    )
    run(made, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), open_manifest(folder / "tokens", "tokens").facts


@pytest.mark.parametrize("chunk_bytes", [None, 600])
def test_the_table_shows_the_loss_and_text_bytes_leave_it_out(tmp_path: Path, chunk_bytes: int | None) -> None:
    printed, facts = prepare(tmp_path, max_lost=0.1, chunk_bytes=chunk_bytes)
    sizes = {name: [len(text.encode()) for text in TEXTS[start::2]] for start, name in enumerate(("en", "ru"))}
    assert facts["lost"] == {"ru": {"bytes": sum(sizes["ru"]) + 10 * 5 + 20, "lost": 10 * 4 + 20, "changed": 11}}
    rows = {row["name"]: row["text_bytes"] for row in facts["slices"]["train"]["sources"]}
    assert rows == {"en": sum(sizes["en"]), "ru": sum(sizes["ru"]) + 10}
    assert facts["documents_without_tokens"] == {"ru": 1}
    assert "lost bytes" in printed
    assert "warning: the tokenizer loses more than 0.1% of the bytes of a source (ru 60 of " in printed
    assert "documents whose tokens decode to another text: 11 (ru 11); all documents were checked" in printed


def test_more_than_the_limit_is_refused_and_a_higher_one_takes_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"more than tokenizer\.max_lost=0\.01 of the bytes of ru \d.*max_lost=0\.0\d\d "
    ):
        prepare(tmp_path)
    assert not (tmp_path / "tokens").exists()
    monkeypatch.setattr(TextWorker, "do", None)  # nothing is left to do
    prepare(tmp_path, max_lost=0.1)


def test_a_tokenizer_that_loses_nothing_adds_no_fact(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 300).save(tmp_path / "good")
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": text, "source": "s"}) + "\n" for text in TEXTS))
    made = PrepareSettings(
        input=TextSettings(paths=[str(tmp_path / "d.jsonl")]),
        tokenizer=TokenizerSettings(name=str(tmp_path / "good")),
        seq_len=16,
        output=str(tmp_path / "tokens"),
    )
    console = Console(file=io.StringIO(), width=100)
    run(made, console)
    assert not {"lost", "bos", "bos_token"} & set(open_manifest(tmp_path / "tokens", "tokens").facts)
    assert isinstance(console.file, io.StringIO)
    assert "lost" not in console.file.getvalue()


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_the_limit_is_a_share(value: float) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.max_lost="):
        TokenizerSettings(max_lost=value)
