from types import SimpleNamespace

import numpy as np
import pytest

from train.report.views import BINS, exposure_of, plan_of_metrics, plan_of_order, preferences_of


class FakeOrder:
    """An order of the given ids, with just the interface that exposure_of uses."""

    def __init__(self, ids):
        self.ids = np.asarray(ids)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, where):
        return self.ids[where]


def order_of(plan, counts, names):
    buckets = [SimpleNamespace(name=name) for name in names]
    return SimpleNamespace(steps=len(plan), plan=np.asarray(plan), counts=np.asarray(counts), buckets=buckets)


def test_the_plan_of_an_order_is_shares_in_parts_of_the_run():
    steps = 3 * BINS
    high = np.arange(steps) / (steps - 1)
    plan = np.stack([8 * (1 - high), 8 * high], axis=1)
    counts = np.rint(plan).astype(int)
    view = plan_of_order(order_of(plan, counts, ["low", "high"]))
    assert view.buckets == ["low", "high"]
    assert view.planned.shape == (BINS, 2)
    assert view.planned.sum(axis=1) == pytest.approx(1.0)
    assert view.planned[:, 1] == pytest.approx(high.reshape(BINS, 3).mean(axis=1))
    assert np.abs(view.planned - view.realised).max() < 1 / 8
    assert view.origin == "order"


def test_a_short_order_has_a_part_for_every_step():
    view = plan_of_order(order_of([[2.0], [2.0]], [[2], [2]], ["all"]))
    assert view.progress.tolist() == [0.25, 0.75]
    assert view.realised.tolist() == [[1.0], [1.0]]


def test_the_plan_is_taken_from_the_metrics_when_there_is_no_order(in_memory):
    def record(step, high):
        shares = {"low": 1 - high, "high": high}
        values = {
            f"curriculum/{kind}/{name}": share for kind in ("planned", "realised") for name, share in shares.items()
        }
        return {"kind": "train", "step": step, "tokens": step, "curriculum/progress": step / 2} | values

    view = plan_of_metrics(in_memory("pdpc", [record(1, 0.25), record(2, 0.75)]))
    assert view is not None
    assert view.buckets == ["low", "high"]
    assert view.realised.tolist() == [[0.75, 0.25], [0.25, 0.75]]
    assert view.origin == "metrics"
    assert plan_of_metrics(in_memory("pdpc", [{"kind": "train", "step": 1, "tokens": 1}])) is None


def test_exposure_counts_high_samples_and_sources_over_progress():
    ids = np.arange(4800)
    view = exposure_of(FakeOrder(ids), ids >= 2400, (ids % 3).astype(np.int64), 3)
    assert view.high is not None
    assert view.sources is not None
    assert view.high[0] == 0.0
    assert view.high[-1] == 1.0
    assert view.sources == pytest.approx(np.full(view.sources.shape, 1 / 3), abs=0.01)
    assert len(view.progress) == 4800 // 200
    bare = exposure_of(FakeOrder(ids), None, None, 0)
    assert bare.high is None
    assert bare.sources is None


def test_the_content_of_an_order_does_not_depend_on_the_order():
    ids = np.random.default_rng(1).permutation(1000)
    contents = {exposure_of(FakeOrder(some), None, None, 0).content for some in (ids, np.sort(ids), ids[::-1])}
    assert len(contents) == 1
    other = np.where(ids == 7, 8, ids)
    assert exposure_of(FakeOrder(other), None, None, 0).content not in contents


def test_pd_by_source_has_medians_shares_and_explained_variance():
    pd = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9, -0.5, 0.95], dtype=np.float32)
    source = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    view = preferences_of(pd, source, ["a", "b", "empty"])
    assert view.samples == [4, 4, 0]
    assert view.above[:2] == [0.0, 1.0]
    assert np.isnan(view.above[2])
    assert view.median == pytest.approx(0.5)
    assert view.medians[:2] == pytest.approx([0.15, 0.85])
    assert view.negative == pytest.approx(1 / 8)
    assert view.histogram[:2].sum(axis=1) == pytest.approx([1.0, 1.0])
    assert view.histogram[2].sum() == 0
    groups = [pd[source == 0], pd[source == 1]]
    between = sum(len(group) * (group.mean() - pd.mean()) ** 2 for group in groups)
    assert view.explained == pytest.approx(between / ((pd - pd.mean()) ** 2).sum(), rel=1e-5)


def test_constant_scores_do_not_break_the_histogram():
    view = preferences_of(np.full(10, 0.3, dtype=np.float32), np.zeros(10, dtype=np.int64), ["a"])
    assert view.explained == 0.0
    assert view.histogram[0].sum() == pytest.approx(1.0)
