"""Two checks of a foreign model before it scores: is it causal, and is its head a plain matrix product?

Shapes: R rows, L tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LENGTH = 16
"""Tokens per probe row."""

TOLERANCE = {torch.float32: 1e-3}
OTHER_TOLERANCE = 0.1
"""Largest difference between logits of the same tokens, relative to their spread, that counts as rounding, by dtype."""


def probe_ids(vocab_size: int, limit: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return two rows of random tokens and their attention mask; the second row is half padding."""
    length = min(LENGTH, limit or LENGTH)
    ids_RL = torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    mask_RL = torch.ones_like(ids_RL)
    mask_RL[1, (length + 1) // 2 :] = 0
    return ids_RL.to(device), mask_RL.to(device)


def check_causal(model: Any, ids_RL: Tensor, mask_RL: Tensor, name: str) -> Tensor:
    """Return the logits of the probe, [R, L, V].

    Raises ValueError if the model does not run, or if the first half of the tokens gets different logits than when run
    without the rest: the model then attends to later tokens or to padding.
    """
    half = (ids_RL.shape[1] + 1) // 2
    try:
        whole_RLV = model(input_ids=ids_RL, attention_mask=mask_RL, use_cache=False).logits
        half_run = model(input_ids=ids_RL[:, :half], attention_mask=torch.ones_like(ids_RL[:, :half]), use_cache=False)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name}: {type(model).__name__} of transformers does not run on rows of tokens ({error}): restore its "
            "config.json, or use another model"
        ) from error
    half_RLV = half_run.logits.float()
    apart = (whole_RLV[:, :half].float() - half_RLV).norm()
    spread = (half_RLV - half_RLV.mean(dim=-1, keepdim=True)).norm()
    allowed = TOLERANCE.get(model.dtype, OTHER_TOLERANCE)
    if apart > allowed * spread:  # NaN weights pass here: scoring reports them
        raise ValueError(
            f"{name} is not causal: logits change when more tokens follow (by {float(apart / spread):.2g} of their "
            f"spread, {allowed} would be rounding); use a model that predicts the next token"
        )
    return whole_RLV


def plain_head(model: Any, ids_RL: Tensor, mask_RL: Tensor, logits_RLV: Tensor) -> tuple[nn.Module, nn.Linear] | None:
    """Return the model's body and head if the logits are bitwise equal to head(body), else None.

    None covers models that scale or cap their logits, or transform the last hidden state before the head.
    """
    body, head = model.base_model, model.get_output_embeddings()
    if body is model or type(head) is not nn.Linear:
        return None
    hidden_RLW = getattr(body(input_ids=ids_RL, attention_mask=mask_RL, use_cache=False), "last_hidden_state", None)
    if hidden_RLW is None or hidden_RLW.shape[-1] != head.in_features:
        return None
    return (body, head) if torch.equal(head(hidden_RLW).to(logits_RLV.dtype), logits_RLV) else None
