"""The entry of every rank that evaluates.

pdpc evaluate processes=2 run=...                                         (ranks of this machine)
deepspeed --hostfile hosts --module launch.evaluation run=...             (ranks of many machines)
"""

from __future__ import annotations

import logging
import os
import sys

from train.compose import compose
from train.packages import check_packages


def main(arguments: list[str]) -> int:
    """Compose the settings from Hydra overrides and evaluate; return the exit code: 2 refused, 1 something failed."""
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    from launch.evaluation.settings import EvaluateSettings
    from launch.evaluation.work import evaluate_asked
    from launch.flags import as_overrides
    from train.meeting import NotMet
    from train.run import quiet_ranks
    from train.world import OtherRankFailed, finish, start

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
    from train.world import leave

    leave(code)
