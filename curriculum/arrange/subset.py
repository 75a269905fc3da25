"""Which samples are arranged: all, those of some sources, or a random subset of either."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.cells import Times
from curriculum.order.permutation import KeyedPermutation, key_of
from curriculum.scores.columns import SampleColumns

log = logging.getLogger(__name__)


def subset(columns: SampleColumns, sources: Sequence[str], max_tokens: int | None, seed: int) -> Times | None:
    """Return which samples to arrange; None: all. Without `sources`, those of any; `max_tokens` keeps about so many.

    A subset depends on its sources, its size and the seed, not on the preference. Raises ValueError for an unknown
    source.
    """
    tokens = columns.tokens
    if max_tokens is None and not sources:
        return None
    if tokens is None:
        name = "max_tokens" if max_tokens is not None else "sources"
        raise ValueError(f"{name} needs tokens=FOLDER to know how long a sample is and where it comes from")
    unknown = sorted(set(sources) - set(tokens.sources))
    if unknown:
        raise ValueError(f"sources names {', '.join(unknown)}, but the sources are {', '.join(tokens.sources)}")
    chosen = [tokens.samples_of(tokens.sources.index(name)) for name in sorted(set(sources))]
    chosen = chosen or [range(columns.samples)]
    total = sum(map(len, chosen))
    if total == 0:
        raise ValueError(
            f"sources={list(sources)} have no samples in slice {tokens.slice!r} of {tokens.folder}: name others"
        )
    wanted = total if max_tokens is None else -(-max_tokens // tokens.seq_len)
    if wanted > total:
        log.warning(
            "max_tokens=%d is more than the %d tokens of %d samples in slice %r of %s: all of them are arranged",
            *(max_tokens, total * tokens.seq_len, total, tokens.slice, tokens.folder),
        )
    permutation = KeyedPermutation(total, key_of(seed, "subset"))

    def times(first: int, count: int) -> NDArray[np.uint8]:
        times_N = np.zeros(count, dtype=np.uint8)
        before = 0
        for part in chosen:
            start, stop = max(part.start, first), min(part.stop, first + count)
            if start < stop:
                numbers = np.arange(start, stop) - part.start + before
                times_N[start - first : stop - first] = permutation(numbers) < wanted
            before += len(part)
        return times_N

    return times
