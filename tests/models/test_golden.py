"""Losses that code changes must not move.

Fifty steps of a tiny decoder on packed documents in float32 are replayed and compared with tests/models/golden. A
change that moves them on purpose regenerates the files and says so in the changelog:

    PDPC_RENEW_GOLDEN=1 python -m pytest tests/models/test_golden.py
"""

import json
import os
from pathlib import Path

import pytest
import torch

from models.config import DecoderConfig
from models.decoder import Decoder, build
from models.execution import ExecutionSettings

GOLDEN = Path(__file__).parent / "golden"
STEPS = 50
BASE = {"vocab_size": 97, "layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "ffn": 48, "max_seq_len": 64}
VARIANTS = {"untied": {}, "tied_z_loss": {"tie_embeddings": True, "z_loss": 1e-2}}
TOLERANCE = 1e-4
"""Relative: larger than what another CPU's summation order causes in 50 steps, smaller than any wrong formula."""


def batch(step: int) -> torch.Tensor:
    """Return 4 samples of 48 tokens: documents of 1 to 20 tokens, each counting up from a different token."""
    state = 1 + step
    rows = []
    for _ in range(4):
        row: list[int] = []
        while len(row) < 49:
            state = state * 1103515245 % 2**31 + 12345
            start, length = state // 7 % 96, 1 + state // 1009 % 20
            row += [0, *(1 + (start + 3 * place) % 96 for place in range(length))]
        rows.append(row[:49])
    ids = torch.tensor(rows)
    ids[0, 45:] = -100
    return ids


def replay(decoder: Decoder) -> list[float]:
    """Return the mean loss of every step, z-loss included, under AdamW."""
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    losses = []
    for step in range(STEPS):
        ids = batch(step)
        loss = decoder(ids).total / (ids[:, 1:] >= 0).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("variant", VARIANTS)
def test_fifty_steps_cost_what_they_always_cost(variant):
    config = DecoderConfig(**BASE, **VARIANTS[variant], end_of_text=0)
    losses = replay(build(config, seed=7))
    path = GOLDEN / f"{variant}.json"
    if os.environ.get("PDPC_RENEW_GOLDEN") == "1":
        facts = {"torch": torch.__version__, "config": {**BASE, **VARIANTS[variant]}, "seed": 7, "losses": losses}
        path.write_text(json.dumps(facts, indent=1) + "\n")
    kept = json.loads(path.read_text())
    assert len(kept["losses"]) == STEPS
    assert kept["losses"][-1] < 0.8 * kept["losses"][0]  # it learns: late losses depend on everything before
    assert losses == pytest.approx(kept["losses"], rel=TOLERANCE)


@pytest.mark.parametrize("execution", [ExecutionSettings(kernels="plain", checkpointing="selective")])
def test_how_it_runs_does_not_move_them(execution):
    config = DecoderConfig(**BASE, end_of_text=0)
    kept = json.loads((GOLDEN / "untied.json").read_text())
    assert replay(build(config, 7, execution)) == pytest.approx(kept["losses"], rel=TOLERANCE)


@pytest.mark.parametrize("changed", [{"norm_eps": 1e-2}, {"rope_theta": 12000.0}, {"z_loss": 1e-3}, {"end_of_text": 1}])
def test_a_small_change_would_be_seen(changed):
    config = DecoderConfig(**{**BASE, "end_of_text": 0, **changed})
    kept = json.loads((GOLDEN / "untied.json").read_text())
    assert replay(build(config, 7)) != pytest.approx(kept["losses"], rel=TOLERANCE)
