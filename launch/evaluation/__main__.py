"""The entry of every rank that evaluates.

pdpc evaluate processes=2 run=...                                         (ranks of this machine)
deepspeed --hostfile hosts --module launch.evaluate run=...             (ranks of many machines)
"""

from __future__ import annotations

import logging
import os
import sys

from train.config.compose import compose
from train.config.packages import check_packages


def main(arguments: list[str]) -> int:
    """Compose the settings from Hydra overrides and evaluate; return the exit code: 2 refused, 1 something failed."""
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    from launch.evaluate.model import evaluate_asked
    from launch.evaluate.settings import EvaluateSettings
    from train.config.flags import as_overrides
    from train.distributed.rendezvous import NotMet
    from train.distributed.world import OtherRankFailed, finish, start
    from train.run import quiet_ranks

    quiet_ranks()
    log = logging.getLogger(__name__)
    words = [word for word in arguments if not word.startswith(("--local_rank", "--local-rank"))]
    try:
        check_packages()
        overrides = as_overrides(words, EvaluateSettings)
        settings = compose("evaluate", EvaluateSettings, overrides)
        world = start()
        code = evaluate_asked(settings, overrides, world)
        finish(world)
    except OtherRankFailed as error:
        return error.exit_code
    except NotMet as error:
        log.error("pdpc evaluate: %s", error)
        return error.exit_code
    except ValueError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one voice a node
            log.error("pdpc evaluate: %s", " ".join(str(error).split()))
        return 2
    except Exception:
        log.exception("pdpc evaluate: rank %s failed", os.environ.get("RANK", "0"))
        return 1
    return code


if __name__ == "__main__":
    code = main(sys.argv[1:])
    from train.distributed.world import leave

    leave(code)
