"""A few attempts of the campaigns on hostile input; `make torture` runs them in full."""

import numpy as np
import pytest

from tests.torture import canaries, fuzz, hostile, outside, strangers, tokenizers
from tests.torture.fuzz_places import PLACES


@pytest.mark.parametrize(("campaign", "count"), [(hostile, 30), (outside, 12), (tokenizers, 1), (fuzz, 120)])
def test_a_few_attempts(campaign, count, tmp_path):
    tally = campaign.run(count, 11, tmp_path)
    assert tally.attempts == count
    assert tally.good, "\n".join(tally.failures)


def test_a_round_has_every_payload_with_every_target(tmp_path):
    assert len(hostile.cases(tmp_path)) == hostile.FULL
    assert len(outside.payloads()) == outside.FULL
    assert len({payload.text for _, payload in hostile.cases(tmp_path)}) >= 60


def test_the_fence_sees_calls_outside(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    with outside.fence(tmp_path / "outside") as seen:
        (tmp_path / "inside").write_text("x")
        assert seen == []
        (tmp_path / "link" / "file").write_text("x")
    assert any(str(tmp_path / "outside" / "file") in one for one in seen)


def test_a_reader_that_crashes_hangs_or_takes_too_much_memory_fails(tmp_path, monkeypatch):
    import signal
    import time

    monkeypatch.setattr(fuzz, "LIMIT_S", 0.2)
    before = signal.signal(signal.SIGALRM, fuzz._too_long)
    (tmp_path / "a.json").write_text('{"size": 1}')
    whole = {"a.json": b'{"size": 1}'}

    def grab(root):
        raise MemoryError

    try:
        for reader, message in (
            (lambda root: {}["x"], "KeyError"),
            (lambda root: time.sleep(5), "not done"),
            (grab, "Memory"),
        ):
            assert message in str(fuzz.problem_of(tmp_path, 1, whole, {"a.json": reader}))

        def unnamed(root):
            raise ValueError("something")

        assert "not named" in str(fuzz.problem_of(tmp_path, 1, whole, {"a.json": unnamed}))
        assert (tmp_path / "a.json").read_bytes() == whole["a.json"]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_canary_is_found_in_every_form(tmp_path):
    environment, secrets = canaries.planted(np.random.default_rng(1))
    assert len(secrets) == 5
    assert set(environment) >= {"WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"}
    for secret in secrets:
        for number, form in enumerate(canaries.forms(secret)):
            (tmp_path / "page").write_bytes(b"<p>" + form + b"</p>")
            assert list(canaries.hits(tmp_path, secrets)), (secret, number)
    (tmp_path / "page").write_bytes(b"<p>***</p>")
    assert list(canaries.hits(tmp_path, secrets)) == []


def test_a_few_strangers(tmp_path, forks):
    tally = strangers.run_cases(list(strangers.QUICK), 1, tmp_path)
    assert tally.attempts == len(strangers.QUICK)
    assert tally.good, "\n".join(tally.failures)


def test_a_stranger_that_gets_through_is_counted(tmp_path, forks, monkeypatch):
    def writes(ground):
        ground.canary.touch()

    monkeypatch.setattr(strangers, "VARIANTS", {"writes": writes, "says": lambda ground: "accepted"})
    tally = strangers.run_cases(["writes", "says"], 1, tmp_path)
    assert tally.failures == ["seed 1: writes: code was run", "seed 2: says: accepted"]


def test_every_kind_of_file_is_fuzzed():
    assert len(PLACES) >= 28
