"""The guard with a fake loop: which steps it skips, what it records, when it stops the run."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from train.distributed.world import World
from train.hooks.choice import hooks_of
from train.hooks.guards import Guard, GuardStopped
from train.records.skipped import SKIPPED, Lost, lost_until
from train.settings import GuardSettings

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
BATCH = 4


class Order:
    """Samples 100, 101, ... in global batches of four."""

    batch_size = BATCH

    def __len__(self):
        return 400

    def __getitem__(self, part):
        return np.arange(100, 500)[part]

    def cursor_after(self, steps):
        return min(steps * BATCH, len(self))


class Tokens:
    """Samples of ten labels each."""

    def real_tokens(self, ids):
        return np.full(len(ids), 10)


class FakeLoop:
    """The parts of a loop that a guard uses: `losses` and `norm` of the next step, and the outcome."""

    def __init__(self, guard, back=None):
        self.world, self.inputs = ALONE, SimpleNamespace(order=Order(), tokens=Tokens())
        self.engine = SimpleNamespace(gradient_norm=lambda: torch.tensor(self.norm))
        self.progress = SimpleNamespace(step=0)
        self.guard, self.norm, self.back, self.save_due = guard, 1.0, back, False
        self.watchdog = SimpleNamespace(slow=lambda doing: nullcontext())
        guard.pre_train(self)

    @property
    def cursor(self):
        return self.progress.step * BATCH

    def restore(self):
        return self.back

    def step(self, losses=(1.0, 1.0, 1.0, 1.0), norm=1.0):
        """Make a step with these losses of its samples; return whether the weights were updated."""
        step, self.norm = self.progress.step, norm
        ids = list(range(100 + step * BATCH, 100 + (step + 1) * BATCH))
        batch = SimpleNamespace(step=step, ids=ids, global_count=BATCH, global_tokens=10 * BATCH)
        self.guard.pre_step(self, batch)
        self.losses_N = torch.tensor(losses, dtype=torch.float64)
        self.left_out = self.guard.pre_optim_step(self)
        self.progress.step += 1
        self.guard.post_step(self, batch)
        return not self.left_out

    def entries(self, folder):
        self.guard.metrics(self)  # a record: every verdict is read
        return [json.loads(line) for line in (folder / SKIPPED).read_text().splitlines()]


def test_a_finite_step_updates_the_weights_and_leaves_no_record(tmp_path):
    loop = FakeLoop(Guard(GuardSettings(), tmp_path))
    assert loop.step()
    assert not (tmp_path / SKIPPED).exists()
    assert loop.guard.metrics(loop) == {"guard/not_finite": 0.0, "guard/spike": 0.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_step_with_a_non_finite_loss_is_skipped_and_its_sample_named(tmp_path, bad):
    loop = FakeLoop(Guard(GuardSettings(), tmp_path))
    assert loop.step()
    assert not loop.step(losses=(1.0, 1.0, bad, 1.0))
    assert loop.step()
    (entry,) = loop.entries(tmp_path)
    assert entry["step"] == 2
    assert entry["reason"] == "not_finite"
    assert entry["samples"] == [104, 105, 106, 107]
    assert entry["tokens"] == 40
    assert entry["suspects"] == [106]
    assert loop.guard.metrics(loop)["guard/not_finite"] == 1.0


def test_a_step_with_a_non_finite_gradient_is_skipped(tmp_path):
    loop = FakeLoop(Guard(GuardSettings(), tmp_path))
    assert not loop.step(norm=float("nan"))
    assert loop.entries(tmp_path)[0]["grad_norm"] == "nan"


def test_the_run_stops_after_n_in_a_row_and_names_the_samples(tmp_path):
    loop = FakeLoop(Guard(GuardSettings(stop_after=3), tmp_path))
    for _ in range(2):
        loop.step(norm=float("inf"))
    assert loop.step()  # the row ends
    for _ in range(3):
        loop.step(norm=float("inf"))
    with pytest.raises(GuardStopped, match=r"3 steps in a row were skipped.*samples 120, 121, 122, 123") as caught:
        loop.step()  # the verdict of a step is read when the device has the next one
    assert caught.value.exit_code == 70
    assert len(loop.entries(tmp_path)) == 5


def test_with_the_finite_guard_off_nothing_is_skipped(tmp_path):
    loop = FakeLoop(Guard(GuardSettings(finite=False, spike="skip"), tmp_path))
    assert loop.step(losses=(1.0, float("nan"), 1.0, 1.0))


def warmed(guard, **more):
    loop = FakeLoop(guard, **more)
    for index in range(8):
        assert loop.step(losses=(1.0 + 0.01 * (index % 2),) * 4)
    return loop


def test_a_spike_is_skipped_and_the_guard_resumes_from_its_state(tmp_path):
    settings = GuardSettings(spike="skip", spike_window=8)
    loop = warmed(Guard(settings, tmp_path))
    state = json.loads(json.dumps(loop.guard.state()))
    assert not loop.step(losses=(5.0,) * 4)
    (entry,) = loop.entries(tmp_path)
    assert (entry["reason"], entry["loss"]) == ("spike", 5.0)
    resumed = Guard(settings, tmp_path)
    resumed.load_state(state)
    assert resumed.state() == state
    again = FakeLoop(resumed)
    assert not again.step(losses=(5.0,) * 4)


def test_with_spikes_off_a_spike_is_ignored(tmp_path):
    assert warmed(Guard(GuardSettings(spike_window=8), tmp_path)).step(losses=(5.0,) * 4)


def test_a_rollback_restores_the_last_weights_and_records_the_skipped_samples(tmp_path):
    loop = warmed(Guard(GuardSettings(spike="rollback", spike_window=8), tmp_path), back=6)
    assert not loop.step(losses=(5.0,) * 4)
    spike, rollback = loop.entries(tmp_path)
    assert spike["reason"] == "spike"
    assert rollback == {"step": 9, "reason": "rollback", "weights_of_step": 6, "tokens": 120, "positions": [24, 36]}
    assert lost_until(tmp_path / SKIPPED, 9) == Lost(skipped=1, rollbacks=1, steps=3, tokens=120)
    assert loop.save_due


def test_a_rollback_without_a_checkpoint_skips_the_step(tmp_path):
    loop = warmed(Guard(GuardSettings(spike="rollback", spike_window=8), tmp_path), back=None)
    assert not loop.step(losses=(5.0,) * 4)
    assert [entry["reason"] for entry in loop.entries(tmp_path)] == ["spike"]
    assert not loop.save_due


def test_a_resumed_run_drops_repeated_steps_and_a_torn_line(tmp_path):
    kept, comes_again = ({"step": step, "reason": "spike"} for step in (3, 7))
    (tmp_path / SKIPPED).write_text(f"{json.dumps(kept)}\n{json.dumps(comes_again)}\n" + '{"step": 8, "rea')
    loop = FakeLoop(Guard(GuardSettings(), tmp_path))
    loop.progress.step = 5
    loop.guard.pre_train(loop)
    assert loop.entries(tmp_path) == []  # it started at step 0: everything is repeated
    (tmp_path / SKIPPED).write_text(f"{json.dumps(kept)}\n{json.dumps(comes_again)}\n" + '{"step": 8, "rea')
    loop.guard.pre_train(loop)
    assert loop.entries(tmp_path) == [kept]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spike": "maybe"}, "guards.spike='maybe' is unknown: use one of off, skip, rollback"),
        ({"stop_after": 0}, "guards.stop_after=0"),
        ({"spike_sigma": 0.0}, "guards.spike_sigma=0.0"),
        ({"spike_window": 1}, "guards.spike_window=1"),
    ],
)
def test_invalid_settings_are_rejected(change, said):
    with pytest.raises(ValueError, match="guards") as caught:
        GuardSettings(**change)
    assert said in str(caught.value)


@pytest.mark.parametrize(("settings", "there"), [({}, True), ({"finite": False}, False)])
def test_with_both_off_there_is_no_guard_and_no_sync(settings, there):
    from train.settings import DataSettings, ModelSettings, TrainSettings

    made = TrainSettings(
        output="run",
        arm="a",
        data=DataSettings("tokens", "order"),
        model=ModelSettings(1, 8, 1, 1, 8),
        guards=GuardSettings(**settings),
    )
    assert any(isinstance(hook, Guard) for hook in hooks_of(made)) is there
