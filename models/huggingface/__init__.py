"""Hugging Face both ways: a decoder as a plain LlamaForCausalLM folder, and such a folder as a decoder."""

from models.huggingface.card import model_card
from models.huggingface.read import load
from models.huggingface.write import DTYPES, MAX_SHARD_BYTES, export

__all__ = ["DTYPES", "MAX_SHARD_BYTES", "export", "load", "model_card"]
