"""The guard: non-finite values and loss spikes never reach the weights, and every rank makes the same decision.

The step is skipped: weights and moments stay bit-identical. Its samples count as consumed, since the order is fixed,
and are listed in RUN/skipped.jsonl. Non-finite steps are skipped by the device itself; the host learns of one after it
has queued the next step, so it does not wait. Whether a loss is a spike is decided on the host, which then waits for
the device once per step, after its last backward pass.
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

from curriculum.artifact.files import no_links, write_text
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
"""Most samples named in a message; the file has all of them."""


class GuardStopped(RuntimeError):
    """Too many steps in a row were skipped."""

    exit_code = GUARD_STOPPED


@dataclass(frozen=True)
class Judged:
    """A step whose verdict the host has not read yet."""

    step: int
    """Number of steps so far, including this one."""
    batch: Batch
    losses_N: Tensor
    """Loss of each of this rank's samples, in nats, on the device."""
    verdict: Later
    """Mean loss in nats, gradient norm, and a flag that is nonzero when the step was skipped."""


class Guard(Hook):
    """Skips non-finite steps and spikes, names their samples, and stops the run after too many in a row."""

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
        """Drop the steps that an earlier attempt skipped after its last checkpoint: they are repeated."""
        self._loop = loop
        if not loop.world.first or not self._path.exists():
            return
        kept = skipped_until(self._path, loop.progress.step)
        write_text(self._path, "".join(f"{line}\n" for line in kept))

    def pre_step(self, loop: LoopState, batch: Batch) -> None:
        """Remember the batch, whose count divides the step's loss."""
        self._batch = batch

    def pre_optim_step(self, loop: LoopState) -> Tensor:
        """Judge the step, on the device and identically on every rank; spikes are detected on the host."""
        norm = loop.engine.gradient_norm().double()
        loss = loop.world.all_sum(loop.losses_N.sum()) / self._batch.global_count
        left_out = ~(torch.isfinite(loss) & torch.isfinite(norm)) & self._settings.finite
        if self._settings.spike != "off" and math.isfinite(float(loss)) and math.isfinite(float(norm)):
            left_out |= self._spikes.add(float(loss))
        self._verdict = torch.stack([loss, norm, left_out.double()])
        return left_out

    def post_step(self, loop: LoopState, batch: Batch) -> None:
        """Read the verdict of the previous step, which the device has computed by now; with spikes on, of this step."""
        self._unread.append(Judged(loop.progress.step, batch, loop.losses_N, Later(self._verdict)))
        self._read(loop, unread=1 if self._settings.spike == "off" else 0)

    def _read(self, loop: LoopState, unread: int = 0) -> None:
        """Record skipped steps, except among the last `unread`; roll back, or stop the run, when required."""
        while len(self._unread) > unread:
            judged = self._unread.popleft()
            loss, norm, left_out = judged.verdict.read()
            if not left_out:
                self._in_row = 0
                continue
            reason = "spike" if math.isfinite(loss) and math.isfinite(norm) else "not_finite"
            self._in_row += 1
            self._counts[reason] += 1
            self._record(loop, judged, reason, loss, norm)
            if reason == "spike" and self._settings.spike == "rollback":
                self._roll_back(loop)

    def _record(self, loop: LoopState, judged: Judged, reason: str, loss: float, norm: float) -> None:
        """Record and log a skipped step. Raises GuardStopped when it is one too many in a row."""
        suspects = self._suspects(loop, judged)
        order, step = loop.inputs.order, judged.step
        first, last = (order.cursor_after(steps) for steps in (step - 1, step))
        ids = order[first:last].tolist()
        entry = {"step": step, "reason": reason, **_as_json({"loss": loss, "grad_norm": norm}), "suspects": suspects}
        self._write(loop, {**entry, "tokens": judged.batch.global_tokens, "samples": ids})
        text = f"step {step}: {reason.replace('_', ' ')} (loss {loss:.4g}, gradient norm {norm:.4g}); "
        text += f"samples {listed(suspects or ids)}"
        if self._in_row >= self._settings.stop_after:
            raise GuardStopped(
                f"{self._in_row} steps in a row were skipped, the last at {text}. The weights are those before them. "
                f"{self._path} lists every sample; pdpc inspect shows their text. Lower optimizer.lr, replan without "
                "them, or raise guards.stop_after, and run again: the run resumes from its last checkpoint"
            )
        if loop.world.first:
            log.warning("%s: the step is skipped", text)

    def metrics(self, loop: LoopState) -> Record:
        """Return the number of steps skipped so far."""
        self._read(loop)
        return {f"guard/{reason}": float(count) for reason, count in self._counts.items()}

    def state(self) -> dict[str, Any]:
        """Return the counts and the last losses. Every rank calls this."""
        if self._loop is not None:
            self._read(self._loop)
        return {"counts": dict(self._counts), "in_row": self._in_row, "losses": list(self._spikes.losses)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self._counts = {**self._counts, **state["counts"]}
        self._in_row = state["in_row"]
        self._spikes = SpikeDetector(self._settings.spike_sigma, self._settings.spike_window, state["losses"])

    def _roll_back(self, loop: LoopState) -> None:
        """Restore the weights of the last checkpoint; samples consumed since stay consumed and are on record."""
        with loop.watchdog.slow("rolling back to a checkpoint"):
            back = loop.restore()
        if back is None:
            if loop.world.first:
                log.warning("no checkpoint to roll back to yet: the step is only skipped")
            return
        order = loop.inputs.order
        positions = [order.cursor_after(back), loop.cursor]
        tokens = int(loop.inputs.tokens.real_tokens(order[positions[0] : positions[1]]).sum())
        entry = {"step": loop.progress.step, "reason": "rollback", "weights_of_step": back}
        self._write(loop, {**entry, "tokens": tokens, "positions": positions})
        if loop.world.first:
            log.warning(
                "step %s: rolled back to the weights of step %s; samples at positions %s to %s are skipped",
                *(loop.progress.step, back, *positions),
            )
        loop.save_due = True  # otherwise a run that is killed now would roll back again

    def _suspects(self, loop: LoopState, judged: Judged) -> list[int]:
        """Return the samples of all ranks whose own loss is not finite. Every rank calls this."""
        bad, ids = (~torch.isfinite(judged.losses_N)).nonzero().flatten().tolist(), judged.batch.ids
        mine = [ids[row] for row in bad]
        from train.distributed.collectives import Collectives

        return [sample for part in Collectives(loop.world).gather("suspects", mine) for sample in part]

    def _write(self, loop: LoopState, entry: dict[str, Any]) -> None:
        def append() -> None:
            with open(self._path, "a", encoding="utf-8", opener=no_links) as file:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())

        loop.world.first_does(append)


def listed(ids: list[int]) -> str:
    """Return sample ids as text for a message."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(map(str, ids[:SHOWN])) + more


def _as_json(values: dict[str, float]) -> dict[str, float | str]:
    """Return JSON values: non-finite ones by name."""
    return {key: value if math.isfinite(value) else str(value) for key, value in values.items()}
