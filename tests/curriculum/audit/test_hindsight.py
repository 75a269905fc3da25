"""Hindsight on losses whose memory is known."""

from dataclasses import replace

import numpy as np
import pytest

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.audit.hindsight import FEWEST, NO_CELL, baseline_of, hindsight
from curriculum.audit.hindsight_samples import cut_of, layout_of, left_out, samples_of
from curriculum.audit.hindsight_table import Signal, as_csv, effects_of, wish_of
from curriculum.preference import Linear, Shuffled, Table
from curriculum.scores.columns import SampleColumns
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens

NOISE = 0.05
FEATURES = ["loss_weak", "loss_strong"]
CELLS = 4
"""Two sources, two buckets."""


@pytest.fixture(scope="module")
def arranged(tokens_folder, scores_folder, tmp_path_factory):
    def make(preference, **changes):
        places = {"tokens": str(tokens_folder), "scores": str(scores_folder)}
        output = str(tmp_path_factory.mktemp("hindsight") / "order")
        return run(ArrangeSettings(**places, output=output, preference=preference, batch_size=8, workers=1, **changes))

    return make


@pytest.fixture(scope="module")
def shuffled(arranged):
    return arranged(Shuffled())


@pytest.fixture(scope="module")
def sides(tokens_folder, scores_folder):
    """Samples of the training and the validation slice, not yet scored."""
    train, validation = (
        SampleColumns(Tokens.open(tokens_folder, name), Scores.open(scores_folder, name), None)
        for name in ("train", "validation")
    )

    def make(order):
        layout = layout_of(cut_of(order, train.names, None, None), train)
        return samples_of(layout, train, FEATURES), samples_of(layout, validation, FEATURES)

    return make


def learner(order, read, unread, memory):
    """Score samples as a model that forgets as `memory(progress, bucket)` says; cells differ in difficulty."""
    rng = np.random.default_rng(0)

    def difficulty(side):
        own = np.array([0.0, 1.0, 2.0, 4.0])[side.cell_N]
        return own + side.feature_NF @ [0.3, 0.6] + rng.normal(0, NOISE, len(own))

    loss_N = difficulty(read)
    progress = (np.arange(len(order)) + 0.5) / len(order)
    loss_N[order[:]] -= memory(progress, read.cell_N[order[:]] % 2)
    return (
        replace(read, loss_N=loss_N.astype(np.float32)),
        replace(unread, loss_N=difficulty(unread).astype(np.float32)),
    )


@pytest.fixture(scope="module")
def seen(sides):
    def see(order, memory, **options):
        read, unread = learner(order, *sides(order), memory)
        return hindsight(order, read, baseline_of(unread, CELLS), ["low", "high"], **options)

    return see


def test_a_simulated_memory_is_found_and_difficulty_cancels(shuffled, seen):
    found = seen(shuffled, lambda p, bucket: 0.4 * p)
    assert found.positions_PK.sum() == len(shuffled)
    away = found.remembered_PK - 0.4 * found.progress_P[:, None]
    level = away.mean()
    assert abs(level) < 4 * found.level_error < 0.1
    assert (np.abs(away - level) < 4 * found.error_PK + 0.02).all()
    assert found.mean == pytest.approx(0.2, abs=4 * found.level_error)
    assert np.ptp(found.loss_PK.mean(axis=0)) > 1  # the buckets' losses themselves are far apart
    effects = effects_of(found)
    assert effects.curve.kept > 0.95
    assert effects.own.kept < 0.5


def test_levels_of_buckets_do_not_bend_the_curve_of_an_order_that_moves_them(arranged, seen):
    found = seen(arranged(Linear(stratify_by=None)), lambda p, bucket: 0.3 * np.sin(3 * p) + 0.5 * bucket)
    curve = effects_of(found).curve_P
    truth = 0.3 * np.sin(3 * found.progress_P)
    assert curve - curve.mean() == pytest.approx(truth - truth.mean(), abs=0.04)
    mean = np.nansum(found.remembered_PK * found.positions_PK, axis=1) / found.positions_PK.sum(axis=1)
    assert np.abs((mean - mean.mean()) - (truth - truth.mean())).max() > 0.1


def test_a_table_places_the_preferred_bucket_where_most_is_remembered(
    shuffled, seen, arranged, tokens_folder, scores_folder, tmp_path
):
    found = seen(shuffled, lambda p, bucket: 0.4 * np.exp(-(((p - 0.75) / 0.2) ** 2)))
    shares, kept = wish_of(found, effects_of(found), "high")
    assert kept > 0.9
    assert shares[:, 1].argmax() == 7
    assert shares[:, 1].min() == shares[:3, 1].min()
    assert shares.sum(axis=1) == pytest.approx(1)
    assert 0.7 < shares[7, 1] < 0.75
    path = tmp_path / "table.csv"
    path.write_text(as_csv(found, shares))
    assert path.read_text().startswith("progress,low,high\n")
    order = arranged(Table(file=str(path), stratify_by="source"))
    counts = order.counts[0 : order.steps]
    tenth = order.steps // 10
    high = [counts[part * tenth : (part + 1) * tenth, 1].sum() / (8 * tenth) for part in range(10)]
    assert int(np.argmax(high)) in (6, 7, 8)
    assert max(high) > min(high) + 0.25


def test_a_table_of_buckets_that_are_remembered_at_different_times(shuffled, seen):
    found = seen(shuffled, lambda p, bucket: 0.3 * p + np.where(bucket == 1, 0.3 * p, 0.3 * (1 - p)))
    effects = effects_of(found)
    assert effects.own.kept > 0.9
    shares, _ = wish_of(found, effects, None)
    assert shares[0, 0] > 0.65
    assert shares[-1, 1] > 0.65
    assert (np.diff(shares[:, 1]) > -0.06).all()


@pytest.mark.parametrize("prefer", [None, "low"])
def test_noise_gives_constant_shares(shuffled, seen, prefer):
    found = seen(shuffled, lambda p, bucket: 0.2 + 0 * p)
    shares, kept = wish_of(found, effects_of(found), prefer)
    assert kept == 0
    assert np.ptp(shares, axis=0) == pytest.approx([0, 0], abs=1e-12)


def test_chance_passes_for_a_signal_in_one_case_of_twenty():
    draws = np.random.default_rng(0).chisquare(9, 4000)
    assert np.mean([Signal(draw, 9).kept > 0 for draw in draws]) == pytest.approx(0.05, abs=0.012)


def test_buckets_that_never_meet_are_refused(shuffled, seen):
    found = seen(shuffled, lambda p, bucket: p)
    early = np.arange(10)[:, None] < 5
    found = replace(found, positions_PK=np.where(early == [True, False], found.positions_PK, 0))
    with pytest.raises(ValueError, match="buckets never meet in one part"):
        effects_of(found)


def test_positions_without_a_baseline_and_lost_steps_are_counted(shuffled, sides):
    read, unread = learner(shuffled, *sides(shuffled), lambda p, bucket: p)
    rare = np.flatnonzero(unread.cell_N == 3)[FEWEST - 1 :]
    unread.cell_N[rare] = NO_CELL
    found = hindsight(shuffled, read, baseline_of(unread, CELLS), ["low", "high"], lost_steps={0, 5})
    assert found.lost == 16
    away = np.r_[shuffled[0:8], shuffled[40:48]]
    hidden = read.cell_N == 3
    assert found.without == hidden.sum() - hidden[away].sum()
    assert found.positions_PK.sum() == len(shuffled) - found.without - 16


def test_samples_that_an_order_leaves_out(arranged, sides):
    order = arranged(Shuffled(), max_tokens=8_000)
    read, _ = sides(order)
    rest = left_out(order, read)
    assert len(rest.loss_N) == order.manifest.facts["left_out"] > 0
    assert sorted(np.unique(rest.cell_N)) == [0, 1, 2, 3]
