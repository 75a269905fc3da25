"""`pdpc score`: the loss of every sample under reference models, from runs or Hugging Face folders.

    pdpc score tokens=tokens models.weak=weak models.strong=strong output=scores          processes on this machine
    pdpc score engine=deepspeed processes=2 tokens=...                                    ranks on this machine
    deepspeed --hostfile hosts --module launch.rank score tokens=...                      ranks on many machines
    pdpc score engine=ray tokens=...                                                      actors on a Ray cluster

Finished chunks are kept: run the same command again to resume, with any engine and any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curriculum.scores.scores import Scores
from launch.executors.choice import carry_out
from launch.score.settings import ScoreSettings


def run(settings: ScoreSettings, overrides: Sequence[str] = ()) -> Scores | int:
    """Score every sample of every slice with every model; return the scores, or the ranks' exit code."""
    from launch.score.task import ScoreTask, open_job
    from train.faults import arm, fault

    arm()
    if settings.picture is not None:
        from curriculum.scores.table import PICTURE, draw
        from curriculum.work.figures import check_picture

        check_picture(Path(settings.picture), PICTURE)
    job = open_job(settings, fault)
    if settings.trial is not None:
        from launch.score.trial import show_trial

        show_trial(settings, job)
        return 0
    scores = job.reused()
    if scores is None:
        if code := carry_out(ScoreTask(settings, job.identities), job, settings.engine, overrides):
            return code
        scores = Scores.open(job.folder, settings.slices[0])
    if settings.picture is not None:
        draw(scores, job.tokens[settings.slices[0]], Path(settings.picture))
    return scores
