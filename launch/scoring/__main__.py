"""The entry of every rank that scores.

deepspeed --hostfile hosts --module launch.scoring tokens=tokens models.weak=weak models.strong=strong output=scores
pdpc score engine=deepspeed processes=2 tokens=...          (the same, on this machine)
"""

from __future__ import annotations

import logging
import os
import sys

from train.compose import compose
from train.packages import check_packages


def main(arguments: list[str]) -> int:
    """Compose the settings from Hydra overrides and score; return the exit code: 2 refused at the door, 1 failed."""
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    words = [word for word in arguments if not word.startswith(("--local_rank", "--local-rank"))]
    logging.basicConfig(
        level=logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING, format="%(message)s"
    )
    log = logging.getLogger(__name__)
    from launch.flags import as_overrides
    from launch.score import ScoreSettings
    from launch.scoring.ranks import score
    from train.world import OtherRankFailed, finish, start

    try:
        check_packages()
        settings = compose("score", ScoreSettings, as_overrides(words, ScoreSettings))
        world = start(settings.threads)
        score(settings, world)
        finish(world)
    except OtherRankFailed:
        return 1
    except ValueError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one voice a node
            log.error("pdpc score: %s", " ".join(str(error).split()))
        return 2
    except Exception:
        log.exception("pdpc score: rank %s failed", os.environ.get("RANK", "0"))
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    from train.world import leave

    leave(code)
