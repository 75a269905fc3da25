"""Arrange: scores and a preference become a plan, and the plan an ORDER."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact import create, reusable
from curriculum.buckets import Bucket, cut, quantile_edges
from curriculum.order import KIND, Order, write_order
from curriculum.permutation import KeyedPermutation, mix64
from curriculum.plan import real_plan, round_plan
from curriculum.preference import Preference, Shuffled
from curriculum.scores import Scores
from curriculum.tokens import Tokens

log = logging.getLogger(__name__)

CHUNK_POSITIONS = 1 << 20


@dataclass(frozen=True)
class ArrangeSettings:
    """What `pdpc arrange` is told."""

    tokens: str
    """TOKENS folder."""
    output: str
    """ORDER folder to write."""
    slice: str = "train"
    """Slice of TOKENS to arrange: train, or reference for the reference models."""
    scores: str | None = None
    """SCORES folder; needed by every preference but the shuffled one."""
    preference: Preference = field(default_factory=Shuffled)
    """How much each bucket is wanted at each moment."""
    batch_size: int = 256
    """Samples in a global batch: what one optimizer step sees."""
    stages: int = 4
    """Equal parts of the run; each ends with a checkpoint and an evaluation."""
    seed: int = 0
    """Key of every permutation."""
    max_tokens: int | None = None
    """Arrange a random subset of about so many tokens, the same for every preference; None: the whole slice."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        if self.stages < 1:
            raise ValueError(f"stages={self.stages} must be at least 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens} must be at least 1, or null for the whole slice")
        if self.preference.score and self.scores is None:
            raise ValueError(
                f"preference={self.preference.name} cuts by {self.preference.score!r}: "
                "give scores=FOLDER (made by pdpc score)"
            )


def run(settings: ArrangeSettings) -> Order:
    """Write the ORDER that `settings` describe, or open it when it is there already."""
    tokens = Tokens.open(settings.tokens, settings.slice)
    inputs = {"tokens": tokens.fingerprint, "tokenizer": tokens.tokenizer_fingerprint}
    scores = None
    if settings.preference.score:
        assert settings.scores is not None
        scores = Scores.open(settings.scores, settings.slice)
        scores.check(tokens)
        inputs["scores"] = scores.fingerprint
    config = {key: value for key, value in asdict(settings).items() if key not in ("tokens", "scores", "output")}
    folder = Path(settings.output)
    if reusable(folder, KIND, config=config, inputs=inputs):
        log.info("order %s is whole and made of the same: reused", folder)
        return Order.open(folder)
    ids_N = _subset(tokens, settings)
    steps = -(-len(ids_N) // settings.batch_size)
    if len(ids_N) < settings.batch_size or steps < settings.stages:
        raise ValueError(
            f"{settings.tokens} has {len(ids_N)} samples to arrange, which is fewer than {settings.stages} stages "
            f"of one batch of {settings.batch_size} need: lower batch_size or stages, or prepare more text"
        )
    bucket_N, buckets = _cut(settings.preference, scores, tokens, ids_N)
    counts_K = np.array([bucket.samples for bucket in buckets], dtype=np.int64)
    progress_S = (np.arange(steps) + 0.5) / steps
    planned_SK = real_plan(settings.preference.affinity(progress_S), settings.batch_size, counts_K)
    counts_SK = round_plan(planned_SK, settings.batch_size, counts_K)
    with create(folder, KIND, config=config, inputs=inputs) as draft:
        facts = write_order(
            draft.path,
            compose(ids_N, bucket_N, counts_SK, settings.seed),
            samples=len(ids_N),
            largest_id=int(ids_N.max()),
            buckets=len(buckets),
            plan=planned_SK,
            counts=counts_SK,
        )
        stage_ends = [round(steps * stage / settings.stages) for stage in range(1, settings.stages + 1)]
        draft.facts.update(
            facts,
            batch_size=settings.batch_size,
            stage_ends=stage_ends,
            slice=settings.slice,
            seq_len=tokens.seq_len,
            buckets=[asdict(bucket) for bucket in buckets],
            left_out=len(tokens) - len(ids_N),
        )
    log.info(
        "order %s: %s samples in %s steps of %s, %s stages, buckets %s, left out %s",
        folder,
        len(ids_N),
        steps,
        settings.batch_size,
        settings.stages,
        ", ".join(f"{bucket.name}={bucket.samples}" for bucket in buckets),
        len(tokens) - len(ids_N),
    )
    return Order.open(folder)


def _subset(tokens: Tokens, settings: ArrangeSettings) -> NDArray[np.int64]:
    """Return the sample ids to arrange, rising: the whole slice or a keyed random part that all preferences share."""
    if len(tokens) == 0:
        raise ValueError(
            f"slice {settings.slice!r} of {settings.tokens} has no samples: prepare it with a larger share"
        )
    wanted = len(tokens) if settings.max_tokens is None else min(len(tokens), -(-settings.max_tokens // tokens.seq_len))
    if wanted == len(tokens):
        return np.arange(len(tokens), dtype=np.int64)
    return np.sort(KeyedPermutation(len(tokens), _key(settings.seed, 0xFFFF))(np.arange(wanted)))


def _cut(
    preference: Preference, scores: Scores | None, tokens: Tokens, ids_N: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[Bucket]]:
    """Return each sample's bucket and the buckets."""
    if scores is None:
        return np.zeros(len(ids_N), dtype=np.int64), [Bucket("all", None, None, len(ids_N))]
    score_N = scores.column(preference.score)[ids_N]
    bad_N = ~np.isfinite(score_N)
    if bad_N.any():
        raise ValueError(
            f"score {preference.score!r} of {scores.folder} is not finite for {int(bad_N.sum())} samples, "
            f"the first is sample {ids_N[bad_N][0]} ({score_N[bad_N][0]}): "
            "score them again with sound reference models"
        )
    edges = quantile_edges(score_N, tokens.real_tokens(ids_N), preference.buckets)
    return cut(score_N, edges)


def compose(
    ids_N: NDArray[np.int64], bucket_N: NDArray[np.int64], counts_SK: NDArray[np.int64], seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield chunks of (sample ids, buckets) in training order.

    Inside a bucket the samples follow a keyed permutation; inside a step the buckets are mixed by keyed hashes of the
    position, so that every rank's part holds the same mix on average. The chunking does not change the result.
    """
    steps, buckets = counts_SK.shape
    members = [ids_N[bucket_N == bucket] for bucket in range(buckets)]
    permutations = [KeyedPermutation(max(1, len(ids)), _key(seed, bucket)) for bucket, ids in enumerate(members)]
    taken_K = np.zeros(buckets, dtype=np.int64)
    position = 0
    steps_per_chunk = max(1, CHUNK_POSITIONS // max(1, int(counts_SK[0].sum())))
    for first in range(0, steps, steps_per_chunk):
        part_SK = counts_SK[first : first + steps_per_chunk]
        size_S = part_SK.sum(axis=1)
        labels = np.repeat(np.tile(np.arange(buckets), len(part_SK)), part_SK.ravel())
        step = np.repeat(np.arange(len(part_SK)), size_S)
        with np.errstate(over="ignore"):
            keys = mix64(np.arange(position, position + len(labels), dtype=np.uint64) + np.uint64(_key(seed, 0xFFFE)))
        labels = labels[np.lexsort((keys, step))]
        ids = np.empty(len(labels), dtype=np.int64)
        for bucket in range(buckets):
            where = np.flatnonzero(labels == bucket)
            turn = taken_K[bucket] + np.arange(len(where))
            ids[where] = members[bucket][permutations[bucket](turn)]
            taken_K[bucket] += len(where)
        position += len(labels)
        yield ids, labels


def _key(seed: int, purpose: int) -> int:
    return int(mix64(np.array([(seed % 2**32) * 2**16 + purpose + 1], dtype=np.uint64))[0])
