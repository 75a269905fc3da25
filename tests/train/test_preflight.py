"""What is checked about a run before anything is started or queued."""

import errno
from pathlib import Path

import pytest

from curriculum.arrange.arrange import ArrangeSettings
from curriculum.arrange.arrange import run as arrange
from train.checkpoint import space
from train.config.compose import compose
from train.preflight import CHECKPOINT_BYTES, check_run
from train.settings import TrainSettings


@pytest.fixture(scope="module")
def settings(tokens_folder, tmp_path_factory):
    """Return a function that composes the settings of a run whose order has a batch of 8 samples."""
    folder = tmp_path_factory.mktemp("preflight")
    arrange(ArrangeSettings(tokens=str(tokens_folder), output=str(folder / "order"), batch_size=8, workers=1))

    def of(*words):
        given = ["arm=a", "tracker=none", f"data.tokens={tokens_folder}", f"data.order={folder}/order"]
        sizes = ["model.layers=1", "model.width=16", "model.heads=2", "model.kv_heads=1", "model.ffn=24"]
        more = ["micro_batch_size=2", f"output={folder}/run"]
        return compose("train", TrainSettings, [*given, *sizes, *more, *words])

    return of


def test_a_run_that_fits_passes_and_nothing_is_written(settings):
    checked = check_run(settings(), ranks=4)
    assert not checked.finished
    assert checked.inputs.order.batch_size == 8
    assert not Path(settings().output).exists()


@pytest.mark.parametrize(
    ("words", "ranks", "message"),
    [
        (["data.tokens=/nope"], 4, "/nope"),
        (["data.order=/nope"], 4, "/nope"),
        (["data.scores=/nope"], 4, "/nope"),
        (["init=/nope"], 4, "/nope"),
        ([], 3, "world_size=3 does not divide the order's batch of 8 samples"),
        ([], 8, "micro_batch_size=2 on 8 ranks does not divide the order's batch of 8 samples"),
        (["accept_change=[optimizer.lrr]"], 4, "accept_change=optimizer.lrr is not a field of a run"),
        (["output=/proc/version/run"], 4, "is below /proc/version, which is a file"),
    ],
)
def test_what_train_would_reject_is_named(words, ranks, message, settings):
    with pytest.raises((ValueError, OSError)) as error:
        check_run(settings(*words), ranks)
    assert message in str(error.value)


def test_a_disk_without_space_for_a_checkpoint_is_named(settings, monkeypatch):
    count = check_run(settings(), 4).inputs.decoder.parameter_count()
    monkeypatch.setattr(space, "free_bytes", lambda folder: CHECKPOINT_BYTES * count)
    check_run(settings(), 4)
    monkeypatch.setattr(space, "free_bytes", lambda folder: CHECKPOINT_BYTES * count - 1)
    with pytest.raises(OSError, match=r"a checkpoint of this run takes [\d,]+ \(2 are kept") as error:
        check_run(settings(), 4)
    assert error.value.errno == errno.ENOSPC
