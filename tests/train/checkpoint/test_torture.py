"""A small dose of every campaign on checkpoints, and a check that each can fail. PDPC_TORTURE=n: n times the dose."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest

from tests.torture import damage, disk, poison, power
from tests.torture.calls import watched
from tests.torture.ranks import on_ranks, save_step

DOSE = int(os.environ.get("PDPC_TORTURE", "1"))


@pytest.mark.parametrize(("campaign", "count"), [(power, 30), (disk, 12), (damage, 20), (poison, 96)])
def test_a_small_dose(campaign, count, tmp_path):
    tally = campaign.run(DOSE * count, 7, tmp_path)
    assert tally.attempts == DOSE * count
    assert tally.good, "\n".join(tally.failures)


def test_every_prefix_of_a_save(tmp_path):
    tally = power.every_prefix(tmp_path)
    assert tally.attempts > 200
    assert tally.good, "\n".join(tally.failures)


def test_the_recorded_calls_are_complete():
    for first in (False, True):
        recorded = power.interleaved(power.record(first), np.random.default_rng(0))
        disk_after = power.crash(recorded, len(recorded.calls), set())
        files = {name: bytes(disk_after.data[number] or b"") for name, number in disk_after.names.items()}
        assert files == {name.rstrip("/"): data for name, data in recorded.after.items()}


@pytest.mark.parametrize("forgotten", [".safetensors", ".manifest.json.tmp-", "step_00000006.tmp-", "checkpoints"])
def test_a_missing_sync_is_detected(tmp_path, forgotten, monkeypatch):
    """Without syncing the files, the manifest or one of the two folders, some power loss destroys both."""
    recorded = power.record(True)
    calls = [c for c in recorded.calls if not (c.name == "fsync" and c.path.rpartition("/")[2].find(forgotten) >= 0)]
    assert len(calls) < len(recorded.calls)
    weaker = replace(recorded, calls=calls)
    last = next(number for number, call in enumerate(calls) if call.target.endswith("step_00000006")) + 1
    problems = [
        power.problem_of(replace(weaker, calls=calls[:last]), last, set(subset), tmp_path)
        for subset in ([], *([n] for n in power.unsynced(calls[:last])))
    ]
    assert any(problems)


def test_the_payloads_execute_in_a_careless_reader(tmp_path):
    canary = tmp_path / "canary"
    bad = poison.payloads(canary)
    assert len(bad) >= 15
    for name in ("pickle 0", "pickle 5", "pickle of exec"):
        pickle.loads(bad[name])
        assert canary.exists(), name
        canary.unlink()
    import io

    import torch
    import yaml

    np.load(io.BytesIO(bad["npy"]), allow_pickle=True)
    assert canary.exists()
    canary.unlink()
    torch.load(io.BytesIO(bad["torch zip"]), weights_only=False)
    assert canary.exists()
    canary.unlink()
    yaml.unsafe_load(bad["yaml"])
    assert canary.exists()


def test_a_failing_call_is_reported_and_counted(tmp_path):
    with watched(tmp_path, 5) as seen:
        results = on_ranks(2, lambda world: save_step(tmp_path / "checkpoints", world, 2))
    assert seen.failed is not None
    assert all(isinstance(result, OSError) and result.errno == 28 for result in results)
