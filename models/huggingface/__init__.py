"""Export a decoder as a plain LlamaForCausalLM folder, and load such a folder as a decoder.

Other architectures are scored through transformers.
"""

from models.huggingface.card import model_card
from models.huggingface.read import load
from models.huggingface.scoring import check_scorer, load_scorer
from models.huggingface.write import DTYPES, MAX_SHARD_BYTES, export

__all__ = ["DTYPES", "MAX_SHARD_BYTES", "check_scorer", "export", "load", "load_scorer", "model_card"]
