"""DPO, SimPO and LOGO on PAIRS: the mean over the pairs of a global batch of models/losses/pair_loss.py.

All answers of a pair are computed in one forward pass with one copy of its prompt (models/losses/pair_batch.py), so a
step needs the memory of one sequence and its further answers, and no reference model (train/objectives/reference.py).

Shapes: P pairs of a micro-batch, Q their answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curriculum.artifact.files import ArtifactError
from curriculum.pairs.pairs import SLICES, Pairs
from models.attention import on_device
from models.losses.cross_entropy import TokenLosses
from models.losses.pair_batch import Answered, PairBatch, log_probabilities, pair_batch
from models.losses.pair_loss import MARGINS, METRICS, PairLoss, PairLosses
from train.evaluation.pairs import answered
from train.objectives.heldout import pair_loss_of
from train.objectives.objective import Objective
from train.objectives.reference import read_reference, reference_fingerprint, reference_path, score_reference
from train.records.layout import REFERENCE

if TYPE_CHECKING:
    from curriculum.tokens.samples import Samples
    from train.batches import Batch
    from train.engine import Engine
    from train.loop_state import LoopState
    from train.settings import TrainSettings
    from train.tracking import Record

NAMES = (*METRICS, MARGINS)
NOTHING = Answered(np.zeros(1, dtype=np.int64), [np.zeros(1, dtype=np.int64)] * 2)
"""Stands in for the pairs of an empty micro-batch, with a loss of zero."""


class MicroBatch(NamedTuple):
    """Input of one forward pass, on the host."""

    batch: PairBatch
    reference_Q: Tensor
    """log p of every answer under the reference, float32; zeros without one."""
    pairs: int
    """Pairs in it; 0 if it stands in for none."""
    size: int
    """Rows of the losses; those beyond `pairs` are zero."""


class Preference(Objective):
    """Prefer the chosen answer of every pair to the rejected ones."""

    def __init__(self, name: str, pairs: Pairs, loss: PairLoss, run: Path) -> None:
        self.name = name
        self.pairs = pairs
        self.loss = loss
        self._run = run
        self._reference_A: NDArray[np.float32] | None = None
        self._step_M = torch.zeros(len(NAMES) + 1, dtype=torch.float64)
        """Sums of the metrics in this step on this rank, and the number of pairs; on the device."""
        self._window_M = self._step_M.clone()
        """The same since the last record and over all ranks."""

    @classmethod
    def of(cls, settings: TrainSettings, tokens: Samples) -> Preference:
        """Return the objective. Raises ValueError for data without pairs."""
        name = settings.objective
        if not isinstance(tokens, Pairs):
            raise ValueError(
                f"objective={name} compares answers, but data.tokens={settings.data.tokens} are TOKENS: give PAIRS "
                "(pdpc pairs prepare), or objective=language_model"
            )
        if settings.model.z_loss:
            raise ValueError(f"model.z_loss={settings.model.z_loss} has no effect with objective={name}: set it to 0")
        return cls(name, tokens, pair_loss_of(asdict(settings)), Path(settings.output))

    def pre_train(self, loop: LoopState) -> None:
        """Before the first step of dpo, compute the reference's log-probabilities; later, read them."""
        if self.name != "dpo":
            return
        validation = loop.inputs.validation
        assert isinstance(validation, Pairs), "a slice of the same artifact"
        slices = (self.pairs, validation)
        if loop.progress.step == 0:
            for pairs in slices:
                score_reference(loop, pairs)
        elif not all(reference_path(self._run, pairs.slice).is_file() for pairs in slices):
            raise ArtifactError(
                f"{self._run} has taken {loop.progress.step} steps but has no log-probabilities of its reference: "
                "restore its folder reference (a run that branches from another needs a copy of that run's)"
            )
        self._reference_A = read_reference(self._run, self.pairs)

    def micro_batch(self, ids: Sequence[int], size: int) -> MicroBatch:
        """Return pairs as a micro-batch of one row, as long as the pairs are."""
        batch = pair_batch(answered(self.pairs, ids) if ids else [NOTHING])
        reference_Q = torch.zeros(len(batch.lengths))
        if self._reference_A is not None and ids:
            reference_Q = torch.from_numpy(self._reference_A[self.pairs.answer_rows(np.asarray(ids))])
        return MicroBatch(batch, reference_Q, len(ids), size)

    def count(self, samples: int, labels: int) -> int:
        """Return the number of pairs."""
        return samples

    def losses(self, engine: Engine, micro_batch: MicroBatch) -> TokenLosses:
        """Return the loss of every pair, and their sum."""
        device = engine.world.device
        logp_Q = log_probabilities(engine, micro_batch.batch, device)
        found = self.loss(logp_Q, micro_batch.batch, on_device(micro_batch.reference_Q, device))
        losses_P1 = torch.zeros(micro_batch.size, 1, device=device)
        if not micro_batch.pairs:
            return TokenLosses(0.0 * found.loss_P.sum(), losses_P1)
        self._add(found)
        losses_P1[: micro_batch.pairs, 0] = found.loss_P.detach()
        return TokenLosses(found.loss_P.sum(), losses_P1)

    def post_step(self, loop: LoopState, batch: Batch) -> None:
        """Add the step to the window, over all ranks."""
        step_M = self._step_M.to(loop.world.device)
        self._window_M = self._window_M.to(step_M.device) + loop.world.all_sum(step_M)
        self._step_M = torch.zeros_like(step_M)

    def metrics(self, loop: LoopState) -> Record:
        """Return the means since the last record, and start again."""
        *sums, count = self._window_M.tolist()
        self._window_M = torch.zeros_like(self._window_M)
        return {name: total / count for name, total in zip(NAMES, sums, strict=True)} if count else {}

    def state(self) -> dict[str, Any]:
        """Return the window, and the checksum of the reference's log-probabilities."""
        state: dict[str, Any] = {"window": self._window_M.tolist()}
        if self.name == "dpo":
            state["reference"] = reference_fingerprint(self._run, SLICES)
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Raise ArtifactError if the reference's log-probabilities are not those of the checkpoint."""
        self._window_M = torch.tensor(state["window"], dtype=torch.float64)
        if self.name == "dpo" and state["reference"] != reference_fingerprint(self._run, SLICES):
            raise ArtifactError(f"the files in {self._run / REFERENCE} changed since the last checkpoint: restore them")

    def _add(self, found: PairLosses) -> None:
        sums = [values_P.sum(dtype=torch.float64) for values_P in found.shown().values()]
        added_M = torch.stack([*sums, sums[0].new_tensor(float(len(found.loss_P)))])
        self._step_M = self._step_M.to(added_M.device) + added_M
