"""The mean score of what a run reads: of PD, or of the score that the order cuts by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import ArtifactError
from curriculum.audit.overview import mean_score_of, score_of_samples
from curriculum.scores.columns import SampleColumns
from curriculum.scores.scores import Scores
from train.hooks.hook import Hook

if TYPE_CHECKING:
    from train.loop_state import LoopState
    from train.tracking import Record

MOST_SAMPLES = 1 << 28
"""Samples of the slice above which no mean is computed: rank 0 keeps four bytes for each."""


class MeanScore(Hook):
    """Adds the mean score of the samples since the last record, if the run has scores of the slice that it reads."""

    name = "mean_score"

    def __init__(self) -> None:
        self._score_N: NDArray[np.float32] | None = None

    def pre_train(self, loop: LoopState) -> None:
        """Read the scores, on rank 0."""
        order, tokens, folder = loop.inputs.order, loop.inputs.tokens, loop.settings.data.scores
        if not loop.world.first or folder is None or len(tokens) > MOST_SAMPLES:
            return
        try:
            columns = SampleColumns(tokens, Scores.open(folder, tokens.slice), None)
        except ArtifactError:
            return  # the scores are of the validation slice only
        score = mean_score_of(order, columns)
        if score is not None:
            self._score_N = score_of_samples(columns, score)

    def metrics(self, loop: LoopState) -> Record:
        """Return the mean; nothing without scores."""
        if self._score_N is None:
            return {}
        order = loop.inputs.order
        ids = order[loop.window.first_step * order.batch_size : min(loop.cursor, len(order))]
        score = self._score_N[ids]
        score = score[np.isfinite(score)]
        return {"curriculum/mean_score": float(score.mean(dtype=np.float64))} if len(score) else {}
