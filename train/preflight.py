"""What can be checked about a run before its ranks start, on any machine that sees its files: also without their GPUs.

`pdpc train` and `pdpc launch` run the same checks; the ranks repeat them, and add what depends on their own machine.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from train.inputs import Inputs, check_scores, open_inputs
from train.settings import TrainSettings

CHECKPOINT_BYTES = 12
"""Bytes per parameter of a checkpoint: float32 weights and two moments."""


@dataclass(frozen=True)
class Preflight:
    """A run that passed the checks."""

    inputs: Inputs
    finished: bool
    """Does the output already hold this run, finished?"""


def check_run(settings: TrainSettings, ranks: int) -> Preflight:
    """Open the inputs of a run and check that `ranks` ranks can train on them; nothing is written.

    Raises ValueError or ArtifactError naming what does not fit: data, tasks, batch size and ranks, scores, trackers,
    the settings of an earlier attempt. Raises OSError (ENOSPC) if its disk has no space for a checkpoint.
    """
    from train.engine.config import deepspeed_config
    from train.resume.branching import branch_point
    from train.resume.identity import check_acceptable
    from train.resume.runfolder import finished
    from train.tracking import check_tracker

    check_acceptable(settings.accept_change)
    inputs = open_inputs(settings)
    deepspeed_config(settings, inputs.order.batch_size, ranks)
    if settings.branch_of is not None and not Path(settings.output).exists():
        branch_point(settings, inputs.order)
    over = finished(Path(settings.output), settings, inputs)
    if not over:
        check_scores(settings, inputs)
        check_tracker(settings.tracker)
        _check_space(settings, inputs)
    return Preflight(inputs, over)


def _check_space(settings: TrainSettings, inputs: Inputs) -> None:
    """Raise OSError (ENOSPC) if not even one checkpoint fits on the disk of the output."""
    from train.checkpoint.space import free_bytes

    free, one = free_bytes(Path(settings.output).absolute()), CHECKPOINT_BYTES * inputs.decoder.parameter_count()
    if one > free:
        raise OSError(
            errno.ENOSPC,
            f"output={settings.output} has {free:,} bytes free, and a checkpoint of this run takes {one:,} "
            f"({settings.checkpoints.keep_last} are kept while one is written): free space or choose another disk",
        )
