"""What a model is asked, and the table of its answers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import ArtifactError
from curriculum.pairs.pairs import Pairs, open_samples
from curriculum.scores.scores import Scores
from curriculum.tokens.samples import Samples
from curriculum.work.printable import printable
from train.evaluation.answers import Evaluated
from train.evaluation.evaluate import Questions
from train.evaluation.harness.tasks import BenchmarkSettings, check_tasks
from train.evaluation.heldout import HeldoutSettings
from train.inputs import VALIDATION
from train.objectives.heldout import pair_questions

log = logging.getLogger(__name__)


def questions_of(
    run: Path, facts: dict[str, Any], heldout: HeldoutSettings, benchmarks: BenchmarkSettings
) -> Questions:
    """Return the questions for a run's model. Raises ArtifactError if its inputs are not those the run used."""
    check_tasks(benchmarks)
    validation, pd = _heldout_of(facts)
    validation.check_tokenizer()
    return Questions(
        *(validation.tokenizer_folder, validation, pd, heldout, benchmarks, validation.bos),
        *pair_questions(facts["identity"], run, validation),
    )


def _heldout_of(facts: dict[str, Any]) -> tuple[Samples, NDArray[np.float32] | None]:
    paths, prints = facts["paths"], facts["fingerprints"]
    validation = open_samples(paths["tokens"], VALIDATION)
    scored = paths["scores"] and not isinstance(validation, Pairs)
    scores = Scores.open(paths["scores"], VALIDATION) if scored else None
    for name, found in (("validation", validation), ("scores", scores)):
        if found is not None and found.fingerprint != prints[name]:
            raise ArtifactError(
                f"{found.folder} is not what the run used ({name}: fingerprint {found.fingerprint}, the run used "
                f"{prints[name]}): restore the old folder"
            )
    return validation, scores.column("pd") if scores else None


def show(found: Evaluated, target: Path | None) -> None:
    """Log every value, and where they were written."""
    for name, value in found.values.items():
        log.info("%-40s %s", printable(name), value if isinstance(value, str) else f"{value:.4f}")
    if target is not None:
        log.info("written to %s", target)
