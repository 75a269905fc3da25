"""The samples of one step of an order, with what is known about each.

Shapes: B samples of the step, K buckets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.order.order import Order
from curriculum.scores.columns import LENGTH, SampleColumns
from curriculum.scores.expression import Expression
from curriculum.tokens.tokens import IGNORED, Tokens

TextDecoder = Callable[[list[int]], str]
FIRST_TOKENS = 160
"""Tokens of a sample that are decoded to show its beginning."""


@dataclass(frozen=True)
class StepSamples:
    """One step, in position order."""

    number: int
    """Step, counted from 1 as in the log."""
    first: int
    """Position of its first sample."""
    stage: int
    ids_B: NDArray[np.int64]
    bucket_B: NDArray[np.int64]
    planned_K: NDArray[np.float64]
    realised_K: NDArray[np.float64]
    length_B: NDArray[np.int64] | None
    """Real tokens; None if unknown."""
    source_B: list[str]
    """Empty if unknown."""
    scores: dict[str, NDArray[np.float32]]
    """Values [B] by name or expression."""

    def __len__(self) -> int:
        return len(self.ids_B)


def samples_of_step(order: Order, number: int, columns: SampleColumns | None = None) -> StepSamples:
    """Return the samples of a step, counted from 1 as in a run's log.

    With scores, their columns are read once. Raises ValueError for a step that does not exist.
    """
    if not 1 <= number <= order.steps:
        raise ValueError(f"step={number} is not in 1 .. {order.steps}, the steps of {order.folder}")
    first = order.cursor_after(number - 1)
    ids_B = order[first : order.cursor_after(number)]
    length_B, source_B, scores = None, list[str](), dict[str, NDArray[np.float32]]()
    if columns is not None:
        if int(ids_B.max()) >= columns.samples:
            raise ValueError(
                f"step {number} of {order.folder} holds sample {int(ids_B.max())}, but there are {columns.samples} "
                "samples: give the tokens and scores that it was arranged from"
            )
        if columns.tokens is not None:
            length_B = columns.tokens.real_tokens(ids_B)
            source_B = [columns.tokens.sources[index] for index in columns.tokens.source_of(ids_B)]
        scores = _picked(columns, _shown(order, columns), ids_B)
    return StepSamples(
        number,
        first,
        order.stage[first],
        ids_B,
        order.bucket[first : first + len(ids_B)],
        order.plan[number - 1 : number][0],
        order.counts[number - 1 : number][0],
        length_B,
        source_B,
        scores,
    )


def beginning(tokens: Tokens, sample: int, decode: TextDecoder, letters: int) -> str:
    """Return the beginning of a sample's text, on one line and without control characters."""
    ids = tokens.sample([sample])[0][:FIRST_TOKENS]
    text = decode(ids[ids != IGNORED].tolist())
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:letters]


def whole_text(tokens: Tokens, sample: int, decode: TextDecoder) -> str:
    """Return the text of all tokens of a sample, as it is."""
    ids = tokens.sample([sample])[0]
    return decode(ids[ids != IGNORED].tolist())


def origins(tokens: Tokens, sample: int) -> list[tuple[int, int]]:
    """Return (ordinal in the input text, tokens in the sample) of every document of a sample."""
    return [(tokens.origin(int(index)), int(count)) for index, count in tokens.documents_in(sample)]


def _shown(order: Order, columns: SampleColumns) -> list[str]:
    """Return the scores to show: the one the order cuts by, the losses, PD, the user's own."""
    asked = order.manifest.config.get("preference", {}).get("score")
    names = [asked] if asked and set(Expression(asked).names) <= set(columns.names) else []
    names += [name for name in columns.names if name != LENGTH and name != "tokens" and not name.startswith("ppl_")]
    return list(dict.fromkeys(names))


def _picked(columns: SampleColumns, names: list[str], ids_B: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    result = {name: np.full(len(ids_B), np.nan, dtype=np.float32) for name in names}
    if not names:
        return result
    for chunk in columns.chunks([Expression(name) for name in names]):
        inside = (ids_B >= chunk.first) & (ids_B < chunk.first + len(chunk))
        for name in names:
            result[name][inside] = chunk.scores[name][ids_B[inside] - chunk.first]
    return result
