"""A rank starts without torch's compiler, and its AdamW is torch's."""

import subprocess
import sys
from pathlib import Path

import torch

from train.engine.stand_ins import light_adamw

ROOT = Path(__file__).parents[3]


def test_light_adamw_updates_as_torchs_does() -> None:
    weights = [torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2)]
    more = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1, "fused": True}
    pair = [light_adamw([weights[0]], **more), torch.optim.AdamW([weights[1]], **more)]
    for step in range(4):
        for weight, adamw in zip(weights, pair, strict=True):
            weight.grad = (weight.detach() * 3 + step).clone()
            if step == 2:
                adamw.found_inf = torch.ones(())  # type: ignore[attr-defined]  # this step is skipped
            else:
                adamw.found_inf = torch.zeros(())  # type: ignore[attr-defined]
            adamw.step()
            adamw.zero_grad()
            assert weight.grad is None
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
    assert pair[0].state[weights[0]]["step"] == pair[1].state[weights[1]]["step"] == 3


def test_building_and_updating_a_decoder_loads_no_compiler() -> None:
    code = """
import sys, torch
from models import DecoderConfig
from models.decoder import build
from train.engine.stand_ins import light_adamw
decoder = build(DecoderConfig(vocab_size=16, layers=1, width=8, heads=2, kv_heads=1, ffn=8, max_seq_len=8), 0)
adamw = light_adamw(decoder.parameters(), fused=True)
decoder(torch.ones(1, 9, dtype=torch.int64)).total.backward()
adamw.step()
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
