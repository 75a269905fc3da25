"""The frozen reference of dpo as numbers: log p of every answer under the initial weights, kept in RUN/reference.

They are computed once, before the first step, when the model still has those weights, so that no second model is held
in memory. A run that resumes reads them again, and its checkpoints have their checksum.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import ArtifactError, fingerprint_of, hash_file, reading, replacing
from curriculum.pairs.answers import AnswerScores
from train.evaluation.pairs import log_probabilities_of
from train.records.layout import REFERENCE

if TYPE_CHECKING:
    from curriculum.pairs.pairs import Pairs
    from train.loop_state import LoopState

log = logging.getLogger(__name__)


def reference_path(run: Path, slice_name: str) -> Path:
    """Return the file with the values of a slice."""
    return run / REFERENCE / f"{slice_name}.npy"


def read_reference(run: Path, pairs: Pairs) -> NDArray[np.float32]:
    """Return log p of every answer of a slice, float32 [answers]. Raises ArtifactError if the file does not fit."""
    path = reference_path(run, pairs.slice)
    if not path.is_file():
        raise ArtifactError(f"{path}, the log-probabilities of dpo's reference, is missing: restore it, or train again")
    with reading(path, "restore it, or train again from the beginning in another output"):
        values = np.load(path, allow_pickle=False)
        if values.dtype != np.float32 or values.shape != (pairs.answers,) or not np.isfinite(values).all():
            raise ValueError(f"it does not hold {pairs.answers} finite numbers")
    found: NDArray[np.float32] = values
    return found


def score_reference(loop: LoopState, pairs: Pairs) -> None:
    """Store the values of a slice: from `data.scores`, or computed with the weights that the model has now.

    Every rank calls it.
    """
    path, scores = reference_path(Path(loop.settings.output), pairs.slice), loop.settings.data.scores
    ids, batch_size = np.arange(len(pairs)), loop.settings.heldout.batch_size
    if scores is not None:
        values_A = AnswerScores(scores, pairs).logps(ids)
    else:
        with loop.engine.whole_weights(), loop.watchdog.slow("the log-probabilities of the reference"):
            values_A = log_probabilities_of(loop.engine.decoder, pairs, ids, batch_size, loop.world)

    def store() -> None:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as file:
            np.save(file, values_A, allow_pickle=False)
        log.info("reference: log-probabilities of %s answers in %s", f"{len(values_A):,}", path)

    loop.world.first_does(store)


def reference_fingerprint(run: Path, slices: tuple[str, ...]) -> str:
    """Return the checksum of the files."""
    return fingerprint_of([hash_file(reference_path(run, name)).xxh3_128 for name in slices])
