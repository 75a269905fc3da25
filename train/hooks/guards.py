"""The guard: what is not finite, or leaps, never reaches the weights, and every rank decides alike.

The step is left out: weights and moments stay as they are, to the bit. Its samples count as consumed, since the order
is fixed, and stand in RUN/skipped.jsonl. What is not finite the device itself leaves out, and the host reads of it when
it has given the device the next step: it does not wait. Whether a loss leaps is for the host to say, which then waits
for the device once a step, after its last backward pass.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from curriculum.artifact.files import write_text
from curriculum.order.split import cursor_after
from train.distributed.exit_codes import GUARD_STOPPED
from train.hooks.hook import Hook
from train.hooks.later import Later
from train.hooks.spikes import SpikeDetector
from train.records.skipped import SKIPPED, skipped_until
from train.settings import GuardSettings

if TYPE_CHECKING:
    from train.batches import Batch
    from train.loop_state import LoopState
    from train.tracking import Record

log = logging.getLogger(__name__)

SHOWN = 16
"""Most samples that a message names; the file has all of them."""


class GuardStopped(RuntimeError):
    """Too many steps in a row were left out."""

    exit_code = GUARD_STOPPED


@dataclass(frozen=True)
class Judged:
    """A step whose verdict the host has not read yet."""

    step: int
    """Steps so far, this one included."""
    batch: Batch
    losses_N: Tensor
    """Loss of each of this rank's samples, in nats, on the device."""
    verdict: Later
    """Mean loss in nats, gradient norm, and what is not zero when the step was left out."""


class Guard(Hook):
    """Leaves out steps that are not finite or leap, names their samples, and stops the run when they do not end."""

    name = "guard"

    def __init__(self, settings: GuardSettings, folder: Path) -> None:
        self._settings = settings
        self._path = folder / SKIPPED
        self._spikes = SpikeDetector(settings.spike_sigma, settings.spike_window)
        self._counts = {"not_finite": 0, "spike": 0}
        self._in_row = 0
        self._verdict = torch.zeros(3)
        self._unread: deque[Judged] = deque()
        self._loop: LoopState | None = None

    def pre_train(self, loop: LoopState) -> None:
        """Forget the steps that an earlier life left out after its last checkpoint: they come again."""
        self._loop = loop
        if not loop.world.first or not self._path.exists():
            return
        kept = skipped_until(self._path, loop.progress.step)
        write_text(self._path, "".join(f"{line}\n" for line in kept))

    def pre_step(self, loop: LoopState, batch: Batch) -> None:
        """Keep what the step's loss is divided by."""
        self._batch = batch

    def pre_optim_step(self, loop: LoopState) -> Tensor:
        """Judge the step, on the device and the same on every rank; a spike is found by the host."""
        norm = loop.engine.gradient_norm().double()
        loss = loop.world.all_sum(loop.losses_N.sum()) / self._batch.global_count
        left_out = ~(torch.isfinite(loss) & torch.isfinite(norm)) & self._settings.finite
        if self._settings.spike != "off" and math.isfinite(float(loss)) and math.isfinite(float(norm)):
            left_out |= self._spikes.add(float(loss))
        self._verdict = torch.stack([loss, norm, left_out.double()])
        return left_out

    def post_step(self, loop: LoopState, batch: Batch) -> None:
        """Read the verdict of the step before, which the device has come to by now; a spike's at once."""
        self._unread.append(Judged(loop.progress.step, batch, loop.losses_N, Later(self._verdict)))
        self._read(loop, unread=1 if self._settings.spike == "off" else 0)

    def _read(self, loop: LoopState, unread: int = 0) -> None:
        """Put the steps that were left out on record, but for the last `unread`; go back, or stop, when it is time."""
        while len(self._unread) > unread:
            judged = self._unread.popleft()
            loss, norm, left_out = judged.verdict.read()
            if not left_out:
                self._in_row = 0
                continue
            reason = "spike" if math.isfinite(loss) and math.isfinite(norm) else "not_finite"
            self._in_row += 1
            self._counts[reason] += 1
            self._tell(loop, judged, reason, loss, norm)
            if reason == "spike" and self._settings.spike == "rollback":
                self._roll_back(loop)

    def _tell(self, loop: LoopState, judged: Judged, reason: str, loss: float, norm: float) -> None:
        """Put a step on record that was left out. Raises GuardStopped when it is one too many in a row."""
        suspects = self._suspects(loop, judged)
        order, step = loop.inputs.order, judged.step
        first, last = (cursor_after(steps, order.batch_size, len(order)) for steps in (step - 1, step))
        ids = order[first:last].tolist()
        entry = {"step": step, "reason": reason, **_told({"loss": loss, "grad_norm": norm}), "suspects": suspects}
        self._write(loop, {**entry, "samples": ids})
        text = f"step {step}: {reason.replace('_', ' ')} (loss {loss:.4g}, gradient norm {norm:.4g}); "
        text += f"samples {listed(suspects or ids)}"
        if self._in_row >= self._settings.stop_after:
            raise GuardStopped(
                f"{self._in_row} steps in a row were left out, the last at {text}. The weights are those before them. "
                f"{self._path} names every sample; pdpc inspect shows their text. Lower optimizer.lr, replan without "
                "them, or raise guards.stop_after, and run again: the run goes on from its last checkpoint"
            )
        if loop.world.first:
            log.warning("%s: the step is left out of the weights", text)

    def metrics(self, loop: LoopState) -> Record:
        """Return how many steps have been left out so far."""
        self._read(loop)
        return {f"guard/{reason}": float(count) for reason, count in self._counts.items()}

    def state(self) -> dict[str, Any]:
        """Return the counts and the last losses. Every rank calls this."""
        if self._loop is not None:
            self._read(self._loop)
        return {"counts": dict(self._counts), "in_row": self._in_row, "losses": list(self._spikes.losses)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self._counts = {**self._counts, **state["counts"]}
        self._in_row = state["in_row"]
        self._spikes = SpikeDetector(self._settings.spike_sigma, self._settings.spike_window, state["losses"])

    def _roll_back(self, loop: LoopState) -> None:
        """Take the weights of the last checkpoint; what was consumed since stays consumed and is on record."""
        with loop.watchdog.slow("going back to a checkpoint"):
            back = loop.restore()
        if back is None:
            if loop.world.first:
                log.warning("there is no checkpoint to go back to yet: the step is left out and nothing else")
            return
        order = loop.inputs.order
        positions = [cursor_after(back, order.batch_size, len(order)), loop.cursor]
        self._write(
            loop, {"step": loop.progress.step, "reason": "rollback", "weights_of_step": back, "positions": positions}
        )
        if loop.world.first:
            log.warning(
                "step %s: back to the weights of step %s; the samples of positions %s to %s are passed over",
                *(loop.progress.step, back, *positions),
            )
        loop.save_due = True  # else a run that is killed now would go back again

    def _suspects(self, loop: LoopState, judged: Judged) -> list[int]:
        """Return the samples whose own loss is not finite, of all ranks. Every rank calls this."""
        bad, ids = (~torch.isfinite(judged.losses_N)).nonzero().flatten().tolist(), judged.batch.ids
        mine = [ids[row] for row in bad]
        from train.distributed.collectives import Exchange

        return [sample for part in Exchange(loop.world).gather("suspects", mine) for sample in part]

    def _write(self, loop: LoopState, entry: dict[str, Any]) -> None:
        def append() -> None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())

        loop.world.first_does(append)


def listed(ids: list[int]) -> str:
    """Return sample ids as a message names them."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(map(str, ids[:SHOWN])) + more


def _told(values: dict[str, float]) -> dict[str, float | str]:
    """Return values as JSON has them: what is not finite by name."""
    return {key: value if math.isfinite(value) else str(value) for key, value in values.items()}
