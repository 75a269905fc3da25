"""Prompts with several answers in one row: each prompt is computed once, and there is no padding.

    x1 x2 | x3 a1 a2 | x3 b1     the inputs of a prompt x1 x2 x3 with answers a1 a2 a3 and b1 b2

The last token of the prompt begins every branch, because the first token of every answer is predicted from it.

Shapes: P prompts, Q answers, A labels (tokens of answers), T inputs, S = T + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attention import SharedPrompts, on_device
from models.kernels.interface import IGNORED

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Answered:
    """A prompt with its answers."""

    prompt: Ids
    """At least one token."""
    answers: Sequence[Ids]
    """The chosen one first; each has at least one token."""
    positions: Ids | None = None
    """Increasing positions of the tokens of the prompt and of its longest answer; None: 0, 1, 2 ..."""


class PairBatch(NamedTuple):
    """Input of one forward pass, on the host."""

    ids_BS: Tensor
    """int64 [1, T + 1]; the last id is no input."""
    documents: SharedPrompts
    positions_BT: Tensor
    places_A: Tensor
    """Place of each label's input, int64."""
    labels_A: Tensor
    lengths: tuple[int, ...]
    """Labels of each answer, [Q]."""
    answers: tuple[int, ...]
    """Answers of each prompt, [P]; they sum to Q."""

    @property
    def chosen(self) -> list[int]:
        """The number of each prompt's chosen answer among all answers."""
        return (np.cumsum(self.answers) - np.asarray(self.answers)).tolist()


def pair_batch(prompts: Sequence[Answered]) -> PairBatch:
    """Return at least one prompt, with its answers, as one row."""
    ids, positions, places, parts = [], [], [], []
    begin = 0
    for row in prompts:
        known = len(row.prompt) - 1
        position = np.arange(known + max(map(len, row.answers))) if row.positions is None else row.positions
        ids.append(row.prompt[:known])
        positions.append(position[:known])
        begin += known
        for answer in row.answers:
            ids += [row.prompt[known:], answer[:-1]]
            positions.append(position[known : known + len(answer)])
            places.append(begin + np.arange(len(answer)))
            begin += len(answer)
        parts.append((known, *map(len, row.answers)))
    flat = np.concatenate([*ids, [IGNORED]])
    return PairBatch(
        _tensor(flat)[None],
        SharedPrompts.of_parts(parts),
        _tensor(np.concatenate(positions))[None],
        _tensor(np.concatenate(places)),
        _tensor(np.concatenate([answer for row in prompts for answer in row.answers])),
        tuple(len(answer) for row in prompts for answer in row.answers),
        tuple(len(row.answers) for row in prompts),
    )


def log_probabilities(model: Callable[..., Any], batch: PairBatch, device: torch.device) -> Tensor:
    """Return log p(answer | prompt) of every answer, the sum over its tokens, float32 nats [Q].

    `model`: a Decoder, or an engine around one.
    """
    losses = model(
        on_device(batch.ids_BS, device),
        batch.documents,
        positions_BT=on_device(batch.positions_BT, device),
        places_A=on_device(batch.places_A, device),
        labels_A=on_device(batch.labels_A, device),
    )
    return torch.stack([-part.sum() for part in losses.losses_BT.split(batch.lengths)])


def _tensor(values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
