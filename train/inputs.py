"""Inputs of a run: opened and checked against the settings before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import verify
from curriculum.order.order import Order, ancestors
from curriculum.pairs.answers import AnswerScores
from curriculum.pairs.pairs import Pairs, open_samples
from curriculum.scores.findings import Findings, joined, listed, of_order, of_scores
from curriculum.scores.scores import Scores
from curriculum.tokens.samples import Samples
from models.config import DecoderConfig
from train.evaluation.harness.tasks import check_tasks, data_fingerprint, task_files_fingerprint
from train.schedule import Schedule
from train.settings import TrainSettings

if TYPE_CHECKING:
    from train.initial import Initial

VALIDATION = "validation"


@dataclass(frozen=True)
class Inputs:
    """The opened inputs of a run."""

    order: Order
    tokens: Samples
    """The slice that the order covers, of TOKENS or PAIRS."""
    validation: Samples
    pd: NDArray[np.float32] | None
    """PD of the validation samples, if scores are given."""
    decoder: DecoderConfig
    schedule: Schedule
    """Learning rate by step."""
    initial: Initial | None
    """The weights that the run starts from; None: random ones."""
    fingerprints: dict[str, str | None]
    ancestors: list[str]
    """Fingerprints of the orders that the order was replanned from, oldest first."""
    task_data: dict[str, str]
    """Fingerprints of the benchmarks' local data files, by task."""
    findings: Findings
    """What `pdpc score` found about the scores behind the order, and about those of the validation slice."""

    def recheck(self) -> None:
        """Raise UnreadableError unless everything that was read of the order and the tokens was intact."""
        self.order.recheck()
        self.tokens.recheck()


def open_inputs(settings: TrainSettings) -> Inputs:
    """Open TOKENS, ORDER and SCORES. Raises ArtifactError or ValueError naming the mismatch and the fix."""
    check_tasks(settings.benchmarks)
    order = Order.open(settings.data.order)
    tokens = open_samples(settings.data.tokens, order.manifest.facts["slice"])
    tokens.check_tokenizer()
    arranged = order.manifest.inputs.get("tokens")
    if arranged != tokens.fingerprint:
        raise ArtifactError(
            f"{settings.data.order} arranges other tokens ({arranged}) than {settings.data.tokens} "
            f"slice {order.manifest.facts['slice']!r} ({tokens.fingerprint}): run pdpc arrange on these tokens"
        )
    validation = open_samples(settings.data.tokens, VALIDATION)
    if len(validation) == 0:
        raise ValueError(
            f"{settings.data.tokens} has no validation samples: rerun pdpc prepare with a larger validation_fraction, "
            "or pdpc adopt with validation files"
        )
    if isinstance(tokens, Pairs):
        if settings.objective == "language_model":
            raise ValueError(
                f"data.tokens={settings.data.tokens} are PAIRS, which objective=language_model cannot train on: use "
                "objective=dpo, simpo or logo"
            )
        if settings.data.scores is not None and settings.objective != "dpo":
            raise ValueError(
                f"data.scores={settings.data.scores} has no effect with objective={settings.objective}: leave it out"
            )
    scores = None
    if settings.data.scores is not None and not isinstance(tokens, Pairs):
        scores = Scores.open(settings.data.scores, VALIDATION)
        scores.check(validation)
    decoder = settings.model.decoder_config(tokens.vocab_size, tokens.seq_len, tokens.end_of_text, tokens.input_only)
    schedule = Schedule.over(
        settings.schedule, settings.optimizer.lr, order.steps, order.batch_sizes, seq_len=tokens.seq_len
    )
    initial = None
    chosen = (settings.init, settings.init_weights, settings.init_average, settings.init_rope)
    if chosen != (None, "last", 1, False):  # only this needs torch, which `pdpc train` does without
        from train.initial import open_initial

        initial = open_initial(settings, tokens, decoder)
    if isinstance(tokens, Pairs) and settings.data.scores is not None:
        check_scored(settings.data.scores, tokens, initial)
    fingerprints = {
        "tokens": tokens.fingerprint,
        "order": order.fingerprint,
        "tokenizer": tokens.tokenizer_fingerprint,
        "scores": scores.fingerprint if scores else None,
        "validation": validation.fingerprint,
        "benchmarks": task_files_fingerprint(settings.benchmarks),
        "init": initial.fingerprint if initial else None,
    }
    pd = _finite_pd(scores) if scores else None
    task_data = {name: data_fingerprint(name, settings.benchmarks) for name in settings.benchmarks.tasks}
    findings = joined(
        [of_order(order.manifest.facts), *([of_scores(scores.manifest.facts)] if scores is not None else [])]
    )
    lineage = ancestors(order)
    return Inputs(
        *(order, tokens, validation, pd, decoder, schedule, initial, fingerprints, lineage, task_data, findings)
    )


def check_scored(folder: str, pairs: Pairs, initial: Initial | None) -> None:
    """Raise ValueError unless the answers' log-probabilities in SCORES of PAIRS are those of the initial weights."""
    model = AnswerScores(folder, pairs).model
    if initial is None or model != initial.fingerprint:
        raise ValueError(
            f"data.scores={folder} holds log-probabilities of another model ({model}) than init "
            f"({initial.fingerprint if initial else 'random weights'}), so they are no reference for dpo: score with "
            "policy=FOLDER, the Hugging Face folder that init names, or leave data.scores out (the run computes them)"
        )


def check_scores(settings: TrainSettings, inputs: Inputs) -> None:
    """Raise ValueError, naming what was found, if the scores are unusable and the user has not accepted that."""
    found = inputs.findings.unusable
    if found and not settings.accept_scores:
        behind = (
            "the order" if of_order(inputs.order.manifest.facts).unusable else f"data.scores={settings.data.scores}"
        )
        raise ValueError(
            f"the scores behind {behind} are unusable: {listed(found)}. Score again with other reference models and "
            "arrange again, or add accept_scores=true to train on them as they are (run.json and the report will say "
            "so)"
        )


def verify_inputs(settings: TrainSettings) -> None:
    """Verify the checksums of the files of TOKENS, ORDER and SCORES of at most `verify_mb` MB.

    Raises ArtifactError naming the first damaged file. Reading 1 GB takes a second or less on a fast disk.
    """
    for folder in (settings.data.tokens, settings.data.order, settings.data.scores):
        if folder is not None and settings.verify_mb > 0:
            verify(Path(folder), settings.verify_mb * 1_000_000)


def _finite_pd(scores: Scores) -> NDArray[np.float32]:
    """Return the PD of a slice. Raises ValueError naming the first sample whose PD is not finite."""
    pd_N = scores.column("pd")
    bad = np.flatnonzero(~np.isfinite(pd_N))
    if len(bad):
        raise ValueError(
            f"pd in {scores.folder} is not finite for {len(bad)} samples of slice {scores.slice!r}, first sample "
            f"{bad[0]} (pd={pd_N[bad[0]]}): fix the reference models and rerun pdpc score"
        )
    return pd_N
