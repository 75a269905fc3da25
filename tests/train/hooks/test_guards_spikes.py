"""The spike detector in numbers: what it finds, and how often it is wrong (T9)."""

import math

import numpy as np
import pytest

from tests.torture.spikes import WINDOW, losses_of, series
from train.hooks.spikes import SpikeDetector


def test_eight_sigma_spikes_are_found_and_false_alarms_are_rare():
    made, found, false = series(seed=1)
    assert made > 150
    assert found >= 0.99 * made
    assert false <= 1


def test_nothing_is_a_spike_before_the_window_is_full():
    detector = SpikeDetector(6.0, 4)
    assert [detector.add(loss) for loss in (1.0, 1.1, 0.9, 100.0)] == [False] * 4
    assert detector.limit() < math.inf


def test_a_drop_is_no_spike():
    detector = SpikeDetector(6.0, 8)
    for loss in (1.0, 1.1) * 4:
        detector.add(loss)
    assert not detector.add(-50.0)


@pytest.mark.parametrize("height", [8.0, 12.0, 20.0])
def test_losses_that_stay_at_a_new_level_are_normal_after_a_few(height):
    rng = np.random.default_rng(0)
    detector = SpikeDetector(6.0, WINDOW)
    for loss in rng.normal(3.0, 0.1, 500):
        detector.add(float(loss))
    said = [detector.add(float(loss)) for loss in rng.normal(3.0 + height * 0.1, 0.1, 200)]
    assert said[0]
    assert not any(said[20:])


def test_it_resumes_where_it_stopped():
    losses = losses_of(600, seed=3)
    whole = SpikeDetector(6.0, WINDOW)
    first = SpikeDetector(6.0, WINDOW)
    for loss in losses[:300]:
        whole.add(float(loss))
        first.add(float(loss))
    second = SpikeDetector(6.0, WINDOW, list(first.losses))
    for loss in losses[300:]:
        assert whole.limit() == second.limit()
        assert whole.add(float(loss)) == second.add(float(loss))
