"""An export is published complete or not at all, and never replaces a foreign folder."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models

from curriculum.artifact.drafts import machine
from models.config import DecoderConfig
from models.decoder import build
from models.huggingface import export, load
from models.huggingface.card import TAG
from train.export.export import export_checkpoint, replaced


def write(folder: Path, layers: int = 2) -> None:
    """Put a model in place at `folder`."""
    config = DecoderConfig(vocab_size=97, layers=layers, width=32, heads=4, kv_heads=2, ffn=48, max_seq_len=64)
    with replaced(folder) as draft:
        export(draft, config, build(config, 0).state_dict(), dtype=torch.float32, tokenizer_folder=None, card=None)


def fail(folder: Path) -> None:
    """Start an export to `folder` that ends on a full disk."""

    def broken() -> None:
        with replaced(folder) as draft:
            (draft / "model.safetensors").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        broken()


def test_an_export_is_complete_or_absent_and_may_be_replaced(tmp_path):
    fail(tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "hf")
    before = {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()}
    fail(tmp_path / "hf")
    assert {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    write(tmp_path / "hf", layers=1)
    assert load(tmp_path / "hf", torch.float32).config.layers == 1
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_every_file_is_synced_before_the_folder_is_renamed(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("train.export.export.sync", lambda path: synced.append((path.name, (tmp_path / "hf").exists())))
    write(tmp_path / "hf")
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {name for name, there in synced if not there} > names
    assert synced[-1] == (tmp_path.name, True)


def test_leftovers_of_a_killed_export_are_removed_by_the_next(tmp_path):
    left = [f".hf.tmp-{machine()}-999999999-0123abcd", ".hf.ffffffff.old"]
    others = [
        f".hf.tmp-{machine()}-{os.getpid()}-0123abcd",
        ".hf.tmp-node7.0123abcd-999999999-0123abcd",
        ".hf.0123ABCD.old",
        f".other.tmp-{machine()}-999999999-0123abcd",
        "xhf.0123abcd.old",
    ]
    for name in [*left, *others]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    fail(tmp_path / "hf")
    assert {path.name for path in tmp_path.iterdir()} == {".hf.ffffffff.old", *others}  # the old one is all there is
    write(tmp_path / "hf")
    assert {path.name for path in tmp_path.iterdir()} == {"hf", *others}


def test_an_export_never_replaces_a_foreign_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not an exported model: choose a new folder"):
        write(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_export_never_replaces_a_downloaded_model_or_files_added_to_an_export(tmp_path):
    write(tmp_path / "hf")
    (tmp_path / "hf" / "quantized.gguf").write_text("mine")
    with pytest.raises(ValueError, match=r"contains other files \(quantized.gguf\), which an export would remove"):
        write(tmp_path / "hf")
    (tmp_path / "hf" / "quantized.gguf").unlink()
    write(tmp_path / "hf")
    (tmp_path / "hf" / "README.md").write_text("---\ntags:\n- llama\n---\n# Llama\n")
    with pytest.raises(ValueError, match="is not an exported model"):
        write(tmp_path / "hf")


@pytest.mark.parametrize("earlier", [False, True])
def test_files_that_somebody_adds_during_an_export_are_kept(tmp_path, earlier):
    (tmp_path / "hf").mkdir()
    if earlier:
        write(tmp_path / "hf")

    def export_while_files_arrive() -> None:
        with replaced(tmp_path / "hf"):
            (tmp_path / "hf" / "config.json").write_text("theirs")
            (tmp_path / "hf" / "quantized.gguf").write_text("theirs")

    with pytest.raises(ValueError, match=r"hf (contains other files \(quantized.gguf\)|exists and is not an exported)"):
        export_while_files_arrive()
    assert (tmp_path / "hf" / "config.json").read_text() == "theirs"
    assert (tmp_path / "hf" / "quantized.gguf").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_of_two_exports_at_once_one_is_there_and_the_other_is_told(tmp_path, monkeypatch):
    """The second one publishes between the two renames of the first."""
    rename, told = os.replace, []

    def between(source, target):
        if Path(target).name == "hf" and not told:
            told.append(1)
            write(tmp_path / "hf", layers=1)
        rename(source, target)

    write(tmp_path / "hf")
    monkeypatch.setattr("train.export.export.os.replace", between)
    with pytest.raises(ValueError, match="hf was written by another export at the same time: run again"):
        write(tmp_path / "hf")
    assert load(tmp_path / "hf", torch.float32).config.layers == 1
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_an_export_that_lacks_fields_of_config_json_is_written_again(tmp_path, monkeypatch):
    """As by an earlier version, whose exports transformers 4 read with another rope_theta."""
    config = DecoderConfig(2, 32, 4, 2, 48, vocab_size=97, max_seq_len=64, rope_theta=500000.0)
    (tmp_path / "tokenizer").mkdir()
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    state = build(config, 0).state_dict()
    chosen = SimpleNamespace(sources=[tmp_path], how="trained, step 4", read=lambda: (config, state))
    monkeypatch.setattr("train.export.export.read_run", lambda folder: {})
    monkeypatch.setattr("train.export.export.run_card", lambda *_: f"{TAG}\na card")
    monkeypatch.setattr(
        "train.export.export.open_manifest", lambda *_: SimpleNamespace(facts={"model": asdict(config)})
    )
    monkeypatch.setattr("train.export.export.tokenizer_folder", lambda *_: tmp_path / "tokenizer")
    assert export_checkpoint(tmp_path, tmp_path / "hf", chosen=chosen)
    assert not export_checkpoint(tmp_path, tmp_path / "hf", chosen=chosen)
    path = tmp_path / "hf" / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in raw.items() if key not in ("rope_theta", "rope_scaling")}))
    assert export_checkpoint(tmp_path, tmp_path / "hf", chosen=chosen)
    assert json.loads(path.read_text()) == raw
