"""Entry point of every rank of a training run.

deepspeed --num_gpus 8 --module train experiment=pdpc_1.3b output=runs/pdpc data.tokens=... data.order=...
deepspeed --hostfile hosts --module train experiment=pdpc_3b ...
pdpc train processes=2 experiment=demo ...          (the same, on this machine)
"""

from __future__ import annotations

from train.config.safe_path import leave_current_folder

if __name__ == "__main__":  # before anything else is imported
    leave_current_folder()

import os
import sys

from curriculum.work.streams import open_streams
from train.config.compose import SettingsError
from train.config.help import TRAIN
from train.distributed.entry import RankVerb, run_rank
from train.distributed.exit_codes import Refused
from train.distributed.heartbeat import leave
from train.settings import TrainSettings


def main(arguments: list[str]) -> int:
    """Train with the command-line arguments of `pdpc train`; return the exit code (train/distributed/exit_codes.py)."""
    return run_rank(RankVerb("train", TRAIN, TrainSettings, _train, refusals=(Refused,)), arguments)


def _train(settings: TrainSettings, _overrides: list[str]) -> None:
    ranks = os.environ.get("WORLD_SIZE")
    if settings.processes is not None and ranks is not None and int(ranks) != settings.processes:
        raise SettingsError(
            f"processes={settings.processes}, but the launcher started {ranks} ranks: set processes={ranks} or omit it"
        )
    from train.distributed.signals import Signals
    from train.run import train

    signals = Signals(settings.grace_s)
    signals.install()
    train(settings, signals)


if __name__ == "__main__":
    open_streams()
    leave(main(sys.argv[1:]))
