"""A folder with a tokenizer, tasks and an exported decoder; the harness's model on it, and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.huggingface import export
from tests.train.evaluation.harness.material import MAX_LENGTH, SINGLE, make_decoder, write_tasks, write_tokenizer
from train.distributed.collectives import Collectives
from train.evaluation.harness.model import harness_model, load_tokenizer
from train.evaluation.harness.scorer import Scorer


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, tasks and an exported decoder."""
    folder = tmp_path_factory.mktemp("harness")
    write_tokenizer(folder / "tokenizer")
    write_tasks(folder / "tasks")
    decoder = make_decoder()
    export(
        folder / "hf", decoder.config, decoder.state_dict(), dtype=torch.float32,
        tokenizer_folder=folder / "tokenizer", card=None,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def theirs(assets: Path) -> Any:
    """The harness's own model on the exported folder."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(assets / "hf", dtype=torch.float32)
    return HFLM(
        pretrained=model,
        tokenizer=load_tokenizer(assets / "tokenizer"),
        device="cpu",
        batch_size=4,
        max_length=MAX_LENGTH,
    )


@pytest.fixture(scope="session")
def ours(assets: Path) -> Any:
    scorer = Scorer(make_decoder().eval(), Collectives(SINGLE), MAX_LENGTH, batch_size=4)
    return harness_model(scorer, load_tokenizer(assets / "tokenizer"))


@pytest.fixture
def no_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the harness's own task index, which takes eight seconds to read."""
    from lm_eval.tasks import TaskManager

    build_index = TaskManager.__init__

    def without_defaults(self: Any, include_path: Any = None, include_defaults: bool = True) -> None:
        build_index(self, include_path=include_path, include_defaults=False)

    monkeypatch.setattr(TaskManager, "__init__", without_defaults)
