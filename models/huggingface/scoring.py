"""Choose how a Hugging Face folder scores: by our decoder if it computes the same, else by transformers."""

from __future__ import annotations

from pathlib import Path

import torch

from models.huggingface.admission import check_foreign, check_positions
from models.huggingface.folder import UnlikeDecoderError, weight_files
from models.huggingface.foreign import load_foreign
from models.huggingface.read import load, read_config
from models.losses.loss_model import LossModel


def check_scorer(folder: Path, end_of_text: int | None, seq_len: int | None) -> bool:
    """Return whether our decoder scores with this folder; ValueError, from its config, if nothing can.

    `seq_len` is the length of a sample in tokens, without its last label; None if samples are cut to fit.
    """
    try:
        config = read_config(folder, end_of_text)
    except UnlikeDecoderError:
        check_foreign(folder, seq_len)
        return False
    weight_files(folder)
    check_positions(folder / "config.json", config.max_seq_len, seq_len)
    return True


def load_scorer(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    *,
    end_of_text: int | None,
    input_only: int | None = None,
    seq_len: int | None,
) -> tuple[LossModel, str]:
    """Return the model of a folder for scoring, its weights as `dtype` on `device`, and a description of how it runs.

    Both ways give the same losses. Raises ValueError as `check_scorer`, `load` and `load_foreign` do.
    """
    if check_scorer(folder, end_of_text, seq_len):
        return load(folder, dtype, end_of_text=end_of_text, input_only=input_only).to(device), "the decoder"
    foreign = load_foreign(folder, dtype, device, end_of_text=end_of_text, input_only=input_only)
    head = "the head by chunks" if foreign.plain else "whole logits of small batches"
    return foreign, f"{type(foreign.model).__name__} of transformers ({head})"
