"""A run whose inputs are in order, and programs that say what the real ones say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.cli import main

MODEL = ["model.layers=1", "model.width=32", "model.heads=2", "model.kv_heads=1", "model.ffn=64"]

Doctor = Callable[..., tuple[int, list[str]]]


@pytest.fixture(scope="session")
def order_folder(tokens_folder: Path, scores_folder: Path) -> Path:
    """An ORDER of the session's TOKENS, in batches of 8."""
    folder = tokens_folder.parent / "doctor_order"
    words = [f"tokens={tokens_folder}", f"scores={scores_folder}", "preference=shuffled", "batch_size=8"]
    assert main(["arrange", *words, f"output={folder}"]) == 0
    return folder


@pytest.fixture
def healthy(tokens_folder: Path, order_folder: Path, scores_folder: Path, tmp_path: Path) -> list[str]:
    """The overrides of a run that can start."""
    data = [f"data.tokens={tokens_folder}", f"data.order={order_folder}", f"data.scores={scores_folder}"]
    tracker = ["tracker=none", "precision=fp32", "micro_batch_size=4", "threads=1", "processes=1"]
    return [*data, *tracker, *MODEL, "arm=a", f"output={tmp_path / 'run'}"]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Return a function that runs `pdpc doctor` here; it returns the exit code and the lines."""
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    monkeypatch.delenv("SLURM_NODELIST", raising=False)

    def examined(*words: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = main(["doctor", *words])
        return code, capsys.readouterr().out.splitlines()

    return examined


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that puts a shell script first on PATH, as a program of that name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(name: str, script: str) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put
