"""A run that resumes with an order of another length: its learning rate moves only on record."""

import logging
from types import SimpleNamespace

import pytest

from curriculum.artifact.create import write_manifest
from curriculum.order.contents import contents_of
from train.resume.lineage import ChangedRun
from train.resume.rate import check_rate
from train.schedule import Schedule, ScheduleSettings

SEQ_LEN = 8


class Order:
    """An order as far as its length matters."""

    def __init__(self, fingerprint, steps, batch_sizes=((0, 16),)):
        self.fingerprint, self.folder, self.steps = fingerprint, fingerprint, steps
        self.batch_sizes = [list(stretch) for stretch in batch_sizes]
        self.samples = sum(
            (last - first) * size
            for (first, size), last in zip(
                self.batch_sizes, [*(first for first, _ in self.batch_sizes[1:]), steps], strict=True
            )
        )
        self.manifest = SimpleNamespace(facts={"different_samples": self.samples, "left_out": 0, "repeated": 0})

    def __len__(self):
        return self.samples


OLD = Order("old", 1000)


@pytest.fixture
def asked(tmp_path):
    """Check a run of OLD at step 500 that resumes with another order."""

    def check(order, accept=(), schedule=None, lives=None, trained_on="old"):
        folder = tmp_path / "step_00000500"
        if not folder.exists():
            folder.mkdir()
            write_manifest(folder, "checkpoint", config={}, inputs={"order": trained_on}, facts={"step": 500})
        settings = SimpleNamespace(
            schedule=schedule or ScheduleSettings(), optimizer=SimpleNamespace(lr=3e-4), accept_change=list(accept)
        )
        planned = Schedule.over(settings.schedule, 3e-4, order.steps, order.batch_sizes, SEQ_LEN)
        inputs = SimpleNamespace(order=order, schedule=planned, tokens=SimpleNamespace(seq_len=SEQ_LEN))
        attempt = {"step": 0, "order": "old", "arranged": contents_of(OLD)}
        return check_rate(folder, settings, inputs, {"lives": [attempt] if lives is None else lives})

    return check


@pytest.mark.parametrize("steps", [750, 1500])
def test_a_rate_that_moves_with_the_length_is_asked_about_with_both_values(asked, steps):
    with pytest.raises(ChangedRun) as refusal:
        asked(Order("new", steps))
    text = str(refusal.value)
    was = Schedule.of(ScheduleSettings(), 3e-4, 1000, 1)(500)
    now = Schedule.of(ScheduleSettings(), 3e-4, steps, 1)(500)
    assert f"the learning rate of step 501 moves from {was:.4g} to {now:.4g} (x {now / was:.3g})" in text
    assert f"planned over 1,000 steps, and order new has {steps:,}" in text
    assert text.endswith("--accept-change schedule.steps")


def test_an_accepted_rate_is_on_record_and_not_asked_about_again(asked, caplog):
    new = Order("new", 1500)
    with caplog.at_level(logging.WARNING):
        (change,) = asked(new, accept=["schedule.steps"])
    assert (change.field, change.old, change.new) == ("schedule.steps", 1000, 1500)
    assert "accepted on record: the learning rate of step 501 moves from" in caplog.text
    first = {"step": 0, "order": "old", "arranged": contents_of(OLD)}
    again = {"step": 500, "order": "new", "accepted": [vars(change)], "arranged": contents_of(new)}
    assert len(asked(new, lives=[first, again])) == 1


def test_no_question_where_the_rate_stays(asked):
    assert asked(Order("old", 1000)) == []
    assert asked(Order("new", 1000)) == []
    assert asked(Order("new", 1500), schedule=ScheduleSettings(name="constant", final_share=1.0)) == []
    assert asked(Order("new", 1500), schedule=ScheduleSettings(name="wsd", warmup_steps=10)) == []
    assert asked(Order("new", 750, [(0, 16), (500, 32)])) == []  # as many samples: the rate follows them


def test_an_order_whose_length_is_unknown_is_said_to_be_so(asked, caplog):
    assert asked(Order("new", 1500), lives=[{"step": 0, "order": "old"}]) == []
    assert "the length of order old, with which the run began, is not known" in caplog.text
