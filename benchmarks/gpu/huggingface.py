"""The same steps with transformers' LlamaForCausalLM in a plain loop: sdpa attention, bf16 autocast, fused AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.gpu.check import Check, Row, Skipped
from benchmarks.gpu.step import VOCABULARY, facts_of, model_of, timed


def checks(settings: Mapping[str, Any]) -> dict[str, Check]:
    """Return the measurement of one size, on one device."""
    device = torch.device(settings["device"])
    return {f"steps of {settings['model']}, Hugging Face": lambda: _measure(settings, device)}


def _measure(settings: Mapping[str, Any], device: torch.device) -> Row:
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise Skipped(f"transformers cannot be imported: {error}") from error
    config = model_of(settings, settings["model"])
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    facts = facts_of(settings, config, 1)
    torch.manual_seed(settings["seed"])
    llama = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.ffn,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=settings["seq_len"],
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tie_embeddings,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    try:
        with device:
            model = LlamaForCausalLM(llama)
        model.train()
        adamw = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        rows = settings["micro_batch_size"]
        generator = torch.Generator().manual_seed(settings["seed"])
        ids_BT = torch.randint(VOCABULARY - 1, (rows, settings["seq_len"]), generator=generator)

        def step() -> Any:
            ids = ids_BT.to(device, non_blocking=True)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adamw.step()
            adamw.zero_grad(set_to_none=True)
            return loss.detach()

        return facts | timed(step, settings, device, ids_BT.numel())
    except torch.OutOfMemoryError as error:
        return facts | {"out_of_memory": str(error).splitlines()[0]}
