"""A decoder with the weights of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from models.config import DecoderConfig
from models.decoder import Decoder
from train import checkpoint


def load_decoder(source: Path) -> Decoder:
    """Return the float32 decoder of a checkpoint."""
    return decoder_of(*checkpoint.read_weights(source))


def decoder_of(config: DecoderConfig, state: dict[str, torch.Tensor]) -> Decoder:
    """Return a decoder with these weights, in evaluation mode."""
    with torch.device("meta"):
        decoder = Decoder(config)
    if config.tie_embeddings:
        state["head.weight"] = state["embedding.weight"]
    decoder.load_state_dict(state, assign=True)
    return decoder.eval()
