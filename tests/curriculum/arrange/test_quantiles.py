"""Quantiles are exact: the same keys as from sorting all scores, for any chunking.

Shapes: N samples, P parts, E edges.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.arrange import quantiles
from curriculum.arrange.quantiles import Scored, bits_of, equal_parts, keys_of, scores_of

EXAMPLES = settings().max_examples
TINY = np.float32(1e-45)
ODD = [0.0, -0.0, float(TINY), -float(TINY), 1.0, -1.0, 3e38, -3e38, float(np.nextafter(np.float32(1), np.float32(2)))]
WHOLE = 0xFFFFFFFF


def expected(score_N, weight_N, part_N, inside, parts):
    """Edges [inside, parts - 1] by sorting, as float32; None for a part with too few distinct scores."""
    result = []
    for part in range(inside):
        mine = part_N == part
        order = np.argsort(score_N[mine], kind="stable")
        scores, ends = score_N[mine][order], np.cumsum(weight_N[mine][order])
        if not len(scores):
            result.append(None)
            continue
        edges = [scores[np.flatnonzero(ends * parts >= edge * ends[-1])[0]] for edge in range(1, parts)]
        rises = all(a < b for a, b in pairwise(edges))
        result.append(edges if rises and edges[-1] < scores[-1] else None)
    return result


@st.composite
def corpora(draw):
    size = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "tied", "odd", "constant", "bits"]))
    score_N = {
        "normal": lambda: rng.normal(size=size),
        "tied": lambda: np.round(rng.normal(size=size), 1),
        "odd": lambda: rng.choice(ODD, size),
        "constant": lambda: np.full(size, rng.choice(ODD)),
        "bits": lambda: rng.integers(0, 2**31 - 2**24, size, dtype=np.uint32).view(np.float32) * rng.choice([-1, 1]),
    }[kind]().astype(np.float32)
    inside = draw(st.integers(1, 4))
    weight_N = rng.integers(1, draw(st.sampled_from([2, 50, 10**9])), size)
    return score_N, weight_N, rng.integers(0, inside + 1, size), inside, draw(st.integers(2, 40))


@settings(max_examples=6 * EXAMPLES)
@given(corpora(), st.integers(1, 100), st.sampled_from([1, 3, 512]), st.sampled_from([1, 2, 256]), st.integers(1, 3))
def test_edges_are_those_of_a_sort(corpus, chunk, rows_at_once, parts_at_once, workers):
    score_N, weight_N, part_N, inside, parts = corpus
    part_N = np.where(part_N == inside, 0xFFFF, part_N).astype(np.uint16)  # some are left out

    def chunks():
        for start in range(0, len(score_N), chunk):
            here = slice(start, start + chunk)
            yield partial(Scored, bits_of(score_N[here]), weight_N[here].astype(np.int64), part_N[here])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantiles, "ROWS_AT_ONCE", rows_at_once)
        patch.setattr(quantiles, "PARTS_AT_ONCE", parts_at_once)
        edges = equal_parts(chunks, inside, parts, workers)
    for part, wanted in enumerate(expected(score_N, weight_N, part_N, inside, parts)):
        assert edges.poor_P[part] == (wanted is None)
        if wanted is None:
            assert (edges.keys_PE[part] == WHOLE).all()
        else:
            assert (scores_of(edges.keys_PE[part]) == np.array(wanted)).all()


def test_keys_rise_with_the_scores():
    score_N = np.array(sorted({*ODD, *np.random.default_rng(0).normal(size=500).tolist()}), dtype=np.float32)
    score_N = np.unique(score_N)
    assert (np.diff(keys_of(score_N).astype(np.int64)) > 0).all()
    assert (scores_of(keys_of(score_N)) == score_N).all()
    assert keys_of(np.array([-0.0], np.float32)) == keys_of(np.array([0.0], np.float32))


def test_many_equal_samples_are_cut_into_many_equal_parts():
    score_N = np.random.default_rng(0).permutation(10_000).astype(np.float32)

    def chunks():
        yield lambda: Scored(bits_of(score_N), np.ones(10_000, dtype=np.int64), np.zeros(10_000, dtype=np.uint16))

    edges = scores_of(equal_parts(chunks, 1, 1000).keys_PE[0])
    assert edges.tolist() == list(range(9, 9990, 10))
