"""The entry of every rank.

deepspeed --num_gpus 8 --module train experiment=pdpc_1.3b output=runs/pdpc data.tokens=... data.order=...
deepspeed --hostfile hosts --module train experiment=pdpc_3b ...
pdpc train processes=2 experiment=demo ...          (the same, on this machine)
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from contextlib import suppress

from train.config.compose import SettingsError, compose
from train.config.packages import check_packages
from train.distributed.exit_codes import DONE, FAILED, REFUSED


def main(arguments: list[str]) -> int:
    """Compose the settings from Hydra overrides and train; return the exit code (train/distributed/exit_codes.py)."""
    if not faulthandler.is_enabled():
        faulthandler.enable()
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    overrides = [word for word in arguments if not word.startswith(("--local_rank", "--local-rank"))]
    from train.distributed.signals import Left, Signals, post, posted
    from train.distributed.world import OtherRankFailed, code_of, connection_lost
    from train.run import Refused, quiet_ranks, train
    from train.settings import TrainSettings

    quiet_ranks()
    log = logging.getLogger(__name__)
    try:
        check_packages()
        settings = compose("train", TrainSettings, overrides)
        ranks = os.environ.get("WORLD_SIZE")
        if settings.processes is not None and ranks is not None and int(ranks) != settings.processes:
            raise SettingsError(
                f"processes={settings.processes}, but the launcher started {ranks} ranks: "
                "make them equal or leave processes out"
            )
        signals = Signals(settings.grace_s)
        signals.install()
        train(settings, signals)
    except (SettingsError, Refused) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one voice a node
            log.error("pdpc train: %s", error)
        return int(getattr(error, "exit_code", REFUSED))
    except Left as left:
        log.info("pdpc train: %s", left)
        return left.exit_code
    except Exception as error:
        rank = os.environ.get("RANK", "0")
        if (code := posted()) not in (0, FAILED):
            log.warning("pdpc train: rank %s leaves, for another rank left with code %s", rank, code)
            return code
        code = code_of(error)
        if code == FAILED and connection_lost(error):
            log.error("pdpc train: rank %s lost its connection to another rank: that one ended first", rank)
        elif code == FAILED:
            log.exception("pdpc train: rank %s failed", rank)
        elif not isinstance(error, OtherRankFailed):
            log.error("pdpc train: %s (rank %s)", error, rank)
        if not isinstance(error, OtherRankFailed):
            with suppress(Exception):  # where there is no memory for it, they will see that this one is gone
                post(code)
        return code
    return DONE


if __name__ == "__main__":
    code = main(sys.argv[1:])
    from train.distributed.world import leave

    leave(code)
