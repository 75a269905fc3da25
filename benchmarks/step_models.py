"""The same Llama three times (ours, transformers' and litgpt's), and the same samples for each.

Shapes: S steps, B samples per batch, T tokens per sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.processes import Settings

if TYPE_CHECKING:
    import torch

    from models.config import DecoderConfig

END_OF_TEXT = 0
SHORTEST_DOCUMENT = 8


def decoder_config(settings: Settings) -> DecoderConfig:
    """Return our configuration for the shape in the settings."""
    from models.config import DecoderConfig

    return DecoderConfig(
        vocab_size=settings["vocabulary"],
        layers=settings["layers"],
        width=settings["width"],
        heads=settings["heads"],
        kv_heads=settings["kv_heads"],
        ffn=settings["ffn"],
        max_seq_len=settings["length"],
        end_of_text=END_OF_TEXT,
    )


def batches(settings: Settings, *, packed: bool) -> torch.Tensor:
    """Return token ids int64 [S, B, T + 1], deterministic given the seed; END_OF_TEXT starts every document.

    A sample is one document; if `packed`, several of random lengths, on average about the settings' `document` tokens.
    """
    import torch

    generator = np.random.default_rng(settings["seed"])
    shape = (settings["warm_up"] + settings["steps"], settings["batch_size"], settings["length"] + 1)
    ids_SBT = generator.integers(1, settings["vocabulary"], shape)
    ids_SBT[..., 0] = END_OF_TEXT
    if packed:
        for row_T in ids_SBT.reshape(-1, shape[-1]):
            place = 0
            while place < len(row_T) - 1:
                row_T[place] = END_OF_TEXT
                place += max(SHORTEST_DOCUMENT, int(generator.exponential(settings["document"])))
    return torch.from_numpy(ids_SBT)


def positions(ids_BT: torch.Tensor) -> torch.Tensor:
    """Return each token's position in its document, int64 [B, T]: how transformers recognizes packed documents."""
    import torch

    place_T = torch.arange(ids_BT.shape[1]).expand_as(ids_BT)
    start_BT = torch.where(ids_BT == END_OF_TEXT, place_T, 0).cummax(dim=1).values
    return place_T - start_BT


def llama(settings: Settings) -> Any:
    """Return transformers' LlamaForCausalLM with its default attention (sdpa), without a cache."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=settings["vocabulary"],
            hidden_size=settings["width"],
            intermediate_size=settings["ffn"],
            num_hidden_layers=settings["layers"],
            num_attention_heads=settings["heads"],
            num_key_value_heads=settings["kv_heads"],
            max_position_embeddings=settings["length"],
            rms_norm_eps=1e-5,
            use_cache=False,
            bos_token_id=END_OF_TEXT,
            eos_token_id=END_OF_TEXT,
        )
    )


def litgpt_with_losses(settings: Settings) -> Any:
    """Return litgpt's GPT with the interface of a Decoder: token ids and documents in, TokenLosses out.

    The loss is the chunked one of litgpt's own pretraining. litgpt cannot separate documents within a sample.
    """
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    from models.losses.cross_entropy import TokenLosses

    config = Config(
        name="Llama-benchmark",
        block_size=settings["length"],
        vocab_size=settings["vocabulary"],
        padded_vocab_size=settings["vocabulary"],
        n_layer=settings["layers"],
        n_head=settings["heads"],
        n_query_groups=settings["kv_heads"],
        n_embd=settings["width"],
        intermediate_size=settings["ffn"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        norm_eps=1e-5,
    )

    class WithLosses(torch.nn.Module):
        """litgpt's model and loss."""

        def __init__(self) -> None:
            super().__init__()
            self.model = GPT(config)
            self.model.apply(self.model._init_weights)

        def forward(self, ids_BS: torch.Tensor, documents: Any = None) -> TokenLosses:
            """Return the batch's summed loss, without losses per token."""
            mean = chunked_cross_entropy(self.model(ids_BS[:, :-1]), ids_BS[:, 1:])
            total = mean * (ids_BS.shape[0] * (ids_BS.shape[1] - 1))
            return TokenLosses(total, total.detach())

    return WithLosses()
