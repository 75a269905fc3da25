"""One rule for special tokens: documents start with BOS or not, whatever the tokenizer's own template adds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from curriculum.artifact.manifest import open_manifest
from curriculum.text.text import TextSettings
from curriculum.tokens.bytes import byte_lengths
from curriculum.tokens.job import run
from curriculum.tokens.settings import PrepareSettings
from curriculum.tokens.tokenizer import TextTokenizer, TokenizerSettings, train_tokenizer
from curriculum.tokens.tokens import Tokens

TEXTS = [f"Document {n}: the cat sat on the mat {n * 7} times." for n in range(40)]
BOS, EOS = "<s>", "</s>"


def framed(folder: Path, kind: str) -> Path:
    """A byte-level tokenizer with BOS and end of text, and a template as Llama's, RoBERTa's or T5's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [BOS, EOS]
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    template = {"llama": f"{BOS} $A", "t5": f"$A {EOS}", "both": f"{BOS} $A {EOS}"}
    if kind in template:
        ids = [(BOS, 0), (EOS, 1)]
        inner = processors.TemplateProcessing(single=template[kind], special_tokens=ids)
        byte_level = processors.ByteLevel(trim_offsets=True)
        made.post_processor = inner if kind == "t5" else processors.Sequence([byte_level, inner])
    elif kind == "roberta":
        made.post_processor = processors.RobertaProcessing((EOS, 1), (BOS, 0))
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    config = {"bos_token": BOS, "eos_token": EOS, "add_bos_token": True, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def prepare(folder: Path, tokenizer: str, *, validation_fraction: float = 0.02, **changes: Any) -> str:
    (folder / "d.jsonl").write_text("".join(json.dumps({"text": text, "source": "web"}) + "\n" for text in TEXTS))
    console = Console(file=io.StringIO(), width=100)
    made = PrepareSettings(
        input=TextSettings(paths=[str(folder / "d.jsonl")]),
        tokenizer=TokenizerSettings(name=tokenizer, **changes),
        seq_len=16,
        reference_fraction=0.0,
        validation_fraction=validation_fraction,
        output=str(folder / "tokens"),
    )
    run(made, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("kind", ["llama", "t5", "both", "roberta"])
@pytest.mark.parametrize("bos", [False, True])
def test_a_call_of_the_saved_tokenizer_gives_what_training_saw(tmp_path: Path, kind: str, bos: bool) -> None:
    from transformers import AutoTokenizer

    printed = prepare(tmp_path, str(framed(tmp_path / "given", kind)), bos=bos)
    tokens = Tokens.open(tmp_path / "tokens")
    tokens.check_tokenizer()
    saved = AutoTokenizer.from_pretrained(tokens.tokenizer_folder)
    texts = [saved.decode(tokens.document(i)[1]) for i in range(tokens.documents)]
    prompts = [saved(text.removeprefix(BOS))["input_ids"] for text in texts]
    assert prompts == [tokens.document(i)[1].tolist() for i in range(tokens.documents)]
    assert all(text.startswith(BOS) == bos for text in texts)
    assert tokens.bos == (0 if bos else None)
    assert ("note: the tokenizer's template adds" in printed) == (not bos or kind != "llama")
    assert ("documents start with '<s>'" in printed) == bos
    raw = json.loads((tokens.tokenizer_folder / "tokenizer_config.json").read_text())
    assert (raw["add_bos_token"], raw["add_eos_token"]) == (bos, False)


def test_bos_counts_no_bytes_and_changes_nothing_else(tmp_path: Path) -> None:
    for name, bos in (("plain", False), ("with", True)):
        (tmp_path / name).mkdir()
        prepare(tmp_path / name, str(framed(tmp_path / name / "given", "llama")), bos=bos)
    plain, other = (Tokens.open(tmp_path / name / "tokens") for name in ("plain", "with"))
    assert [other.document(i)[1][1:].tolist() for i in range(other.documents)] == [
        plain.document(i)[1].tolist() for i in range(plain.documents)
    ]
    assert other.tokens == plain.tokens + plain.documents
    lengths = byte_lengths(other.tokenizer_folder)
    assert lengths is not None
    assert lengths[0] == 0
    rows = [open_manifest(part.folder, "tokens").facts["slices"]["train"]["text_bytes"] for part in (plain, other)]
    assert rows[0] == rows[1]
    assert plain.tokenizer_fingerprint != other.tokenizer_fingerprint


def test_without_a_bos_of_its_own_it_is_the_end_of_text(tmp_path: Path) -> None:
    prepare(tmp_path, "train:300", bos=True)
    tokens = Tokens.open(tmp_path / "tokens")
    tokenizer = TextTokenizer.open(tokens.tokenizer_folder)
    assert tokens.bos == tokens.end_of_text == tokenizer.bos
    assert tokens.end_of_text not in tokens.document(0)[1]  # no second one


def test_a_tokenizer_without_a_template_keeps_its_fingerprint_and_files(tmp_path: Path) -> None:
    trained = train_tokenizer(TEXTS, 300)
    assert trained.following(False).fingerprint == trained.fingerprint
    trained.save(tmp_path / "a")
    trained.following(False).save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    content = PrepareSettings(tokenizer=TokenizerSettings(max_lost=0.5)).content()
    assert set(content["tokenizer"]) == {"name", "end_of_text", "train_megabytes"}  # TOKENS of before are reused


def test_a_bos_that_the_vocabulary_lacks_is_refused(tmp_path: Path) -> None:
    folder = framed(tmp_path / "given", "plain")
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"bos_token": "<begin>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"tokenizer\.bos=true: the BOS token '<begin>' is not in the vocabulary"):
        TextTokenizer.open(folder).following(True)
