"""`pdpc evaluate`: held-out loss and benchmarks of a run's checkpoints or of a model; tasks packed for offline use.

    pdpc evaluate run=runs/pdpc benchmarks.tasks=[arc_easy]     the newest checkpoint; the run's records are unchanged
    pdpc evaluate run=runs/pdpc stages=failed                   repeat failed stages; updates the run's records
    pdpc evaluate folder=export tokens=tokens processes=8 ...   a Hugging Face folder, on eight ranks
    pdpc evaluate --pack packs/arc benchmarks.tasks=[arc_easy]  tasks with their data, for a machine without internet

The exit code is 1 if any evaluation failed.
"""

from __future__ import annotations

from collections.abc import Sequence

from curriculum.work.cpus import threads_per_process
from launch.evaluate.settings import EvaluateSettings


def run(settings: EvaluateSettings, overrides: Sequence[str] = ()) -> int:
    """Evaluate or pack, in this process or on ranks of this machine; return 1 if any part failed, else 0."""
    if settings.pack is not None:
        from pathlib import Path

        from train.evaluation.harness.pack import write_pack

        write_pack(Path(settings.pack), settings.benchmarks)
        return 0
    if settings.processes == 1:
        import torch

        from launch.evaluate.model import evaluate_asked
        from train.distributed.world import World

        torch.set_num_threads(threads_per_process(1))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return evaluate_asked(settings, overrides, World(0, 1, 0, 1, device))
    from launch.cluster.supervisor import start_ranks

    threads = threads_per_process(settings.processes)
    return start_ranks("launch.rank", settings.processes, ["evaluate", *overrides], threads)
