"""The loop: fetch, forward, backward, step, (return unless logging), log.

Every stage ends with a checkpoint and an evaluation.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from curriculum.consumed import as_hex, joined
from curriculum.split import cursor_after
from models.attention import Documents
from train.batches import Batch, ConsumedFile, batches
from train.engine import Engine
from train.inputs import Inputs
from train.settings import TrainSettings
from train.tracking import MetricsFile, Record, Tracker
from train.world import World

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has come: all the state that the loop has."""

    step: int = 0
    """Weight updates so far."""
    tokens: int = 0
    """Labels learned from so far."""
    consumed_hash: int = 0
    """Of every sample consumed so far, on all ranks (curriculum/consumed.py)."""


@dataclass
class Window:
    """What has been seen since the last record."""

    loss: torch.Tensor
    """Sum of this rank's token losses, in nats, on the device."""
    since: float
    tokens: int = 0
    first_step: int = 0


@dataclass
class Loop:
    """A run in motion. `run` trains from `progress` to the end of the order."""

    settings: TrainSettings
    inputs: Inputs
    engine: Engine
    world: World
    progress: Progress
    consumed: ConsumedFile
    metrics: MetricsFile | None
    """On rank 0 alone."""
    tracker: Tracker
    at_stage_end: Callable[[Loop, int], None]
    """Called with the stage's number after its last step."""

    @property
    def cursor(self) -> int:
        """Samples consumed so far by the weights, on all ranks: whole steps alone, whatever was fetched ahead."""
        order = self.inputs.order
        return cursor_after(self.progress.step, order.batch_size, len(order))

    def run(self) -> None:
        """Train until every sample of the order has been consumed."""
        order = self.inputs.order
        stage_ends = {step: stage for stage, step in enumerate(order.stage_ends, start=1)}
        upcoming = batches(order, self.inputs.tokens, self.world, self.settings.micro_batch_size, self.progress.step)
        window = self._window()
        for batch in upcoming:
            self.train_step(batch, window)
            step = self.progress.step
            if step % self.settings.log_every and step not in stage_ends:
                continue
            self.record(self.summarise(window))
            if step in stage_ends:
                self.at_stage_end(self, stage_ends[step])
            window = self._window()

    def train_step(self, batch: Batch, window: Window) -> None:
        """Consume one global batch: forward and backward for every micro-batch, one weight update.

        No host sync on a GPU.
        """
        self.engine.set_learning_rate(self.inputs.schedule(batch.step))
        for ids_BS in batch.micro_batches:
            documents = Documents.of(ids_BS[:, :-1], self.inputs.decoder.end_of_text)
            losses = self.engine(ids_BS.to(self.world.device, non_blocking=True), documents)
            self.engine.backward(losses.total / batch.global_tokens)
            self.engine.step()
            window.loss += losses.losses_BT.sum()
        self.consumed.append(batch)
        window.tokens += batch.global_tokens
        self.progress.step += 1
        self.progress.tokens += batch.global_tokens
        self.progress.consumed_hash = joined(self.progress.consumed_hash, batch.global_hash)

    def summarise(self, window: Window) -> Record:
        """Return the record of the steps since the last one; on a normal step ranks and host meet only here."""
        order, step = self.inputs.order, self.progress.step
        loss = float(self.world.all_sum(window.loss.double()).item()) / window.tokens
        elapsed_s = time.perf_counter() - window.since
        taken = slice(window.first_step, step)
        record: Record = {
            "kind": "train",
            "step": step,
            "tokens": self.progress.tokens,
            "train/loss": loss,
            "train/ppl": float(torch.tensor(loss).exp()),
            "optim/lr": self.inputs.schedule(step - 1),
            "optim/grad_norm": self.engine.gradient_norm(),
            "throughput/tokens_per_s": window.tokens / elapsed_s,
            "throughput/tokens_per_s_device": window.tokens / elapsed_s / self.world.size,
            "time/step_s": elapsed_s / (step - window.first_step),
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
        return record

    def record(self, record: Record) -> None:
        """Write a record to metrics.jsonl, the tracker and the log, from rank 0."""
        if self.metrics is None:
            return
        self.metrics.append(record)
        self.tracker.log(record)
        log.info(one_line(record, self.inputs.order.steps))

    def _window(self) -> Window:
        zero = torch.zeros((), dtype=torch.float32, device=self.world.device)
        return Window(zero, time.perf_counter(), first_step=self.progress.step)


def one_line(record: Record, steps: int) -> str:
    """Return a record as the line that people watch."""
    start = f"step {record['step']}/{steps}  tokens {record['tokens']:,}"
    if record["kind"] == "stage":
        shown = {
            key: value
            for key, value in record.items()
            if key in ("val/loss", "val/low_pd/loss", "val/high_pd/loss", "bench/avg")
        }
        values = "  ".join(f"{key} {value:.4f}" for key, value in shown.items())
        return f"{start}  stage {record['stage']}  {values}  ({record['time/evaluation_s']:.1f} s)"
    mix = " ".join(
        f"{key.rpartition('/')[2]} {value:.2f}"
        for key, value in record.items()
        if key.startswith("curriculum/realised/")
    )
    left_s = int((steps - record["step"]) * record["time/step_s"])
    return (
        f"{start}  loss {record['train/loss']:.4f}  lr {record['optim/lr']:.2e}  grad {record['optim/grad_norm']:.2f}  "
        f"{record['throughput/tokens_per_s']:,.0f} tok/s  mix {mix}  left {left_s // 60}:{left_s % 60:02d}"
    )
