"""Adapters of a run: the frozen weights that it keeps, the adapters that it starts with, and their export."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from models import huggingface
from models.config import DecoderConfig, Lora
from models.decoder import Decoder
from models.lora import adapted, read_adapter, write_adapter
from train import checkpoint
from train.distributed.world import World
from train.export.export import replaced
from train.initial import Initial
from train.records.layout import ADAPTER, BASE, CHECKPOINTS
from train.settings import TrainSettings


def check_adapter(settings: TrainSettings, config: DecoderConfig) -> None:
    """Raise ValueError unless `lora.adapter`, from which a run starts, is an adapter of this model as asked for."""
    if settings.lora.adapter is not None and not checkpoint.candidates(Path(settings.output) / CHECKPOINTS):
        _adapter(settings, config)


def _adapter(settings: TrainSettings, config: DecoderConfig) -> dict[str, Tensor]:
    folder = Path(str(settings.lora.adapter))
    found, state = read_adapter(folder, config)
    asked = settings.lora.adapters()
    assert asked is not None, "an adapter without a rank is rejected"
    if (found.rank, found.alpha, set(found.targets)) != (asked.rank, asked.alpha, set(asked.targets)):
        words = f"lora.rank={found.rank} lora.alpha={found.alpha:g} lora.targets=[{','.join(found.targets)}]"
        raise ValueError(f"lora.adapter={folder} has another rank, alpha or targets than the run: give {words}")
    return state


def adapt(
    decoder: Decoder, lora: Lora, settings: TrainSettings, initial: Initial | None, world: World, step: int
) -> None:
    """Load the frozen weights, before step 0 copied to RUN/base, and add adapters. Every rank calls it."""
    run, config = Path(settings.output), decoder.config
    if step == 0:
        assert initial is not None, "adapters without init are rejected"
        world.first_does(lambda: _keep(run / BASE, config, initial))
    state = dict(checkpoint.read_base(run, config))
    if config.tie_embeddings:
        state["head.weight"] = state["embedding.weight"]
    decoder.load_state_dict(state)
    adapted(decoder, lora, settings.seed)
    if step == 0 and settings.lora.adapter is not None:
        with torch.no_grad():
            for name, values in _adapter(settings, config).items():
                decoder.get_parameter(name).copy_(values)


def _keep(folder: Path, config: DecoderConfig, initial: Initial) -> None:
    with replaced(folder) as draft:
        huggingface.export(draft, config, initial.read(), dtype=torch.float32, tokenizer_folder=None, card=None)


def export_adapter(run: Path, source: Path) -> None:
    """Write the adapter of a checkpoint to RUN/adapter in peft's format; nothing for a run without adapters."""
    config, lora, state = checkpoint.read_trained(source)
    if lora is None:
        return
    folder, draft = run / ADAPTER, run / f".{ADAPTER}.tmp-new"
    shutil.rmtree(draft, ignore_errors=True)
    write_adapter(draft, config, lora, state, str((run / BASE).absolute()))
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(draft, folder)
