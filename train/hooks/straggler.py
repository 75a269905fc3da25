"""The straggler: detects, during training, a rank that the others wait for.

Ranks that train together take the same time per step, because they wait for each other. So each measures its own work:
its local time from waiting for data to the end of the step, without the calls that contain collectives. These times are
reduced between the hosts (a gloo group) while a step computes: neither a GPU nor a host waits for them.

Shapes: R ranks.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from train.distributed.collectives import Collectives
from train.hooks.clock import Clock, Mark
from train.hooks.hook import Hook
from train.settings import StragglerSettings

if TYPE_CHECKING:
    from models.losses.cross_entropy import TokenLosses
    from train.batches import Batch
    from train.loop_state import LoopState, Window
    from train.tracking import Record

log = logging.getLogger(__name__)

EVERY = 5
"""Steps per observation, which is their median."""
IN_A_ROW = 3
"""Observations after which a rank counts as slow, or as one that keeps up again."""
LEAST_SHARE = 0.05
"""A rank that delays a step by a smaller share than this is not reported, whatever its factor."""
LEAST_S, CLEAR_SHARE = 10.0, 0.5
"""It must last this long unless it delays a step by at least this share: a busy machine delays ranks for moments."""


@dataclass(frozen=True)
class Change:
    """A rank that has become slow, or keeps up again."""

    rank: int
    slow: bool
    factor: float
    """In the last observation."""
    share: float
    """Share of a step for which the others wait for it, in the last observation."""
    since: int
    """Step after which the change began."""


class Detector:
    """Judges the ranks by their own work, observation by observation."""

    def __init__(self, ranks: int, factor: float) -> None:
        self._least = factor
        self._against = [0] * ranks
        self._since = [0] * ranks
        self._against_s = [0.0] * ranks
        self._slow = [False] * ranks
        self.factor = 1.0
        """The slowest rank's factor in the last observation."""
        self.slowest: int | None = None
        """The slowest of the ranks that count as slow."""

    def observe(self, step: int, own_R: NDArray[np.float64], step_s: float) -> list[Change]:
        """Add each rank's own work in seconds per step, over the steps up to `step`; return the changes."""
        others_R = median_of_others(own_R)
        factor_R = own_R / np.maximum(others_R, 1e-9)
        share_R = (own_R - others_R) / max(step_s, 1e-9)
        slow_R = (factor_R >= self._least) & (share_R >= LEAST_SHARE)
        changes = []
        for rank, slow in enumerate(slow_R.tolist()):
            if slow == self._slow[rank]:
                self._against[rank] = 0
                continue
            if self._against[rank] == 0:
                self._since[rank], self._against_s[rank] = step - EVERY, 0.0
            self._against[rank] += 1
            self._against_s[rank] += EVERY * step_s
            lasts = self._against_s[rank] >= LEAST_S or share_R[rank] >= CLEAR_SHARE or not slow
            if self._against[rank] >= IN_A_ROW and lasts:
                self._slow[rank], self._against[rank] = slow, 0
                changes.append(Change(rank, slow, float(factor_R[rank]), float(share_R[rank]), self._since[rank]))
        self.factor = float(factor_R.max())
        called = [rank for rank, slow in enumerate(self._slow) if slow]
        self.slowest = max(called, key=lambda rank: float(own_R[rank]), default=None)
        return changes


@dataclass
class _Step:
    """One step's own work: seconds on the host's clock, and spans on the device's that may not have ended yet."""

    host_s: float = 0.0
    spans: list[tuple[Mark, Mark, int]] = field(default_factory=list)
    """Start, end, and how many times it counts."""
    wall_s: float = 0.0


class Straggler(Hook):
    """Names a slow rank, in a warning and in the records. Nothing is measured on a single rank.

    A forward pass counts as own work except at ZeRO 3, where weights are gathered in it: there the matrix products of
    one block, times the number of blocks, are used instead. A backward pass counts at ZeRO 0 and 1, except a step's
    last, in which gradients are reduced. Time between these and waiting for data always counts.
    Runs before all other hooks, which may contain collectives.
    """

    name = "straggler"

    def __init__(self, settings: StragglerSettings) -> None:
        assert settings.factor is not None
        self._factor = settings.factor
        self._detector: Detector | None = None
        self._clock = Clock(torch.device("cpu"))
        self._hosts: list[str] = []
        self._handles: list[Any] = []
        self._loop: LoopState | None = None
        self._window: Window | None = None
        self._waited_s = 0.0
        self._began = 0.0
        self._step: _Step | None = None
        self._last: Mark | None = None
        self._in_forward = False
        self._product: Mark | None = None
        self._done: deque[_Step] = deque()
        self._travelling: deque[tuple[int, torch.Tensor, Any]] = deque()

    def pre_train(self, loop: LoopState) -> None:
        """Gather the host names; hook the start of forward passes."""
        world = loop.world
        if world.size == 1:
            return
        self._loop, self._clock, self._detector = loop, Clock(world.device), Detector(world.size, self._factor)
        self._hosts = Collectives(world).gather("host names", socket.gethostname())
        decoder = loop.engine.decoder
        self._handles.append(decoder.register_forward_pre_hook(self._forward_begins, prepend=True))
        if loop.settings.zero.stage == 3 and not loop.settings.execution.compile:
            for module in decoder.layers[len(decoder.layers) // 2].modules():
                if isinstance(module, torch.nn.Linear):  # inside DeepSpeed's hooks that gather and free its weight
                    self._handles.append(module.register_forward_pre_hook(self._product_begins))
                    self._handles.append(module.register_forward_hook(self._product_ends, prepend=True))

    def pre_step(self, loop: LoopState, batch: Batch) -> None:
        """Start a step with the time spent waiting for its data."""
        if self._detector is None:
            return
        if self._window is not loop.window:
            self._window, self._waited_s = loop.window, 0.0
        waited_s = loop.window.waited_s - self._waited_s
        self._waited_s = loop.window.waited_s
        self._began = time.perf_counter()
        self._step, self._last = _Step(host_s=waited_s, wall_s=waited_s), None

    def _forward_begins(self, *_: object) -> None:
        if self._step is None or self._loop is None or self._in_forward:  # an objective may need several passes
            return
        mark = self._clock.mark()
        if self._last is None:
            self._step.host_s += time.perf_counter() - self._began
        elif self._loop.settings.zero.stage < 2:
            self._step.spans.append((self._last, mark, 1))  # a backward pass without collectives
        else:
            self._add_host_time(self._loop)
        self._last, self._in_forward = mark, True

    def _product_begins(self, *_: object) -> None:
        if self._in_forward:  # and not when it is computed again in a backward pass
            self._product = self._clock.mark()

    def _product_ends(self, *_: object) -> None:
        if self._in_forward and self._step is not None and self._product is not None and self._loop is not None:
            layers = len(self._loop.engine.decoder.layers)
            self._step.spans.append((self._product, self._clock.mark(), layers))

    def post_forward(self, loop: LoopState, batch: Batch, index: int, losses: TokenLosses) -> None:
        """End a forward pass."""
        if self._step is None or self._last is None:
            return
        mark = self._clock.mark()
        if loop.settings.zero.stage < 3:
            self._step.spans.append((self._last, mark, 1))
        else:
            self._add_host_time(loop)
        self._last, self._in_forward = mark, False

    def pre_optim_step(self, loop: LoopState) -> None:
        """Count the time since the last backward pass returned."""
        self._add_host_time(loop)

    def post_step(self, loop: LoopState, batch: Batch) -> None:
        """End the step; every fifth step, start to reduce the times, and read those that have arrived."""
        if self._step is None:
            return
        self._add_host_time(loop)
        self._step.wall_s += time.perf_counter() - self._began
        self._done.append(self._step)
        self._step = None
        if loop.progress.step % EVERY == 0:
            self._send(loop)
        while self._travelling and self._travelling[0][2].is_completed():
            self._receive(*self._travelling.popleft())

    def _add_host_time(self, loop: LoopState) -> None:
        """Count the host time since the engine's last call returned."""
        if self._step is not None:
            self._step.host_s += time.perf_counter() - loop.engine.returned_at

    def _send(self, loop: LoopState) -> None:
        """Start to send the other ranks the medians of the steps that the device has completed too. Nothing waits."""
        own, wall = [], []
        while self._done and all(self._clock.over(last) for _, last, _ in self._done[0].spans[-1:]):
            step = self._done.popleft()
            own.append(step.host_s + sum(self._clock.between(first, last) * n for first, last, n in step.spans))
            wall.append(step.wall_s)
        world = loop.world
        both_2R = torch.zeros(2, world.size, dtype=torch.float64)
        if own:
            both_2R[:, world.rank] = torch.tensor([np.median(own), np.median(wall)])
        work = dist.all_reduce(both_2R, group=world.hosts, async_op=True)
        self._travelling.append((loop.progress.step, both_2R, work))

    def _receive(self, step: int, both_2R: torch.Tensor, work: Any) -> None:
        work.wait()
        own_R, wall_R = both_2R.numpy()
        assert self._detector is not None
        assert self._loop is not None
        if not self._loop.world.first or not own_R.all():
            return  # only rank 0 logs; or a rank had no step completed on its device
        for change in self._detector.observe(step, own_R, float(np.median(wall_R))):
            log.warning("%s", message_of(change, self._hosts[change.rank], step))

    def metrics(self, loop: LoopState) -> Record:
        """Return the slowest rank, null while none counts as slow, and the factor of the last observation."""
        if self._detector is None:
            return {}
        return {"straggler/rank": self._detector.slowest, "straggler/factor": self._detector.factor}

    def close(self, loop: LoopState) -> None:
        """Remove the hooks from the decoder."""
        for handle in self._handles:
            handle.remove()


def median_of_others(own_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for every rank the median of the others' times; O(R log R)."""
    order = np.argsort(own_R, kind="stable")
    place_R = np.empty(len(own_R), dtype=np.int64)
    place_R[order] = np.arange(len(own_R))
    sorted_R, others = own_R[order], len(own_R) - 1
    low, high = (others - 1) // 2, others // 2
    # Without a rank's own time, those from its place on move up by one.
    found: NDArray[np.float64] = (sorted_R[low + (low >= place_R)] + sorted_R[high + (high >= place_R)]) / 2
    return found


def message_of(change: Change, host: str, step: int) -> str:
    """Return the log line for a change."""
    if not change.slow:
        return f"step {step}: rank {change.rank} ({host}) keeps up again since step {change.since}"
    return (
        f"step {step}: rank {change.rank} ({host}) is a straggler: its own work takes {change.factor:.1f} times as "
        f"long as the other ranks', since step {change.since}; they wait for it {change.share:.0%} of a step. Check "
        "other processes, clock rates and the disk of that host"
    )
