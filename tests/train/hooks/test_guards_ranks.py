"""Guards, signals, hangs and a full disk in runs of real ranks, and short versions of their campaigns."""

import json

import pytest
import torch

from curriculum.artifact.manifest import open_manifest
from tests.torture import hang, nan, preempt
from tests.torture.runs import PATIENCE_S, Ending, Material
from tests.train.evaluation.questions import Questions
from train import checkpoint
from train.records.consumed import read_consumed
from train.records.layout import CHECKPOINTS, EXPORT
from train.records.run_json import read_run
from train.records.skipped import SKIPPED


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return Material.make(tmp_path_factory.mktemp("guards") / "material")


def test_a_rollback_restores_the_weights_of_the_last_checkpoint_and_loses_no_sample(material, forks, tmp_path):
    folder = tmp_path / "run"
    words = ("guards.spike=rollback", "guards.spike_window=3", "guards.spike_sigma=0.01", "guards.stop_after=99")
    more = ("checkpoints.keep_last=99", "optimizer.lr=1e-6", "log_every=1", "averaging.decay=0.9", "averaging.every=1")
    ranks = material.start(forks, folder, 2, [*words, *more])
    assert ranks.wait(PATIENCE_S) == [0, 0], ranks.told()
    entries = [json.loads(line) for line in (folder / SKIPPED).read_text().splitlines()]
    rollbacks = [entry for entry in entries if entry["reason"] == "rollback"]
    assert rollbacks
    for entry in rollbacks:
        now, back = (
            open_manifest(checkpoint.folder_of(folder / CHECKPOINTS, step), checkpoint.KIND)
            for step in (entry["step"], entry["weights_of_step"])
        )
        assert now.facts["updates"] == back.facts["updates"]
        # Written when all hooks have seen the step and it is on record: nothing is reported or averaged twice.
        hooks = now.facts["hooks"]
        assert (hooks["loop"]["tokens"], hooks["loop"]["first_step"]) == (0, entry["step"])
        assert hooks["averages"]["updates"] == back.facts["hooks"]["averages"]["updates"] + 1
    weights, before = (
        checkpoint.read_weights(checkpoint.folder_of(folder / CHECKPOINTS, rollbacks[0][key]))[1]
        for key in ("step", "weights_of_step")
    )
    assert all(torch.equal(weights[name], before[name]) for name in before)
    order = material.order
    assert read_consumed(folder).tolist() == order[0 : len(order)].tolist()
    assert {entry["step"] for entry in rollbacks} <= {entry["step"] for entry in entries if entry["reason"] == "spike"}


def test_a_full_disk_on_one_rank_ends_all_with_75_and_the_checkpoint_before_stays(material, forks, tmp_path):
    folder = tmp_path / "run"
    ranks = material.start(forks, folder, 2, fault="checkpoint.after_shard:rank=1:nth=2:raise")
    assert ranks.wait(PATIENCE_S) == [75, 75], ranks.told()
    told = ranks.told()
    assert "free space and run again" in told
    assert "Traceback" not in told
    assert [path.name for path in (folder / CHECKPOINTS).iterdir()] == ["step_00000003"]
    assert material.finish(forks, folder, 2) is None
    assert Ending.of(folder).consumed == material.order[0 : len(material.order)].tolist()


def test_a_signal_in_an_evaluation_takes_effect_at_once_and_the_evaluation_is_repeated(material, forks, tmp_path):
    import signal

    folder = tmp_path / "run"
    ranks = material.start(forks, folder, 2, ["slow_timeout_s=60"], "loop.in_evaluation:rank=0:hang")
    ranks.wait_for("fault loop.in_evaluation")
    ranks.kill(signal.SIGUSR1)
    assert ranks.wait(PATIENCE_S) == [138, 138], ranks.told()
    assert material.finish(forks, folder, 2) is None
    stages = [record["step"] for record in Ending.of(folder).records if record["kind"] == "stage"]
    assert stages == material.order.stage_ends


def test_a_loss_that_is_not_finite_does_not_keep_a_checkpoint_from_being_written(material, forks, tmp_path):
    folder = tmp_path / "run"
    words = ["guards.finite=false", "checkpoints.save_every=1", "log_every=99"]
    ranks = material.start(forks, folder, 2, words, "guard.loss:rank=1:nth=2:nan")
    assert ranks.wait(PATIENCE_S) == [0, 0], ranks.told()
    facts = open_manifest(checkpoint.newest(folder / CHECKPOINTS), checkpoint.KIND).facts
    assert facts["updates"] == facts["step"] - 1


def damaged_at_the_end(words, output):
    """Run a rank whose last checkpoint is damaged before the export."""
    from pathlib import Path

    from tests.torture.forks import train
    from train.loop import Loop

    run = Loop.run

    def then_damaged(loop):
        run(loop)
        if loop.world.first:
            file = checkpoint.newest(Path(output) / CHECKPOINTS) / "rank_00000.safetensors"
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)

    Loop.run = then_damaged
    return train(words, output)


def test_a_run_whose_last_checkpoint_is_damaged_is_not_finished(material, forks, tmp_path):
    folder = tmp_path / "run"
    arguments = {"words": list(material.words), "output": str(folder)}
    ranks = forks.start(f"{__name__}:damaged_at_the_end", arguments, 2, tmp_path / "log")
    assert ranks.wait(PATIENCE_S) == [74, 74], ranks.told()
    assert "is damaged, so the run is not finished: run the same command again to resume from" in ranks.told()
    assert not (folder / EXPORT).exists()
    assert material.finish(forks, folder, 2) is None
    assert Ending.of(folder).consumed == material.order[0 : len(material.order)].tolist()


def signalled_while_it_waits(words, output):
    """Run a rank that gets SIGTERM while it waits for the batch of step 5."""
    import os
    import signal

    from tests.torture.forks import train
    from train import loop

    run, running = loop.Loop.run, []

    def noted(one):
        running.append(one)
        run(one)

    def slow(batches):
        for batch in batches:
            if batch.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
                until_noticed(running[0].signals)
            yield batch

    loop.Loop.run, loop.prefetched = noted, slow
    return train(words, output)


def until_noticed(signals):
    """Wait until a signal to this process has been read."""
    import time

    while not signals.number:
        time.sleep(0.005)


def test_a_signal_between_two_steps_loses_none(material, forks, tmp_path):
    arguments = {"words": [*material.words, "checkpoints.save_every=99"], "output": str(tmp_path / "run")}
    ranks = forks.start(f"{__name__}:signalled_while_it_waits", arguments, 2, tmp_path / "log")
    assert ranks.wait(PATIENCE_S) == [143, 143], ranks.told()
    newest = checkpoint.newest(tmp_path / "run" / CHECKPOINTS)
    assert checkpoint.step_of(newest) == 5, ranks.told()
    assert "exited on SIGTERM with a checkpoint of step 5" in ranks.told()
    assert read_run(tmp_path / "run")["status"] == "stopped by SIGTERM"
    assert material.finish(forks, tmp_path / "run", 2, ["checkpoints.save_every=99"]) is None


def signalled_before_the_export(words, output):
    """Run a rank that gets SIGTERM after the last evaluation, when only the export is left."""
    import os
    import signal

    from tests.torture.forks import train
    from train.loop import Loop

    run = Loop.run

    def then_signalled(loop):
        run(loop)
        loop.signals.holds = True  # as in the loop, which has not quite ended after the last evaluation
        os.kill(os.getpid(), signal.SIGTERM)
        until_noticed(loop.signals)

    Loop.run = then_signalled
    return train(words, output)


def test_a_signal_after_the_last_evaluation_does_not_wait_for_the_export(material, forks, tmp_path):
    folder = tmp_path / "run"
    arguments = {"words": [*material.words], "output": str(folder)}
    ranks = forks.start(f"{__name__}:signalled_before_the_export", arguments, 2, tmp_path / "log")
    assert ranks.wait(PATIENCE_S) == [143, 143], ranks.told()
    assert "there is nothing to save" in ranks.told()
    assert not (folder / EXPORT).exists()
    assert material.finish(forks, folder, 2) is None
    assert (folder / EXPORT).is_dir()


def asked(words, output):
    """Run a rank whose steps are watched: their host-device syncs are in the file."""
    from tests.torture.forks import train
    from train.loop import Loop

    step = Loop.train_step
    found = open(f"{output}.asked", "a")  # noqa: SIM115  # until the process ends

    def watched(loop, batch):
        with Questions() as questions:
            step(loop, batch)
        of_the_device = [line for line in questions.found if "documents.py" not in line]  # from ids that the host has
        print(*of_the_device, sep="\n", file=found, flush=True)

    Loop.train_step = watched
    return train(words, output)


@pytest.mark.parametrize(("words", "asks"), [([], False), (["guards.spike=skip", "guards.spike_window=4"], True)])
def test_a_step_without_logging_makes_no_host_device_sync(material, forks, tmp_path, words, asks):
    words = [*material.words, "zero.stage=1", "precision=bf16", "log_every=1000", "averaging.decay=0.9", *words]
    arguments = {"words": words, "output": str(tmp_path / "run")}
    ranks = forks.start(f"{__name__}:asked", arguments, 2, tmp_path / "log")
    assert ranks.wait(PATIENCE_S) == [0, 0], ranks.told()
    lines = (tmp_path / "run.asked").read_text().split("\n")
    assert len(lines) >= 2 * material.order.steps
    assert any(lines) is asks, set(lines)


@pytest.mark.parametrize(("campaign", "count"), [(nan, 1), (hang, 1), (preempt, 1)])
def test_a_short_campaign(campaign, count, forks, tmp_path):
    tally = campaign.run(count, 3, tmp_path)
    assert tally.good, tally.failures
