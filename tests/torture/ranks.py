"""Ranks as threads of this process, and an engine of made-up tensors, to save and load without a launcher."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.config import DecoderConfig
from models.decoder import Decoder
from train.checkpoint.layout import KINDS
from train.distributed import collectives
from train.distributed.world import World
from train.engine import Fragment

CONFIG = DecoderConfig(vocab_size=32, layers=1, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=16, end_of_text=0)


@dataclass
class Hub:
    """Exchanges values between the threads."""

    size: int
    values: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size)

    def gather(self, rank: int, value: Any) -> list[Any]:
        """Return every rank's value, by rank."""
        self.values[rank] = value
        self.barrier.wait(60)
        found = [self.values[rank] for rank in range(self.size)]
        self.barrier.wait(60)
        return found


@dataclass(frozen=True)
class ThreadWorld(World):
    """A rank that is a thread."""

    hub: Hub = field(default_factory=lambda: Hub(1))

    def barrier(self) -> None:
        self.hub.gather(self.rank, None)

    def all_sum(self, values: Tensor) -> Tensor:
        total = sum(self.hub.gather(self.rank, values.clone()))
        assert isinstance(total, Tensor)
        return values.copy_(total)


def _gathered(text: bytes, world: World) -> list[bytes]:
    return world.hub.gather(world.rank, text) if isinstance(world, ThreadWorld) else [text]


def on_ranks(size: int, action: Callable[[World], Any]) -> list[Any]:
    """Run `action` on `size` ranks at once; return what each returned or raised, by rank."""
    hub = Hub(size)
    results: list[Any] = [None] * size

    def rank(number: int) -> None:
        try:
            results[number] = action(ThreadWorld(number, size, number, size, torch.device("cpu"), hub=hub))
        except Exception as error:
            results[number] = error

    before, collectives._all_gather = collectives._all_gather, _gathered
    try:
        threads = [threading.Thread(target=rank, args=(number,)) for number in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        collectives._all_gather = before
    return results


class MadeUpEngine:
    """The interface of an engine that checkpoints use, with a random state: this rank's share of every parameter."""

    def __init__(self, world: World, seed: int, config: DecoderConfig = CONFIG) -> None:
        self.world = world
        self.config = {"zero_optimization": {"stage": 1}}
        with torch.device("meta"):
            self.decoder = Decoder(config)
        self.count = seed
        self.filled_times = 0
        self.state: list[Fragment] = []
        rng = np.random.default_rng(seed)
        for name, parameter in self.decoder.named_parameters():
            whole = {kind: torch.from_numpy(rng.standard_normal(parameter.numel(), np.float32)) for kind in KINDS}
            low, high = (parameter.numel() * (world.rank + edge) // world.size for edge in (0, 1))
            if high > low:
                self.state.append(Fragment(name, low, {kind: part[low:high].clone() for kind, part in whole.items()}))

    def updates(self) -> int:
        return self.count

    def fragments(self) -> Iterator[Fragment]:
        yield from self.state

    outline = fragments

    def prepare_state(self, updates: int) -> None:
        self.count = updates
        for fragment in self.state:
            for tensor in fragment.tensors.values():
                tensor.fill_(float("nan"))

    def filled(self) -> None:
        self.filled_times += 1


def same_state(one: MadeUpEngine, other: MadeUpEngine) -> bool:
    """Return whether two engines of the same shape have bitwise equal states."""
    return one.count == other.count and all(
        a.name == b.name and a.start == b.start and all(torch.equal(a.tensors[kind], b.tensors[kind]) for kind in KINDS)
        for a, b in zip(one.state, other.state, strict=True)
    )


def save_step(checkpoints: Any, world: World, step: int, engine: Any = None, **changes: Any) -> Any:
    """Save the made-up state of a step, whose seed is the step."""
    from train import checkpoint

    facts = {"cursor": step * 8, "consumed_hash": f"{step:016x}", "tokens": step * 100, "config": {}, "inputs": {}}
    engine = engine or MadeUpEngine(world, step)
    return checkpoint.save(checkpoints, engine, world, step=step, **{**facts, **changes})


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings about intentional damage."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
