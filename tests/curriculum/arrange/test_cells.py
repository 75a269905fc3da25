"""A layout cuts the corpus as its preference says: into equal tokens, at fixed edges, in quadrants, per source.

Shapes: N samples, K buckets.
"""

import numpy as np
import pytest

from curriculum.arrange.cells import LEFT_OUT, Layout
from curriculum.preference import Frame, Pdpc, Preference, Shuffled, Sorted, Tilt
from curriculum.preference.base import Cut
from curriculum.scores.columns import SampleColumns
from curriculum.scores.own import OwnScores


@pytest.fixture
def laid(tmp_path, parquet):
    """Lay a preference over own columns; return the layout and every sample's cell."""

    def make(preference, keep_unscored=False, times=None, **columns):
        own = OwnScores(parquet(tmp_path / "own.parquet", **columns))
        layout = Layout(
            preference, SampleColumns(None, None, own), fold_key=5, keep_unscored=keep_unscored, times=times
        )
        return layout, np.concatenate([layout.cells_of(chunk) for chunk in layout.chunks()])

    return make


def test_buckets_are_equal_in_tokens_and_the_edge_goes_below(laid):
    rng = np.random.default_rng(0)
    quality, length = rng.permutation(1000).astype(np.float32), rng.integers(1, 50, 1000)
    layout, cells = laid(Tilt(score="quality", buckets=5), quality=quality, length=length)
    tokens = np.bincount(cells, weights=length)
    assert np.abs(tokens / tokens.sum() - 0.2).max() < 50 / tokens.sum()
    edges = layout.stratum_edges()["all"]
    assert (cells == np.searchsorted(edges, quality, side="left")).all()
    described = layout.described(np.bincount(cells), np.ones(5, dtype=np.int64))
    assert [(bucket.low, bucket.high) for bucket in described] == list(zip([None, *edges], [*edges, None], strict=True))


def test_fixed_edges_are_kept_and_a_score_on_one_goes_below(laid):
    quality = [-1.0, 0.0, -0.0, 0.1, 0.5, 0.6, 7.0]
    layout, cells = laid(Tilt(score="quality", edges=[-5.0, 0.0, 0.5, 3.0]), quality=quality)
    assert cells.tolist() == [1, 1, 1, 2, 2, 3, 4]
    described = layout.described(np.bincount(cells, minlength=5), np.ones(5, dtype=np.int64))
    assert [bucket.samples for bucket in described] == [0, 3, 2, 1, 1]
    assert described[1].low == -5.0


@pytest.mark.parametrize("edges", [[1.0, 1.0 + 1e-12], [1e39, 1e40], [0.0, 1e-60]])
def test_edges_alike_as_32_bit_numbers_are_refused(laid, edges):
    with pytest.raises(ValueError, match="are not finite and rising in float32"):
        laid(Tilt(score="quality", edges=edges), quality=[1.0, 2.0])


def test_an_edge_beyond_32_bits_is_refused(laid):
    with pytest.raises(ValueError, match=r"preference\.edges=\[0\.0, 1e\+39\] are not finite and rising in float32"):
        laid(Tilt(score="quality", edges=[0.0, 1e39]), quality=[1.0, 2.0])


def test_nested_medians_give_equal_quadrants_and_independent_ones_need_not(laid):
    rng = np.random.default_rng(1)
    outer = rng.normal(size=4000).astype(np.float32)
    inner = (outer + 0.2 * rng.normal(size=4000)).astype(np.float32)
    frame = {"outer": "outer", "inner": "inner"}
    layout, nested = laid(Frame(**frame), outer=outer, inner=inner)
    assert layout.bucket_names == ["Q1", "Q2", "Q3", "Q4"]
    assert np.bincount(nested).tolist() == [1000] * 4
    high = outer > np.sort(outer)[1999]
    for half, first in ((~high, 0), (high, 2)):
        assert (nested[half] == first + (inner[half] > np.sort(inner[half])[999])).all()
    _, independent = laid(Frame(**frame, nested=False), outer=outer, inner=inner)
    assert (independent == 2 * high + (inner > np.sort(inner)[1999])).all()


def test_every_source_is_cut_by_itself(laid):
    rng = np.random.default_rng(2)
    source = rng.choice(["a", "b", "c"], 999, p=[0.8, 0.15, 0.05])
    quality = rng.normal(size=999) + 10 * (source == "b")
    layout, cells = laid(Pdpc(score="quality"), quality=quality.astype(np.float32), source=source)
    for number, name in enumerate("abc"):
        mine = source == name
        assert (cells[mine] // 2 == number).all()
        assert abs((cells[mine] % 2 == 0).sum() - mine.sum() / 2) <= 0.5
        assert quality[mine & (cells % 2 == 0)].max() <= layout.stratum_edges()[name][0] + 1e-6


def test_sources_with_too_few_scores_stay_whole_and_are_named(laid):
    source = ["many"] * 20 + ["one"] + ["alike"] * 5
    quality = [*range(20), 3, *[7] * 5]
    layout, cells = laid(Pdpc(score="quality"), quality=quality, source=source)
    assert layout.poor_strata == ["alike", "one"]
    assert set(layout.stratum_edges()) == {"many"}
    assert np.bincount(cells, minlength=6).tolist() == [5, 0, 10, 10, 1, 0]


@pytest.mark.parametrize(
    ("preference", "quality"),
    [
        (Pdpc(score="quality", stratify_by=None), [1.0] * 5),
        (Pdpc(score="quality"), [1.0] * 5),
        (Pdpc(score="quality", stratify_by=None), [1.0, 2.0, 2.0, 2.0]),
        (Tilt(score="quality", buckets=4), [1.0, 2.0, 3.0]),
        (Sorted(score="quality"), list(range(15))),
    ],
)
def test_too_few_scores_for_the_buckets_are_an_error(laid, preference, quality):
    with pytest.raises(ValueError, match=r"score 'quality' has too few distinct values for \d+ buckets: use fewer"):
        laid(preference, quality=quality)


def test_scores_that_are_not_finite_are_counted_and_named(laid):
    quality = [1.0, np.nan, 2.0, np.inf, 3.0, -np.inf, 4.0, None]
    with pytest.raises(
        ValueError,
        match=r"not finite for 4 samples of .*own\.parquet: "
        r"sample 1 \(quality=nan\), sample 3 \(quality=inf\), sample 5 "
        r"\(quality=-inf\), \.\.\.: score them again, or .* nonfinite=bucket \(preference\.uses\.unscored=0",
    ):
        laid(Pdpc(score="quality", stratify_by=None), quality=quality)
    layout, cells = laid(Pdpc(score="quality", stratify_by=None), keep_unscored=True, quality=quality)
    assert cells.tolist() == [0, 2, 0, 2, 1, 2, 1, 2]
    assert layout.cells == 3


def test_samples_that_do_not_count_move_no_edge_and_need_no_score(laid):
    quality = [1.0, 2.0, 3.0, 4.0, np.nan, 100.0, 200.0]
    times = np.array([1, 1, 1, 1, 0, 0, 0], np.uint8)
    _, cells = laid(
        Pdpc(score="quality", stratify_by=None), times=lambda first, n: times[first : first + n], quality=quality
    )
    assert cells.tolist() == [0, 0, 1, 1, LEFT_OUT, LEFT_OUT, LEFT_OUT]


def test_folds_are_parts_of_every_source_and_bucket(laid):
    quality = np.arange(6000, dtype=np.float32)
    layout, cells = laid(Sorted(score="quality", buckets=2, folds=3), quality=quality)
    counts = np.bincount(cells)
    assert layout.bucket_names[:2] == ["fold1/low", "fold1/high"]
    assert np.abs(counts - 1000).max() < 100
    for fold in range(3):
        assert quality[cells == 2 * fold].max() < quality[cells == 2 * fold + 1].min()


def test_more_cells_than_can_be_numbered_are_refused(laid):
    with pytest.raises(ValueError, match="70000 buckets in 1 strata exceed 65000 cells"):
        laid(Tilt(score="quality", buckets=70_000), quality=[1.0])


def test_many_buckets_are_cut_right(laid):
    quality = np.random.default_rng(3).permutation(3000).astype(np.float32)
    _, cells = laid(Tilt(score="quality", buckets=1000), quality=quality)
    assert (cells == quality // 3).all()


def test_a_preference_of_your_own_may_cut_several_times(laid):
    class Twice(Preference):
        def cuts(self):
            return [Cut("source"), Cut("quality", 2), Cut("quality * 0 + length", 3)]

    rng = np.random.default_rng(4)
    quality, length, source = rng.normal(size=600), rng.permutation(600) + 1, rng.choice(["a", "b"], 600)
    layout, cells = laid(Twice(), quality=quality, length=length, source=source)
    assert layout.bucket_names[:4] == ["a/low/q1", "a/low/q2", "a/low/q3", "a/high/q1"]
    assert ((cells // 6 == 1) == (source == "b")).all()
    for part in range(4):
        mine = cells // 3 == part
        assert np.abs(np.bincount(cells[mine] % 3, weights=length[mine]) / length[mine].sum() - 1 / 3).max() < 0.05


def test_a_shuffle_has_one_cell(laid):
    layout, cells = laid(Shuffled(), quality=[np.nan, 1.0])
    assert cells.tolist() == [0, 0]
    assert layout.stratum_edges() == {}
