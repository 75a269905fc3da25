"""The engine on one rank (DeepSpeed ZeRO 0 to 3, offloading) compared with a plain bf16 loop around torch's AdamW."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.check import Check, Row
from models.attention import Documents
from models.config import DecoderConfig
from models.decoder import build
from train.config.compose import compose
from train.distributed.world import World
from train.engine import Engine, parameter_groups
from train.engine.communication import start
from train.hooks.later import Later
from train.settings import OptimizerSettings, TrainSettings

CONFIG = DecoderConfig(
    vocab_size=512, layers=2, width=128, heads=2, kv_heads=1, ffn=352, max_seq_len=128, end_of_text=0
)
BATCH, MICRO_BATCH, STEPS = 4, 2, 4
WORDS = ("output=none", "arm=check", "data.tokens=none", "data.order=none", "tracker=none", "precision=bf16")
LOSS_BOUND, NORM_BOUND = 2e-3, 1e-2
"""Largest relative difference of a step's loss and of its gradient norm. A micro-batch that is not counted, or a mean
taken twice, changes the norm by a factor."""
WAYS: dict[str, tuple[str, ...]] = {
    **{f"ZeRO {stage}": (f"zero.stage={stage}",) for stage in range(4)},
    **{f"ZeRO {stage}, AdamW on the CPU": (f"zero.stage={stage}", "zero.offload_optimizer=cpu") for stage in (1, 2, 3)},
    "ZeRO 3, AdamW and weights on the CPU": (
        "zero.stage=3",
        "zero.offload_optimizer=cpu",
        "zero.offload_param=cpu",
    ),
    "ZeRO 1, recomputed": ("zero.stage=1", "execution.checkpointing=selective"),
    "ZeRO 1, compiled": ("zero.stage=1", "execution.compile=true"),
    "ZeRO 3, compiled": ("zero.stage=3", "execution.compile=true"),
}


def checks(settings: Mapping[str, Any]) -> dict[str, Check]:
    """Return the checks by name."""
    device = torch.device(settings["device"])
    ways = {name: words for name, words in WAYS.items() if settings["compile"] or "execution.compile=true" not in words}
    made: dict[str, Check] = {f"engine, {name}": partial(_way, words) for name, words in ways.items()}
    made["engine, skipped step"] = _skipped_step
    made["engine, checkpoint"] = _checkpoint
    made["values read later"] = partial(_later, device)
    return made


@cache
def _world() -> World:
    return start()


@contextmanager
def _engine(words: tuple[str, ...]) -> Iterator[Engine]:
    run = compose("train", TrainSettings, [*WORDS, f"micro_batch_size={MICRO_BATCH}", *words])
    engine = Engine(build(CONFIG, 0, run.execution), run, BATCH, _world())
    try:
        yield engine
    finally:
        engine.destroy()


@cache
def _batches() -> list[list[tuple[Tensor, Documents]]]:
    """Return every step's micro-batches, on the device, with their documents."""
    generator = torch.Generator().manual_seed(1)
    ids_SBT = torch.randint(CONFIG.vocab_size, (STEPS, BATCH, CONFIG.max_seq_len + 1), generator=generator)
    ids_SBT[torch.rand(ids_SBT.shape, generator=generator) < 1 / 32] = 0
    parts = [ids_BT.split(MICRO_BATCH) for ids_BT in ids_SBT]
    device = _world().device
    return [[(ids.to(device), Documents.of(ids[:, :-1], CONFIG.end_of_text)) for ids in step] for step in parts]


def _step(engine: Engine, batch: list[tuple[Tensor, Documents]], *left_out: Tensor) -> tuple[float, float]:
    """Run one step; return its mean loss and its gradient norm."""
    tokens = BATCH * CONFIG.max_seq_len
    total = 0.0
    for ids_BS, documents in batch:
        losses = engine(ids_BS, documents)
        engine.backward(losses.total / tokens)
        total += float(losses.total)
    norm = float(engine.gradient_norm())
    engine.step(*left_out)
    return total / tokens, norm


def _way(words: tuple[str, ...]) -> Row:
    with _engine(words) as engine:
        found = [_step(engine, batch) for batch in _batches()]
    expected = _plain()
    losses, norms = ([abs(a[n] / b[n] - 1) for a, b in zip(found, expected, strict=True)] for n in (0, 1))
    facts = {"losses": [loss for loss, _ in found], "norms": [norm for _, norm in found], "norm_error": max(norms)}
    worst = max(max(losses) / LOSS_BOUND, max(norms) / NORM_BOUND)
    return {"error": worst * LOSS_BOUND, "bound": LOSS_BOUND, "loss_error": max(losses), **facts}


@cache
def _plain() -> list[tuple[float, float]]:
    """Return losses and norms of a loop without DeepSpeed: float32 masters and gradient sums, a bf16 copy computes."""
    device, settings = _world().device, OptimizerSettings()
    masters, working = build(CONFIG, 0).to(device), build(CONFIG, 0).to(device, torch.bfloat16)
    adamw = torch.optim.AdamW(
        parameter_groups(masters, settings), lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps
    )
    tokens, found = BATCH * CONFIG.max_seq_len, []
    for batch in _batches():
        sums = [torch.zeros_like(master) for master in masters.parameters()]
        total = 0.0
        for ids_BS, documents in batch:
            losses = working(ids_BS, documents)
            (losses.total / tokens).backward()
            total += float(losses.total)
            for into, weight in zip(sums, working.parameters(), strict=True):
                assert weight.grad is not None
                into += weight.grad.float()
                weight.grad = None
        norm = torch.stack([each.square().sum() for each in sums]).sum().sqrt()
        found.append((total / tokens, float(norm)))
        for master, each in zip(masters.parameters(), sums, strict=True):
            master.grad = each * (settings.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        adamw.step()
        with torch.no_grad():
            for weight, master in zip(working.parameters(), masters.parameters(), strict=True):
                weight.copy_(master)
    return found


def _state(engine: Engine) -> list[Tensor]:
    return [tensor.detach().cpu().clone() for part in engine.fragments() for tensor in part.tensors.values()]


def _skipped_step() -> Row:
    """A step that a guard refuses must leave weights and moments bit-identical, and the next one must change them."""
    with _engine(("zero.stage=1",)) as engine:
        _step(engine, _batches()[0])
        before = _state(engine)
        _step(engine, _batches()[1], torch.ones((), device=_world().device))
        after = _state(engine)
        _step(engine, _batches()[1])
        moved = _state(engine)
    changed = sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    stuck = sum(torch.equal(a, b) for a, b in zip(after, moved, strict=True))
    return {"error": float(changed + stuck), "bound": 0.0}


def _checkpoint() -> Row:
    """A checkpoint of the device's state must load bit-identical into a fresh engine, of another ZeRO stage."""
    from train import checkpoint

    facts: dict[str, Any] = {"config": {}, "inputs": {}, "consumed_hash": "0" * 16}
    with tempfile.TemporaryDirectory(prefix="pdpc-gpu-") as folder, _engine(("zero.stage=1",)) as engine:
        _step(engine, _batches()[0])
        checkpoint.save(Path(folder), engine, _world(), step=1, cursor=BATCH, tokens=1, **facts)
        saved = {(p.name, kind): t.detach().cpu().clone() for p in engine.fragments() for kind, t in p.tensors.items()}
        with _engine(("zero.stage=2", "seed=1")) as other:
            newest = checkpoint.newest(Path(folder))
            assert newest is not None
            checkpoint.load(newest, other)
            read = {(p.name, kind): t.detach().cpu() for p in other.fragments() for kind, t in p.tensors.items()}
    wrong = sum(not torch.equal(saved[key], read[key]) for key in saved)
    return {"error": float(wrong + (saved.keys() != read.keys())), "bound": 0.0, "tensors": len(saved)}


def _later(device: torch.device) -> Row:
    """Values copied to pinned memory without waiting must be those of their moment, whatever is computed afterwards."""
    values = torch.arange(64, dtype=torch.float32, device=device)
    later = []
    for _ in range(20):
        values = values * 1.5 - values.roll(1)
        later.append((Later(values), values.clone()))
    wrong = sum(taken.read() != kept.tolist() for taken, kept in later)
    return {"error": float(wrong), "bound": 0.0}
