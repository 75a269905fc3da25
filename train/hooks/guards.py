"""The guard: what is not finite, or leaps, never reaches the weights, and every rank decides alike.

The step is left out: weights and moments stay as they are, to the bit. Its samples count as consumed, since the order
is fixed, and stand in RUN/skipped.jsonl. While the guard is on, host and device meet once a step, after its last
backward pass; with `guards.finite=false guards.spike=off` they do not.
"""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from curriculum.artifact import reading, write_text
from curriculum.split import cursor_after
from train.exit_codes import GUARD_STOPPED
from train.hooks.hook import Hook
from train.hooks.spikes import SpikeDetector

if TYPE_CHECKING:
    from models.loss import TokenLosses
    from train.batches import Batch
    from train.loop import Loop
    from train.tracking import Record

log = logging.getLogger(__name__)

SKIPPED = "skipped.jsonl"
"""File of a run with one JSON object for every step that was left out of the weights."""
SPIKE_ACTIONS = ("off", "skip", "rollback")
SHOWN = 16
"""Most samples that a message names; the file has all of them."""


@dataclass(frozen=True)
class GuardSettings:
    """What is done about a loss or a gradient that is not finite, or leaps."""

    finite: bool = True
    """Leave out a step whose loss or gradient is not finite on any rank."""
    stop_after: int = 5
    """Stop the run (exit code 70) when so many steps in a row were left out."""
    spike: str = "off"
    """A loss far above the last ones: off (let it be), skip (leave the step out) or rollback (leave the step out, take
    the weights of the last checkpoint and go on after it)."""
    spike_sigma: float = 6.0
    """Standard deviations above the mean of the last losses from which on a loss is a spike."""
    spike_window: int = 128
    """Losses, of as many steps, that mean and deviation are taken over."""

    def __post_init__(self) -> None:
        if self.spike not in SPIKE_ACTIONS:
            raise ValueError(f"guards.spike={self.spike!r} is unknown: use one of {', '.join(SPIKE_ACTIONS)}")
        if self.stop_after < 1:
            raise ValueError(f"guards.stop_after={self.stop_after} must be at least 1")
        if not self.spike_sigma > 0:
            raise ValueError(f"guards.spike_sigma={self.spike_sigma} must be above 0")
        if self.spike_window < 2:
            raise ValueError(
                f"guards.spike_window={self.spike_window} must be at least 2: a deviation needs two losses"
            )


class GuardStopped(RuntimeError):
    """Too many steps in a row were left out."""

    exit_code = GUARD_STOPPED


class Guard(Hook):
    """Leaves out steps that are not finite or leap, names their samples, and stops the run when they do not end."""

    name = "guard"

    def __init__(self, settings: GuardSettings, folder: Path) -> None:
        self._settings = settings
        self._path = folder / SKIPPED
        self._spikes = SpikeDetector(settings.spike_sigma, settings.spike_window)
        self._counts = {"not_finite": 0, "spike": 0}
        self._in_row = 0
        self._sums: list[Tensor] = []
        self._reason: str | None = None
        self._values: dict[str, float] = {}
        self._batch: Batch | None = None

    def pre_train(self, loop: Loop) -> None:
        """Forget the steps that an earlier life left out after its last checkpoint: they come again."""
        if not loop.world.first or not self._path.exists():
            return
        kept = skipped_until(self._path, loop.progress.step)
        write_text(self._path, "".join(f"{line}\n" for line in kept))

    def pre_step(self, loop: Loop, batch: Batch) -> None:
        """Begin a step's sum."""
        self._sums, self._reason, self._batch = [], None, batch

    def post_forward(self, loop: Loop, batch: Batch, index: int, losses: TokenLosses) -> None:
        """Keep the loss of every sample, on the device."""
        self._sums.append(losses.losses_BT.sum(dim=1))

    def pre_optim_step(self, loop: Loop) -> bool:
        """Tell whether the step may move the weights, the same on every rank."""
        batch = self._batch
        assert batch is not None
        own = torch.tensor(loop.engine.gradient_norm(), dtype=torch.float64, device=loop.world.device)
        # Where every rank has the whole gradient, one of them may yet be spoiled on its own: the norms are summed too.
        sums = loop.world.all_sum(torch.stack([torch.cat(self._sums).double().sum(), own / loop.world.size]))
        total, norm = sums.tolist()
        loss = total / batch.global_tokens
        self._values = {"loss": loss, "grad_norm": norm}
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._reason = "not_finite" if self._settings.finite else None
        elif self._settings.spike != "off" and self._spikes.add(loss):
            self._reason = "spike"
        return self._reason is None

    def post_step(self, loop: Loop, batch: Batch) -> None:
        """Put a step that was left out on record; go back, or stop, when it is time."""
        if self._reason is None:
            self._in_row = 0
            return
        self._in_row += 1
        self._counts[self._reason] += 1
        suspects = self._suspects(loop, batch)
        order = loop.inputs.order
        ids = order[cursor_after(batch.step, order.batch_size, len(order)) : loop.cursor].tolist()
        entry = {"step": loop.progress.step, "reason": self._reason, **_told(self._values), "suspects": suspects}
        self._write(loop, {**entry, "samples": ids})
        named = listed(suspects or ids)
        text = (
            f"step {loop.progress.step}: {self._reason.replace('_', ' ')} (loss {self._values['loss']:.4g}, gradient "
        )
        text += f"norm {self._values['grad_norm']:.4g}); samples {named}"
        if self._in_row >= self._settings.stop_after:
            raise GuardStopped(
                f"{self._in_row} steps in a row were left out, the last at {text}. The weights are those before them. "
                f"{self._path} names every sample; pdpc inspect shows their text. Lower optimizer.lr, replan without "
                "them, or raise guards.stop_after, and run again: the run goes on from its last checkpoint"
            )
        if loop.world.first:
            log.warning("%s: the step is left out of the weights", text)
        if self._reason == "spike" and self._settings.spike == "rollback":
            self._roll_back(loop)

    def metrics(self, loop: Loop) -> Record:
        """Return how many steps have been left out so far."""
        return {f"guard/{reason}": float(count) for reason, count in self._counts.items()}

    def state(self) -> dict[str, Any]:
        """Return the counts and the last losses."""
        return {"counts": dict(self._counts), "in_row": self._in_row, "losses": list(self._spikes.losses)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self._counts = {**self._counts, **state["counts"]}
        self._in_row = state["in_row"]
        self._spikes = SpikeDetector(self._settings.spike_sigma, self._settings.spike_window, state["losses"])

    def _roll_back(self, loop: Loop) -> None:
        """Take the weights of the last checkpoint; what was consumed since stays consumed and is on record."""
        back = loop.restore(loop)
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
        loop.checkpoint()

    def _suspects(self, loop: Loop, batch: Batch) -> list[int]:
        """Return the samples whose own loss is not finite, of all ranks. Every rank calls this."""
        bad = (~torch.isfinite(torch.cat(self._sums))).nonzero().flatten().tolist()
        mine = [batch.ids[row] for row in bad if row < len(batch.ids)]
        from train.exchange import Exchange

        return [sample for part in Exchange(loop.world).gather("suspects", mine) for sample in part]

    def _write(self, loop: Loop, entry: dict[str, Any]) -> None:
        def append() -> None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())

        loop.world.first_does(append)


def skipped_until(path: Path, step: int) -> list[str]:
    """Return the lines of skipped.jsonl of steps up to `step`; a torn last line, of a killed writer, is left out.

    Raises ArtifactError naming the file when one is not a record.
    """
    with reading(path, "restore it, or remove it to forget what was left out"):
        lines = [line for line in path.read_text("utf-8").split("\n")[:-1] if line]
        return [line for line in lines if json.loads(line)["step"] <= step]


def listed(ids: list[int]) -> str:
    """Return sample ids as a message names them."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(map(str, ids[:SHOWN])) + more


def _told(values: dict[str, float]) -> dict[str, float | str]:
    """Return values as JSON has them: what is not finite by name."""
    return {key: value if math.isfinite(value) else str(value) for key, value in values.items()}
