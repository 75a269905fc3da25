"""The straggler's detector with synthetic times, and its clock with a fake loop; tests/torture tests it in runs."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from train.config.compose import compose
from train.distributed.world import World
from train.hooks.choice import hooks_of
from train.hooks.straggler import (
    EVERY,
    IN_A_ROW,
    Detector,
    Straggler,
    StragglerSettings,
    median_of_others,
    message_of,
)
from train.settings import TrainSettings


def observed(times_NR, ranks, factor=2.0, step_s=1.0):
    """Feed a detector with these times, one observation per row; return the changes and the detector."""
    detector = Detector(ranks, factor)
    changes = []
    for number, own_R in enumerate(times_NR, start=1):
        changes += [(number, change) for change in detector.observe(number * EVERY, np.array(own_R), step_s)]
    return changes, detector


def test_a_slow_rank_is_named_after_three_observations_and_again_when_it_keeps_up():
    times = [[0.1, 0.1, 0.1]] * 4 + [[0.1, 0.5, 0.1]] * 6 + [[0.1, 0.1, 0.11]] * 5
    changes, detector = observed(times, 3)
    assert [(number, change.rank, change.slow, change.since) for number, change in changes] == [
        (4 + IN_A_ROW, 1, True, 4 * EVERY),
        (10 + IN_A_ROW, 1, False, 10 * EVERY),
    ]
    slow = changes[0][1]
    assert slow.factor == pytest.approx(5.0)
    assert slow.share == pytest.approx(0.4)
    assert detector.slowest is None
    assert "rank 1 (node7) is a straggler: its own work takes 5.0 times as long" in message_of(slow, "node7", 35)
    assert "since step 20; they wait for it 40% of a step" in message_of(slow, "node7", 35)
    assert message_of(changes[1][1], "node7", 65) == "step 65: rank 1 (node7) keeps up again since step 50"


def test_a_short_delay_is_no_straggler_unless_it_is_clear():
    assert observed([[0.3, 0.1]] * 6, 2, step_s=0.5)[0][0][0] == 4  # 10 s in four times five steps
    assert observed([[0.03, 0.01]] * 60, 2, step_s=0.1)[0][0][0] == 20
    assert observed([[0.05, 0.01]] * 60, 2, step_s=0.06)[0][0][0] == IN_A_ROW


@pytest.mark.parametrize("ranks", [2, 3, 4, 9])
def test_the_median_of_the_others(ranks):
    rng = np.random.default_rng(ranks)
    for own_R in (rng.random(ranks), np.ones(ranks), rng.integers(0, 3, ranks).astype(float)):
        expected = [np.median(np.delete(own_R, rank)) for rank in range(ranks)]
        np.testing.assert_allclose(median_of_others(own_R), expected)


def test_of_two_ranks_the_other_one_is_the_reference():
    changes, detector = observed([[0.3, 0.1]] * 3, 2)
    assert [change.rank for _, change in changes] == [0]
    assert detector.slowest == 0
    assert detector.factor == pytest.approx(3.0)


def test_all_ranks_of_a_slow_node_are_named():
    changes, detector = observed([[0.1] * 8 + [0.3, 0.4]] * 3, 10)
    assert [change.rank for _, change in changes] == [8, 9]
    assert detector.slowest == 9


def test_rare_outliers_and_a_factor_that_costs_nothing_are_no_straggler():
    outliers = [[0.1, 0.9] if number % 3 else [0.1, 0.1] for number in range(100)]
    assert observed(outliers, 2)[0] == []
    waits_for_data = [[0.001, 0.02]] * 10  # twenty times as long, but a fiftieth of a step
    assert observed(waits_for_data, 2)[0] == []
    assert observed([[0.1, 0.19]] * 10, 2)[0] == []


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_ten_thousand_noisy_steps_give_no_alarm_and_five_times_as_long_always_one(ranks):
    """Log-normal noise of half a step's work, and pauses of ten steps' length, each on its own rank."""
    rng = np.random.default_rng(ranks)
    times_NR = rng.lognormal(-2.0, 0.5, (10_000, ranks))
    times_NR[rng.random(times_NR.shape) < 0.02] *= 10
    medians = np.median(times_NR.reshape(-1, EVERY, ranks), axis=1)
    assert observed(medians, ranks)[0] == []
    for slow in range(ranks):
        medians[:, slow] *= 5
        changes, _ = observed(medians[slow : slow + 4], ranks)
        assert [change.rank for _, change in changes] == [slow]
        medians[:, slow] /= 5


class Alone(Straggler):
    """Sends nothing: keeps the measurements of a window."""

    def _send(self, loop):
        self.measured = [step.host_s + sum((b - a) * n for a, b, n in step.spans) for step in self._done]
        self._done.clear()


def measured(stage, monkeypatch, passes=1, **pauses):
    """Return the own work of a step of two micro-batches, with pauses (s) at the given places."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def pass_(place, usual):
        now[0] += usual + pauses.get(place, 0.0)

    class Product(torch.nn.Linear):
        def forward(self, x):
            pass_("product", 2.0)
            return x

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.product = Product(1, 1)

        def forward(self, x):
            pass_("gathering", 1.0)
            return self.product(x)

    decoder = torch.nn.Module()
    decoder.layers = torch.nn.ModuleList(Block() for _ in range(3))
    decoder.forward = lambda x: torch.nn.Sequential(*decoder.layers)(x)
    loop = SimpleNamespace(
        world=World(0, 2, 0, 2, torch.device("cpu")),
        engine=SimpleNamespace(decoder=decoder, returned_at=now[0]),
        settings=SimpleNamespace(zero=SimpleNamespace(stage=stage), execution=SimpleNamespace(compile=False)),
        progress=SimpleNamespace(step=EVERY),
        window=SimpleNamespace(waited_s=pauses.get("data", 0.0)),
    )
    monkeypatch.setattr("train.hooks.straggler.Collectives.gather", lambda *_: ["a", "b"])
    hook = Alone(StragglerSettings())
    hook.pre_train(loop)
    hook.pre_step(loop, None)
    pass_("before", 1.0)
    for index in range(2):
        for _ in range(passes):
            decoder(torch.zeros(1))
            pass_("forward", 1.0)
        loop.engine.returned_at = now[0]
        pass_("after_forward", 1.0)
        hook.post_forward(loop, None, index, None)
        pass_("backward", 20.0)
        loop.engine.returned_at = now[0]
    pass_("after_backward", 1.0)
    hook.pre_optim_step(loop)
    pass_("optimizer", 50.0)
    loop.engine.returned_at = now[0]
    pass_("after_step", 1.0)
    hook.post_step(loop, None)
    hook.close(loop)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in decoder.modules())
    return hook.measured[0]


@pytest.mark.parametrize(("stage", "own"), [(0, 45.0), (1, 45.0), (2, 25.0), (3, 5.0 + 2 * 3 * 2.0)])
def test_local_work_counts_and_collectives_do_not(stage, own, monkeypatch):
    assert measured(stage, monkeypatch) == pytest.approx(own)
    assert measured(stage, monkeypatch, optimizer=9.0) == pytest.approx(own)
    assert measured(stage, monkeypatch, product=7.0) == pytest.approx(own + 7.0 * 3 * 2)  # three blocks, two passes
    assert measured(stage, monkeypatch, gathering=7.0) == pytest.approx(own + 7.0 * 3 * 2 * (stage < 3))
    for place, times in (("data", 1), ("before", 1), ("after_forward", 2), ("after_backward", 1), ("after_step", 1)):
        assert measured(stage, monkeypatch, **{place: 7.0}) == pytest.approx(own + 7.0 * times), place
    twice = measured(stage, monkeypatch, passes=2)  # an objective's: another forward pass of each micro-batch
    assert twice == pytest.approx(own + 2 * (3 * (1.0 + 2.0) + 1.0 if stage < 3 else 3 * 2.0))


def test_nothing_is_measured_on_one_rank_or_when_it_is_switched_off():
    words = ["output=o", "arm=a", "data.tokens=t", "data.order=o"]
    hooks = hooks_of(compose("train", TrainSettings, words))
    assert hooks[0].name == "straggler"
    alone = SimpleNamespace(world=World(0, 1, 0, 1, torch.device("cpu")))
    hooks[0].pre_train(alone)
    hooks[0].pre_step(alone, None)
    hooks[0].post_step(alone, None)
    assert hooks[0].metrics(alone) == {}
    off = hooks_of(compose("train", TrainSettings, [*words, "straggler.factor=null"]))
    assert "straggler" not in [hook.name for hook in off]
    with pytest.raises(ValueError, match=r"straggler\.factor=1\.0 must be above 1, or null"):
        StragglerSettings(1.0)
