"""The card of an export: the model, and which data in which order it was trained on."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from curriculum.artifact.create import create
from curriculum.artifact.files import fingerprint_of
from curriculum.artifact.manifest import Manifest
from curriculum.tokens.tokenizer import train_tokenizer
from models import DecoderConfig
from models.huggingface import model_card
from train.export.card import run_card
from train.export.export import document_bos

CONFIG = DecoderConfig(vocab_size=97, layers=2, width=32, heads=4, kv_heads=2, ffn=48, max_seq_len=64)
PREFERENCE = {"name": "pdpc", "steepness": 10.0, "by": "weak|strong"}


@pytest.fixture
def facts():
    return {
        "arm": "pdpc",
        "seed": 3,
        "versions": {"torch": "2.13.0", "pdpc": "0.1.0"},
        "fingerprints": {"tokens": "aa11", "order": "bb22", "tokenizer": "cc33", "scores": "dd44", "benchmarks": None},
        "arranged": {"preference": PREFERENCE, "inputs": {"tokens": "aa11", "scores": "ee55"}},
    }


def checkpoint():
    return Manifest(
        kind="checkpoint",
        format_version=1,
        created_at="2026-01-01T00:00:00+00:00",
        code_version="0",
        config={},
        inputs={},
        facts={"step": 12_000, "tokens": 1_234_567, "cursor": 9_000, "consumed_hash": "00ff"},
        files={},
        fingerprint="ff66",
    )


def rows(card):
    """Return the card's two-column tables as one mapping."""
    cells = [line.strip("|").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {name.strip(): value.strip() for name, value in cells}


def test_the_card_names_everything_the_model_depends_on(facts):
    card = run_card(facts, checkpoint(), CONFIG, "bf16")
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", "text-generation")
    found = rows(card)
    for name, value in {
        "tokens": "`aa11`", "order": "`bb22`", "tokenizer": "`cc33`", "scores": "`ee55`", "checkpoint": "`ff66`",
        "scores of held-out samples": "`dd44`", "preference": f"`{fingerprint_of(PREFERENCE)}`", "weights": "bf16",
        "tokens seen": "1,234,567", "step": "12,000", "samples seen": "9,000", "arm": "pdpc",
        "hash of what was seen, in order": "00ff", "parameters": "21,728 (15,520 without embedding and head)",
    }.items():  # fmt: skip
        assert found[name] == value, name
    assert "benchmarks" not in found
    assert json.loads(next(line for line in card.splitlines() if line.startswith('    {"by"'))) == PREFERENCE
    assert "torch 2.13.0" in card


@pytest.mark.parametrize(
    ("bos", "document", "call"),
    [
        (False, "without a BOS token", "`tokenizer(text)` adds no special tokens"),
        (True, "which is also its BOS token", "`tokenizer(text)` adds it before the text"),
    ],
)
def test_the_card_says_what_a_document_was(facts, bos, document, call):
    tokenizer = train_tokenizer(["text"], 257).following(bos)
    card = run_card(facts, checkpoint(), CONFIG, "fp32", tokenizer=tokenizer)
    assert "A document in training was `<|endoftext|>` (id 0)" in card
    assert document in card
    assert call in card


def test_tokens_of_before_state_no_bos_whatever_their_template(tmp_path):
    tokens = tmp_path / "tokens"
    with create(tokens, "tokens", config={}, inputs={}) as draft:
        train_tokenizer(["text"], 257).following(True).save(draft.path / "tokenizer")
    assert document_bos(tokens / "tokenizer") is None
    shutil.copytree(tokens / "tokenizer", tmp_path / "export")
    assert document_bos(tmp_path / "export") == 0


def test_a_replanned_order_names_its_parent(facts):
    facts["arranged"]["inputs"]["parent"] = "0077"
    card = run_card(facts, checkpoint(), CONFIG, "fp32")
    assert rows(card)["parent of the order"] == "`0077`"
    assert "its later part was arranged by this preference" in card


def test_a_run_without_a_recorded_preference_says_so(facts):
    for arranged in (None, {"preference": None, "inputs": {}}):
        facts["arranged"] = arranged
        card = run_card(facts, checkpoint(), CONFIG, "fp32")
        assert "does not record the preference of its order" in card
        assert "preference" not in rows(card)


def test_a_card_without_a_run_states_the_shape():
    tied = rows(model_card(replace(CONFIG, tie_embeddings=True), "float32"))
    assert tied["embedding, attention, ffn, norm, head"].endswith("the embedding itself")
    assert tied["heads, key/value heads, head size"] == "4, 2, 8"
