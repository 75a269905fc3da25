"""`pdpc pairs score`: margins of PAIRS under a policy and a reward model, or with the rewards of the records.

    pdpc pairs score pairs=pairs policy=model output=scores                               processes on this machine
    pdpc pairs score engine=deepspeed processes=2 pairs=...                               ranks on this machine
    deepspeed --hostfile hosts --module launch.rank pairs score pairs=...                 ranks on many machines
    pdpc pairs score engine=ray pairs=...                                                 actors on a Ray cluster

Finished chunks are kept: run the same command again to resume, with any engine and any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curriculum.scores.scores import Scores
from launch.executors.choice import carry_out
from launch.score.pairs_settings import ScorePairsSettings


def run(settings: ScorePairsSettings, overrides: Sequence[str] = ()) -> Scores | int:
    """Score every answer of every slice; return the scores, or the ranks' exit code."""
    from launch.score.pairs_task import PairScoreTask, open_pairs_job
    from train.faults import arm, fault

    arm()
    if settings.picture is not None:
        from curriculum.pairs.table import PICTURE, draw
        from curriculum.work.figures import check_picture

        check_picture(Path(settings.picture), PICTURE)
    job = open_pairs_job(settings, fault)
    scores = job.reused()
    if scores is None:
        if code := carry_out(PairScoreTask(settings, job.identities), job, settings.engine, overrides):
            return code
        scores = Scores.open(job.folder, settings.slices[0])
    if settings.picture is not None:
        draw(scores, Path(settings.picture))
    return scores
