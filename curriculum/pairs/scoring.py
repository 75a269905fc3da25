"""The work of `pdpc pairs score`: every answer's log-probability and reward in chunks, joined as SCORES of PAIRS.

Shapes: K sequences of a batch, S tokens, T = S - 1 labels, N pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curriculum.artifact.create import create
from curriculum.pairs.answers import LOGP, REWARD, answers_file
from curriculum.pairs.margins import Margins, margins_of, warnings_of
from curriculum.pairs.pairs import Pairs, Sequences
from curriculum.pairs.table import show
from curriculum.scores.findings import Findings, joined
from curriculum.scores.job import NOTES, ScoringJob, warn
from curriculum.scores.scorer import Reference, ScoringOptions
from curriculum.scores.scores import KIND, Scores
from curriculum.scores.writer import RowGroups
from curriculum.tokens.tokens import IGNORED, Tokens
from curriculum.work.chunks import Chunk, Columns
from curriculum.work.console import PlainConsole

POLICY, REWARD_MODEL = "policy", "reward"
"""Names of the models in the inputs of SCORES."""


class RewardScorer(Protocol):
    """Gives answers a reward."""

    description: dict[str, object]
    """What SCORES say about it."""

    def rewards(self, pairs: Pairs, sequences: Sequences) -> NDArray[np.float32]:
        """Return the reward of every sequence, float32 [K]."""


@dataclass(frozen=True)
class PairScoringOptions(ScoringOptions):
    """Options that determine the margins, besides pairs and models."""

    weight: float = 1.0
    """w in M_AP."""

    def config(self) -> dict[str, Any]:
        """Return the options stored in the artifact's config."""
        return {"precision": self.precision, "weight": self.weight}


class PairScorer:
    """Scores chunks of pairs with loaded models. Every process computes the same columns."""

    def __init__(
        self,
        pairs: Mapping[str, Pairs],
        policy: Reference | None,
        reward: RewardScorer | None,
        options: PairScoringOptions,
    ) -> None:
        self._pairs, self._policy, self._reward, self._options = pairs, policy, reward, options
        self.references = {} if policy is None else {POLICY: policy}
        for part in pairs.values():
            part.check_tokenizer()
            if policy is not None:
                check_policy(policy, part)

    def notes(self) -> dict[str, Any]:
        """Return the models' descriptions, as JSON values."""
        found: dict[str, Any] = {}
        if self._policy is not None:
            found[POLICY] = {
                "fingerprint": self._policy.fingerprint,
                "parameters": self._policy.model.parameter_count(),
                "scored_by": self._policy.way,
            }
        if self._reward is not None:
            found[REWARD_MODEL] = self._reward.description
        return {"models": found, "warnings": []}

    def score(self, chunk: Chunk) -> Columns:
        """Return the columns of a chunk, one value per answer: log-probability, reward. ValueError if not finite."""
        part = self._pairs[chunk.slice]
        ids_N = np.arange(chunk.start, chunk.stop)
        columns: dict[str, list[NDArray[np.float32]]] = {}
        for start in range(0, len(ids_N), self._options.batch_size):
            sequences = part.sequences(ids_N[start : start + self._options.batch_size])
            if self._policy is not None:
                columns.setdefault(LOGP, []).append(log_probabilities(self._policy, sequences))
            if self._reward is not None:
                columns.setdefault(REWARD, []).append(self._reward.rewards(part, sequences))
        found = {name: np.concatenate(values) for name, values in columns.items()}
        if self._reward is None and part.has_rewards:
            found[REWARD] = part.rewards(ids_N)
        owner_K = np.repeat(ids_N, part.answer_counts(ids_N))
        for name, values in found.items():
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                raise ValueError(
                    f"pair {owner_K[bad[0]]} of slice {chunk.slice!r} has an answer with {name}={values[bad[0]]} "
                    f"({len(bad)} such answers in its chunk): the model's weights are corrupt or overflow in this "
                    "precision; score in fp32, or choose another model"
                )
        return cast(Columns, found)


def log_probabilities(policy: Reference, sequences: Sequences) -> NDArray[np.float32]:
    """Return the log-probability of every answer in nats, summed over its tokens, float32 [K]."""
    import torch

    from models.attention import Documents

    K, S = sequences.ids_KS.shape
    ids_KS = torch.from_numpy(sequences.ids_KS)
    # One document per row, whatever a chat template puts into it; padding is only seen by padding.
    losses_KT = policy.model.losses(ids_KS, Documents((S - 1,) * K, K))
    answer_KT = torch.from_numpy(sequences.labels_KT != IGNORED).to(losses_KT.device)
    sums_K: NDArray[np.float64] = -(losses_KT.double() * answer_KT).sum(dim=1).cpu().numpy()
    return sums_K.astype(np.float32)


def check_policy(policy: Reference, pairs: Pairs) -> None:
    """Raise ValueError if a model cannot read the pairs."""
    if policy.tokenizer_fingerprint is not None and policy.tokenizer_fingerprint != pairs.tokenizer_fingerprint:
        raise ValueError(
            f"the policy was trained with another tokenizer ({policy.tokenizer_fingerprint}) than that of "
            f"{pairs.folder} ({pairs.tokenizer_fingerprint}): prepare the pairs with the policy's tokenizer"
        )
    if policy.model.vocab_size < pairs.vocab_size:
        raise ValueError(
            f"the policy has a vocabulary of {policy.model.vocab_size} tokens, but {pairs.folder} uses "
            f"{pairs.vocab_size}: prepare the pairs with the policy's tokenizer"
        )


class PairScoringJob(ScoringJob):
    """One SCORES folder of PAIRS to write: its chunks, the missing ones, and the final artifact."""

    def __init__(
        self,
        folder: Path,
        pairs: Mapping[str, Pairs],
        identities: Mapping[str, str],
        options: PairScoringOptions,
        *,
        chunk_tokens: int | None = None,
        mark: Callable[[str], None] = lambda point: None,
    ) -> None:
        self.pairs, self.pair_options = pairs, options
        samples = cast(Mapping[str, Tokens], pairs)  # of these the job only needs what all Samples have
        super().__init__(folder, samples, identities, options, chunk_tokens=chunk_tokens, mark=mark)

    def finish(self, *, quiet: bool = False) -> Scores:
        """Join the chunks, remove them, and (unless `quiet`) print a table of margins. All chunks must be done."""
        self._mark("chunk.before_join")
        notes = self.store.noted(NOTES)
        found: list[Findings] = []
        with create(self.folder, KIND, config=self.options.config(), inputs=self.inputs) as draft:
            for name, pairs in self.pairs.items():
                chunks = [chunk for chunk in self.chunks if chunk.slice == name]
                margins, rewards_K = self._write(draft.path, pairs, chunks)
                unusable, others = warnings_of(margins, rewards_K)
                found.append(
                    Findings(*(tuple(f"slice {name!r}: {text}" for text in part) for part in (unusable, others)))
                )
            findings = joined(found)
            draft.facts.update(models=notes["models"], warnings=list(findings.all), unusable=list(findings.unusable))
        self._mark("chunk.after_join")
        self.store.remove()
        first = next(iter(self.pairs))
        scores = Scores.open(self.folder, first)
        if not quiet:
            warn(findings)
            show(scores, self.pairs[first], PlainConsole())
        return scores

    def _write(self, folder: Path, pairs: Pairs, chunks: Sequence[Chunk]) -> tuple[Margins, NDArray[np.float32] | None]:
        """Write a slice's files; return its margins and rewards."""
        columns = [self.store.read(chunk) for chunk in chunks]
        names = [name for name in (LOGP, REWARD) if columns and name in columns[0]]
        found = {name: np.concatenate([part[name] for part in columns]) for name in names}
        ids_N = np.arange(len(pairs))
        counts_N = pairs.answer_counts(ids_N)
        rows_N1 = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts_N)))
        tokens_K = pairs.answer_tokens(ids_N)
        rewards_K = found.get(REWARD)
        margins = margins_of(rewards_K, found.get(LOGP), tokens_K, rows_N1, self.pair_options.weight)
        write_columns(folder / f"{pairs.slice}.parquet", {"sample": ids_N, **margins.columns()})
        answer_K = np.arange(len(tokens_K)) - np.repeat(rows_N1[:-1], counts_N)
        answers = {"sample": np.repeat(ids_N, counts_N), "answer": answer_K}
        write_columns(folder / answers_file(pairs.slice), {**answers, "tokens": tokens_K, **found})
        return margins, rewards_K


def write_columns(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write a Parquet file of `sample` (int64), other whole numbers (int32) and scores (float32)."""
    kinds = {
        name: pa.int64() if name == "sample" else pa.int32() if column.dtype.kind in "iu" else pa.float32()
        for name, column in columns.items()
    }
    rows = RowGroups(path, pa.schema(list(kinds.items())))
    rows.add(columns)
    rows.close()
