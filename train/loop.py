"""The loop: fetch, forward, backward, step, (return unless logging), log.

Every stage ends with a checkpoint and an evaluation. In between, checkpoints are written at the configured interval and
when a signal asks the run to stop. Everything else in a step is done by hooks (train/hooks).
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curriculum.order.consumed import as_hex, joined
from curriculum.work.threads import prefetched
from train.batches import Batch, batches
from train.distributed.out_of_memory import needing
from train.distributed.signals import Left
from train.faults import fault
from train.hooks.hook import Hook
from train.loop_state import LoopState, Window
from train.objectives import Objective
from train.tracking import Record
from train.tracking.console import on_terminal, one_line, width

log = logging.getLogger(__name__)


@dataclass
class Loop(LoopState):
    """A run in progress. `run` trains from `progress` to the end of the order."""

    hooks: list[Hook]
    """Called in list order."""
    objective: Objective
    """What the run minimises; also the last hook."""
    save: Callable[[Loop], Path]
    """Writes a checkpoint of the current step."""
    load_newest: Callable[[Loop], int | None]
    """Loads the newest checkpoint; returns its step, or None if there is none."""
    evaluate: Callable[[Loop, int], None]
    """Called with the stage number after the checkpoint of its last step."""

    def run(self) -> None:
        """Train until every sample of the order is consumed or the objective is reached.

        Raises Left if a signal ends the run first.
        """
        order, settings, objective, step = self.inputs.order, self.settings, self.objective, self.progress.step
        upcoming = batches(order, self.inputs.tokens, self.world, settings.micro_batch_size, step, objective)
        for hook in self.hooks:
            hook.pre_train(self)
        if objective.reached(self):  # an earlier attempt reached it but was interrupted before the export
            return
        with self.signals.holding():  # between steps too: some steps are in no checkpoint yet
            for batch in self._timed(prefetched(upcoming)):
                self.signals.ask(self.world)
                with needing(f"step {batch.step + 1}"):
                    self.train_step(batch)
                leaves = self.signals.answer()
                step, ended = self.progress.step, self.ended_stage()
                self.watchdog.beat(f"step {step}")
                if step % settings.log_every == 0 or ended:
                    self.record(self.summarise())
                    self.window = Window.opened(step, self.world.device)
                if self.save_due or settings.checkpoints.due(step) or leaves or ended:
                    self.checkpoint()
                    self.save_due = False
                    self.signals.ask(self.world)  # one may have arrived while the checkpoint was written
                    leaves = leaves or self.signals.answer()
                if leaves:
                    raise Left(leaves, step)
                if ended:
                    self.evaluate(self, ended)
                    if objective.reached(self):
                        return

    def ended_stage(self) -> int | None:
        """Return the number (from 1) of the stage that the last step ends, if any; the objective may end it early."""
        ends, step = self.inputs.order.stage_ends, self.progress.step
        return bisect_left(ends, step) + 1 if step in ends or self.objective.reached(self) else None

    def train_step(self, batch: Batch) -> None:
        """Consume one global batch: forward and backward for every micro-batch, then one weight update.

        Reads nothing from a GPU, which itself decides whether to skip the update; `guards.spike` adds a read.
        """
        for hook in self.hooks:
            hook.pre_step(self, batch)
        self.engine.set_learning_rate(self.inputs.schedule(batch.step))
        losses_N: list[torch.Tensor] = []
        for index, micro in enumerate(batch.micro_batches):
            if index > 0:
                self.engine.step()  # counts the previous micro-batch; the update follows the last one
            with needing("the forward pass: activations and logits"):
                losses = self.objective.losses(self.engine, micro)
                for hook in self.hooks:
                    losses = hook.post_forward(self, batch, index, losses) or losses
            with needing("the backward pass: activations and gradients"):
                self.engine.backward(losses.total / batch.global_count)
            losses_N.append(losses.losses_BT.sum(dim=1, dtype=torch.float64))
        self.losses_N = torch.cat(losses_N)[: len(batch.ids)]  # drop padding rows: they come last and have zero loss
        vetoes = [hook.pre_optim_step(self) for hook in self.hooks]  # no short circuit: every hook must run
        with needing("the update: gradients and optimizer"):
            self.engine.step(*(veto for veto in vetoes if veto is not None))
        self.left_out = self.engine.stayed
        moved = self.left_out == 0
        self.window.loss += torch.where(moved, self.losses_N.sum(), 0.0)
        self.window.count += moved * batch.global_count
        for hook in self.hooks:
            hook.post_optim_step(self)
        self.consumed.append(batch.step, batch.ids, batch.own_hash)
        self.progress.step += 1
        self.progress.tokens += batch.global_tokens
        self.progress.consumed_hash = joined(self.progress.consumed_hash, batch.global_hash)
        for hook in self.hooks:
            hook.post_step(self, batch)

    def checkpoint(self) -> Path:
        """Write a checkpoint of the current step; return its folder."""
        with self.watchdog.slow(f"the checkpoint of step {self.progress.step}"):
            folder = self.save(self)
        for hook in self.hooks:
            hook.post_checkpoint(self, folder)
        return folder

    def restore(self) -> int | None:
        """Load the weights of the newest checkpoint; return its step, or None if there is none."""
        return self.load_newest(self)

    def state(self) -> dict[str, dict[str, Any]]:
        """Return the state of the window (under "loop") and of every hook as JSON values. Call it on every rank."""
        return {"loop": self.window.state(self.world)} | {hook.name: hook.state() for hook in self.hooks}

    def load_state(self, states: dict[str, dict[str, Any]]) -> None:
        """Load what `state` returned, at any world size. A hook without saved state starts fresh."""
        self.window = Window.opened(self.progress.step, self.world.device)
        if "loop" in states:
            self.window.load_state(states["loop"], self.world)
        for hook in self.hooks:
            if hook.name in states:
                hook.load_state(states[hook.name])

    def summarise(self) -> Record:
        """Return the record of the steps since the last record: the only host-device and rank sync of a normal step."""
        order, step, window = self.inputs.order, self.progress.step, self.window
        taken = slice(window.first_step, step)
        record: Record = {
            "kind": "train",
            "step": step,
            "tokens": self.progress.tokens,
            **self.objective.summary(window.mean_loss(self.world)),
            "optim/lr": self.inputs.schedule(step - 1),
            "optim/grad_norm": float(self.engine.gradient_norm()),
            "data/cursor": self.cursor,
            "data/consumed_hash": as_hex(self.progress.consumed_hash),
            "curriculum/progress": step / order.steps,
        }
        for table, name in ((order.plan, "planned"), (order.counts, "realised")):
            shares = table[taken].sum(axis=0)
            shares /= shares.sum()
            record |= {
                f"curriculum/{name}/{bucket.name}": float(share)
                for bucket, share in zip(order.buckets, shares, strict=True)
            }
        for hook in self.hooks:
            record |= hook.metrics(self)
        return record

    def record(self, record: Record) -> None:
        """Write a record to metrics.jsonl, the tracker and the log (rank 0 only)."""
        fault("loop.before_record")
        if self.metrics is None:
            return
        self.metrics.append(record)
        self.tracker.log(record)
        log.info(one_line(record, self.inputs.order.steps, colour=on_terminal(), letters=width()))

    def _timed(self, upcoming: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches and add up the time the loop waits for them."""
        while True:
            began = time.perf_counter()
            batch = next(upcoming, None)
            self.window.waited_s += time.perf_counter() - began
            if batch is None:
                return
            yield batch
