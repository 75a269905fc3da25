"""A Llama-family decoder: token ids in, per-token losses out.

Shapes: B sequences, T tokens (S = T + 1 with the last label), N = B * T, W width, V vocabulary, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.attention import Documents, pack
from models.block_runner import BlockRunner
from models.config import DecoderConfig, Lora
from models.execution import ExecutionSettings
from models.kernels import Kernels, choose
from models.kernels.interface import IGNORED, Rotary
from models.losses.cross_entropy import TokenLosses, linear_cross_entropy
from models.losses.label_losses import label_losses
from models.rotary import rotary_table


class RMSNorm(nn.Module):
    """Divide by the root of the mean square, in float32 (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_BTW: Tensor, kernels: Kernels) -> Tensor:
        """Return the normalised stream in the input's dtype."""
        return kernels.rms_norm(x_BTW, self.weight, self.eps)


class Attention(nn.Module):
    """The projections of causal grouped-query self-attention; attention itself is a backend (models/attention)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        query_width, kv_width = config.heads * config.head_size, config.kv_heads * config.head_size
        self.head_size = config.head_size
        self.q = nn.Linear(config.width, query_width, bias=False)
        self.k = nn.Linear(config.width, kv_width, bias=False)
        self.v = nn.Linear(config.width, kv_width, bias=False)
        self.o = nn.Linear(query_width, config.width, bias=False)

    def qkv(self, x_BTW: Tensor, rotary: Rotary, kernels: Kernels) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries [N, H, S], rotated keys and values [N, K, S]."""
        B, T, _ = x_BTW.shape
        q_BTHS, k_BTKS, v_BTKS = (project(x_BTW).view(B, T, -1, self.head_size) for project in (self.q, self.k, self.v))
        q_BTHS, k_BTKS = kernels.rotate(q_BTHS, k_BTKS, rotary)
        return q_BTHS.flatten(0, 1), k_BTKS.flatten(0, 1), v_BTKS.flatten(0, 1)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.ffn, bias=False)
        self.up = nn.Linear(config.width, config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x_BTW: Tensor, kernels: Kernels) -> Tensor:
        """Return down(silu(gate(x)) * up(x)), [B, T, W]."""
        return self.down(kernels.swiglu(self.gate(x_BTW), self.up(x_BTW)))


class Block(nn.Module):
    """A pre-norm transformer block: attention, then feed-forward.

    Split into two parts, before and after attention, so that either can be compiled or recomputed
    (models/block_runner.py).
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.width, config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, x_BTW: Tensor, *, number: int, runner: BlockRunner) -> Tensor:
        """Return the stream after the block, which is the `number`-th one, run as `runner` is set to."""
        return runner.run(self, number, x_BTW)

    def qkv(self, x_BTW: Tensor, rotary: Rotary, kernels: Kernels) -> tuple[Tensor, Tensor, Tensor]:
        """Return the inputs of attention: queries [N, H, S], keys and values [N, K, S]."""
        return self.attention.qkv(self.attention_norm(x_BTW, kernels), rotary, kernels)

    def finish(self, x_BTW: Tensor, out_NHS: Tensor, kernels: Kernels) -> Tensor:
        """Add attention's output, then the feed-forward's; return the stream after the block, [B, T, W]."""
        x_BTW = x_BTW + self.attention.o(out_NHS.reshape(*x_BTW.shape[:2], -1))
        return x_BTW + self.ffn(self.ffn_norm(x_BTW, kernels), kernels)


class Decoder(nn.Module):
    """The language model. Parameters are named as in `models/huggingface/names.py`."""

    def __init__(self, config: DecoderConfig, execution: ExecutionSettings | None = None) -> None:
        super().__init__()
        self.config = config
        self.execution = execution or ExecutionSettings()
        self.lora: Lora | None = None
        """Its adapters, if it has any (models/lora.py)."""
        # With a weight of its own, nothing is drawn: on the meta device that would load torch's compiler (2 s).
        self.embedding = nn.Embedding(*(size := (config.vocab_size, config.width)), _weight=torch.empty(size))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        ids_BS: Tensor,
        documents: Documents | None = None,
        positions_BT: Tensor | None = None,
        weights_BT: Tensor | None = None,
        places_A: Tensor | None = None,
        labels_A: Tensor | None = None,
    ) -> TokenLosses:
        """Return the losses of predicting `ids_BS[:, 1:]` from `ids_BS[:, :-1]`.

        `ids_BS` is int64 [B, T + 1]; rows may be right-padded with IGNORED, and those labels cost nothing. `documents`
        are those of the inputs (`Documents.of`), if the caller already has them; `positions_BT` are integer position
        ids for RoPE, 0 .. T - 1 in every row if None. `weights_BT`, float32, is the weight of each label in the total
        (`linear_cross_entropy`), 1 if None. A label that is `config.input_only` costs nothing.

        With `places_A`, int64, the only labels are `labels_A`, each predicted from the input at that place of the
        flattened `ids_BS[:, :-1]`. Then `losses_BT` is [A] and differentiable, and `total` is not: for losses that are
        no sum over labels. z-loss and weights do not apply.
        """
        if places_A is not None and labels_A is not None:
            hidden_BTW = self.hidden(ids_BS[:, :-1], documents, positions_BT)
            kernels = choose(self.execution.kernels, ids_BS.device.type)
            losses_A = label_losses(hidden_BTW.flatten(0, 1)[places_A], self.head.weight, labels_A, kernels)
            return TokenLosses(losses_A.detach().sum(), losses_A)
        ids_BT, labels_BT = ids_BS[:, :-1], ids_BS[:, 1:]
        if self.config.input_only is not None:
            labels_BT = labels_BT.masked_fill(labels_BT == self.config.input_only, IGNORED)
        hidden_BTW = self.hidden(ids_BT, documents, positions_BT)
        total, losses_N = linear_cross_entropy(
            hidden_BTW.flatten(0, 1),
            self.head.weight,
            labels_BT.flatten(),
            weights_N=None if weights_BT is None else weights_BT.flatten(),
            z_loss=self.config.z_loss,
            kernels=choose(self.execution.kernels, ids_BS.device.type),
        )
        return TokenLosses(total, losses_N.view(labels_BT.shape))

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary."""
        return self.config.vocab_size

    def parameter_count(self) -> int:
        """Return the number of parameters; shared ones count once."""
        return self.config.parameter_count()

    @torch.inference_mode()
    def losses(self, ids_BS: Tensor, documents: Documents | None = None) -> Tensor:
        """Return each label's loss, float32 [B, T], without gradients; `ids_BS` is as in `forward`, on any device."""
        if documents is None and not ids_BS.is_cuda:  # found on the host, which avoids a host-device sync
            documents = Documents.of(ids_BS[:, :-1], self.config.end_of_text)
        return self(ids_BS.to(self.embedding.weight.device), documents).losses_BT

    def logits(self, ids_BT: Tensor) -> Tensor:
        """Return next-token logits in float32, [B, T, V]."""
        return self.head(self.hidden(ids_BT)).float()

    def hidden(self, ids_BT: Tensor, documents: Documents | None = None, positions_BT: Tensor | None = None) -> Tensor:
        """Return the last hidden state of every token after the final norm, [B, T, W]; arguments as in `forward`."""
        if documents is None:
            documents = Documents.of(ids_BT, self.config.end_of_text)
        weight = self.norm.weight  # any parameter would do; with ZeRO 3, looking at this small one is free
        gradients = torch.is_grad_enabled() and (weight.requires_grad or self.lora is not None)
        packed = pack(
            documents, self.config.attention, self.config.head_size, weight.dtype, ids_BT.device, gradients=gradients
        )
        rotary = rotary_table(self.config, ids_BT.shape[1], ids_BT.device, positions_BT)
        kernels = choose(self.execution.kernels, ids_BT.device.type)
        runner = BlockRunner(self.execution, kernels, rotary, packed.attend)
        return self.norm(self.run_blocks(runner, self.embedding(ids_BT.clamp(min=0))), kernels)

    def run_blocks(self, runner: BlockRunner, x_BTW: Tensor) -> Tensor:
        """Return the stream after the last block."""
        for number, layer in enumerate(self.layers):
            x_BTW = layer(x_BTW, number=number, runner=runner)
        return x_BTW


def empty(
    config: DecoderConfig, execution: ExecutionSettings | None = None, device: torch.device | str = "cpu"
) -> Decoder:
    """Return a decoder whose float32 weights are allocated, but not set."""
    with torch.device("meta"):
        decoder = Decoder(config, execution)
    for module in decoder.modules():  # Module.to_empty would load torch's symbolic shapes and sympy (1 s)
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device=device)))
    if config.tie_embeddings:
        decoder.head.weight = decoder.embedding.weight
    return decoder


def build(config: DecoderConfig, seed: int, execution: ExecutionSettings | None = None) -> Decoder:
    """Return a decoder with newly initialised float32 weights, which depend only on the config's shape and `seed`.

    Matrices are normal with standard deviation sqrt(2 / (5 * width)), 0.014 at a width of 2048 (Nguyen and Salazar,
    arXiv 1910.05895; as in GPT-NeoX). Those that write to the residual stream are divided by sqrt(2 * layers), as in
    GPT-2. Norms are one.
    """
    std = (2 / (5 * config.width)) ** 0.5
    decoder = empty(config, execution)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in decoder.named_parameters():
        with torch.no_grad():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
                continue
            residual = name.endswith(("attention.o.weight", "ffn.down.weight"))
            parameter.normal_(0.0, std / (2 * config.layers) ** 0.5 if residual else std, generator=generator)
    return decoder
