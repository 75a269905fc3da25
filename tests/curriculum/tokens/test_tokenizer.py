"""The tokenizer: deterministic, unbiased in its training text, loadable by Hugging Face, safe from special tokens."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from curriculum.tokens.tokenizer import (
    TextPick,
    TextTokenizer,
    TokenizerSettings,
    load_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
)

CHINESE = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u6563\u6b65\u3002"
TEXTS = ["The cat sat on the mat. ", "def f(x):\n    return x + 1\n", CHINESE] * 20
HARD = [
    "\u4e2d\u6587\u4e0e English \u6df7\u6392\u3002",
    "emoji \U0001f600 \u0000 tab\t end ",
    "\r\n  ",
    "<|endoftext|> </s>",
]


@pytest.fixture
def trained() -> TextTokenizer:
    return train_tokenizer(TEXTS, 300)


def edit(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def test_trained_tokenizer_brings_every_text_back(trained: TextTokenizer) -> None:
    assert trained.vocab_size == 300
    assert trained.end_of_text_token == "<|endoftext|>"
    for text, ids in zip(TEXTS + HARD, trained.encode(TEXTS + HARD), strict=True):
        assert trained.decode(ids) == text
        assert trained.end_of_text not in ids
    assert len(trained.encode([CHINESE])[0]) < 0.6 * len(CHINESE.encode())  # it learned some Chinese


def test_training_is_deterministic(trained: TextTokenizer) -> None:
    assert train_tokenizer(TEXTS, 300).fingerprint == trained.fingerprint
    assert train_tokenizer(TEXTS, 310).fingerprint != trained.fingerprint


def test_small_text_gives_a_small_vocabulary() -> None:
    assert train_tokenizer(["abc"], 5000).vocab_size < 300


def test_saved_folder_loads_in_transformers(trained: TextTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert found.eos_token_id == trained.end_of_text
    assert len(found) == trained.vocab_size
    for text in TEXTS[:3] + HARD[:3]:
        assert found(text, add_special_tokens=False)["input_ids"] == trained.encode([text])[0].tolist()
    assert tokenizer_fingerprint(tmp_path) == trained.fingerprint
    assert TextTokenizer.open(tmp_path).encode(HARD)[0].tolist() == trained.encode(HARD)[0].tolist()


def test_a_folder_that_would_cut_pad_or_frame_the_text_does_not(trained: TextTokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    frame = {"special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}}
    single = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
    }
    edit(
        tmp_path,
        "tokenizer.json",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        },
        post_processor={**template, **frame},
        added_tokens=[{**entry, "special": False} for entry in data["added_tokens"]],
    )
    opened = TextTokenizer.open(tmp_path)
    for ours, theirs in zip(opened.encode(TEXTS[:3] + HARD), trained.encode(TEXTS[:3] + HARD), strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("eos", ["</s>", {"content": "</s>", "lstrip": False}])
def test_end_of_text_is_found_named_or_asked_for(tmp_path: Path, eos: object) -> None:
    train_tokenizer(TEXTS, 300, "</s>").save(tmp_path)
    edit(tmp_path, "tokenizer_config.json", eos_token=eos)
    assert TextTokenizer.open(tmp_path).end_of_text_token == "</s>"
    (tmp_path / "tokenizer_config.json").unlink()
    assert TextTokenizer.open(tmp_path).end_of_text_token == "</s>"
    with pytest.raises(ValueError, match=r"end_of_text='<none>' is not in the vocabulary"):
        TextTokenizer.open(tmp_path, "<none>")
    with pytest.raises(ValueError, match="also encodes plain text to it"):
        TextTokenizer.open(_with_unigram(tmp_path / "unigram"))
    train_tokenizer(TEXTS, 300, "<stop>").save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no end-of-text token.*tokenizer\.end_of_text="):
        TextTokenizer.open(tmp_path)
    assert TextTokenizer.open(tmp_path, "<stop>").end_of_text_token == "<stop>"


def _with_unigram(folder: Path) -> Path:
    """A tokenizer whose model encodes plain text to "</s>"."""
    from tokenizers import Tokenizer, models

    folder.mkdir()
    vocabulary = [("<unk>", 0.0), ("</s>", -1.0), ("a", -2.0)]
    Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False)).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return folder


def test_missing_and_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json does not exist"):
        load_tokenizer(TokenizerSettings(name=str(tmp_path)))
    with pytest.raises(ValueError, match="is not a folder"):
        load_tokenizer(TokenizerSettings(name=str(tmp_path / "missing")))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(TokenizerSettings(name=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"</s>": 0}}}')
    with pytest.raises(ValueError, match="cannot be used"):
        load_tokenizer(TokenizerSettings(name=str(tmp_path)))


def test_a_name_is_looked_up_by_hugging_face(
    trained: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    trained.save(tmp_path)
    known = {"someone/tokenizer": transformers.AutoTokenizer.from_pretrained(tmp_path)}

    def fetch(name: str, trust_remote_code: bool) -> object:
        assert not trust_remote_code
        if name not in known:
            raise OSError("not found on the hub")
        return known[name]

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fetch)
    loaded = load_tokenizer(TokenizerSettings(name="someone/tokenizer"))
    assert loaded.end_of_text_token == "<|endoftext|>"
    assert [ids.tolist() for ids in loaded.encode(HARD)] == [ids.tolist() for ids in trained.encode(HARD)]
    with pytest.raises(ValueError, match=r"'someone/else' is neither a folder nor .*not found on the hub"):
        load_tokenizer(TokenizerSettings(name="someone/else"))


@pytest.mark.parametrize("name", ["train:", "train:x", "train:256", "train:-1", "train:1e4", "train:99999999999", ""])
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.name"):
        TokenizerSettings(name=name)


def test_pick_is_bounded_and_does_not_depend_on_the_order() -> None:
    rng = random.Random(0)
    texts = [(rng.getrandbits(64), os.fsencode(f"{i} ") * rng.randrange(1, 40)) for i in range(300)]
    picks = []
    for _ in range(3):
        rng.shuffle(texts)
        pick = TextPick(4000)
        for key, text in texts:
            pick.add(key, text)
        picks.append(list(pick.texts()))
    assert picks[0] == picks[1] == picks[2]
    assert sum(len(text) for text in picks[0]) == 4000  # ASCII: characters are bytes
    smallest = min(texts)[1].decode()
    assert picks[0][0] == smallest
    everything = TextPick(10**6)
    for key, text in texts:
        everything.add(key, text)
    assert sorted(everything.texts()) == sorted(text.decode() for _, text in texts)


def test_ids_and_files_beyond_any_vocabulary_are_named(trained: TextTokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    vocabulary = {**data["model"]["vocab"], "far away": 4_000_000_000}
    edit(tmp_path, "tokenizer.json", model={**data["model"], "vocab": vocabulary})
    with pytest.raises(ValueError, match=r"largest token id is 4,000,000,000 with \d+ tokens"):
        TextTokenizer.open(tmp_path)
    os.truncate(tmp_path / "tokenizer.json", 1 << 30)  # takes no disk
    with pytest.raises(ValueError, match=r"tokenizer\.json has 1,073,741,824 bytes, more than the 268,435,456"):
        TextTokenizer.open(tmp_path)
