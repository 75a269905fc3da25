"""`pdpc score` by processes, ranks and actors: the same bytes with every executor, whichever worker dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from curriculum.tokens.tokens import Tokens
from launch.cli import main
from models.config import DecoderConfig
from models.decoder import build
from models.huggingface import export
from tests.launch.executors.ray_cluster import losing_an_actor
from tests.torture.runs import PATIENCE_S

BATCH = 64
CHUNK = BATCH * 32 * 14
"""Two chunks of the training slice and one of validation."""


@pytest.fixture(scope="module")
def words(tokens_folder, tmp_path_factory):
    """Arguments common to all commands (all but output and engine)."""
    tokens = Tokens.open(tokens_folder)
    common = [f"tokens={tokens_folder}", f"batch_size={BATCH}", f"chunk_tokens={CHUNK}"]
    for seed, name in enumerate(("weak", "strong")):
        folder = tmp_path_factory.mktemp("models") / name
        config = DecoderConfig(
            vocab_size=320,
            layers=1,
            width=16,
            heads=2,
            kv_heads=2,
            ffn=16,
            max_seq_len=tokens.seq_len,
            end_of_text=tokens.end_of_text,
        )
        state = build(config, seed).state_dict()
        export(folder, config, state, dtype=torch.float32, tokenizer_folder=tokens.tokenizer_folder, card=None)
        common.append(f"models.{name}={folder}")
    return common


@pytest.fixture(scope="module")
def expected(words, tmp_path_factory):
    """The files written by one uninterrupted process."""
    folder = tmp_path_factory.mktemp("plain") / "scores"
    assert main(["score", *words, "processes=1", f"output={folder}"]) == 0
    return files(folder)


def files(folder: Path) -> dict[str, object]:
    found = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    return {**found, "fingerprint": json.loads((folder / "manifest.json").read_text())["fingerprint"]}


def test_two_processes_one_of_which_dies(words, expected, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PDPC_FAULT", "chunk.before_rename:nth=2")
    assert main(["score", *words, "processes=2", f"output={tmp_path / 'scores'}"]) == 0
    assert "died with exit code -9: starting a replacement" in caplog.text
    assert files(tmp_path / "scores") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]


def test_two_ranks_killed_and_resumed_by_one_of_deepspeeds_launcher(words, expected, tmp_path, contained, forks):
    words = ["score", *words, f"output={tmp_path / 'scores'}"]
    fault = {"PDPC_FAULT": "chunk.before_rename:nth=2"}
    ranks = forks.start("tests.torture.forks:work", {"words": words}, 2, tmp_path / "log", fault)
    assert -signal.SIGKILL in ranks.wait(PATIENCE_S), ranks.told()
    ranks.kill()
    done = sorted(path.name for path in (tmp_path / "scores.chunks").glob("*.chunk"))
    assert 1 <= len(done) <= 2
    command = [sys.executable, "-m", "launch.cli", *words, "engine=deepspeed", "processes=1"]
    again = subprocess.run(command, env=contained, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{len(done)} of 3 chunks are already done" in again.stderr
    assert files(tmp_path / "scores") == expected


def test_chunks_of_other_settings_are_refused(words, tmp_path, capsys, monkeypatch):
    output = tmp_path / "scores"
    monkeypatch.setenv("PDPC_FAULT", "chunk.after_write:raise")
    with pytest.raises(RuntimeError, match="fault"):
        main(["score", *words, "processes=1", f"output={output}"])
    monkeypatch.delenv("PDPC_FAULT")
    assert main(["score", *words, "processes=1", "precision=bf16", f"output={output}"]) == 2
    assert "config.precision: was 'fp32', now 'bf16'" in capsys.readouterr().err


def test_a_worker_reports_a_damaged_model(words, tmp_path, capsys):
    broken = [word for word in words if not word.startswith("models.weak")]
    (tmp_path / "weak").mkdir()
    source = Path(next(word for word in words if word.startswith("models.strong")).split("=")[1])
    for path in source.iterdir():
        (tmp_path / "weak" / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "weak" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5] + b"\xff\xff\xff\x7f\x7f")
    data = bytearray(weights.read_bytes())
    data[-64:] = b"\xff" * 64  # not a number
    weights.write_bytes(bytes(data))
    code = main(["score", *broken, f"models.weak={tmp_path / 'weak'}", "processes=2", f"output={tmp_path / 'scores'}"])
    assert code == 2
    assert "model 'weak' gives sample" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


def test_actors_of_a_ray_cluster_one_of_which_is_killed(words, expected, tmp_path, monkeypatch):
    small = [word for word in words if not word.startswith("chunk_tokens")]
    with losing_an_actor(monkeypatch) as killed:
        assert main(["score", *small, f"chunk_tokens={BATCH * 32}", "engine=ray", f"output={tmp_path / 'scores'}"]) == 0
    assert killed
    assert files(tmp_path / "scores") == expected
