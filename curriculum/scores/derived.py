"""Scores that are computed from stored columns, one line each in `DERIVED`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def _perplexity(loss: Floats) -> Floats:
    perplexity: Floats = np.exp(loss)
    return perplexity


def _bits_per_byte(loss: Floats, tokens: NDArray[Any], length: NDArray[Any]) -> Floats:
    bits: Floats = (loss * tokens.astype(np.float64) / (np.maximum(length, 1) * math.log(2))).astype(np.float32)
    return bits


def _pd(weak: Floats, strong: Floats) -> Floats:
    """Return (PPL_weak - PPL_strong) / PPL_weak (arXiv 2501.13126), from the losses so that nothing overflows."""
    pd: Floats = -np.expm1(strong - weak)
    return pd


DERIVED: dict[str, tuple[tuple[str, ...], Callable[..., Floats]]] = {
    "ppl_{model}": (("loss_{model}",), _perplexity),
    "bpb_{model}": (("loss_{model}", "tokens", "bytes"), _bits_per_byte),
    "pd": (("loss_weak", "loss_strong"), _pd),
}
"""Scores that are computed from stored columns: the columns that each needs, and the function of them."""


@dataclass(frozen=True)
class Found:
    """A derived score of a file: of one model where the name has one."""

    needs: tuple[str, ...]
    of: Callable[..., Floats]


def derived_from(stored: Sequence[str], models: Sequence[str]) -> dict[str, Found]:
    """Return the scores that follow from the stored columns, by name."""
    found = {}
    for name, (needs, of) in DERIVED.items():
        for model in models if "{model}" in name else [""]:
            columns = tuple(column.format(model=model) for column in needs)
            if set(columns) <= set(stored):
                found[name.format(model=model)] = Found(columns, of)
    return found
