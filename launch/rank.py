"""The entry of every rank that works on chunks.

deepspeed --hostfile hosts --module launch.executors prepare 'input.paths=[text]' tokenizer.name=gpt2 output=tokens
deepspeed --hostfile hosts --module launch.executors score tokens=tokens models.weak=weak models.strong=strong output=...
pdpc score engine=deepspeed processes=2 tokens=...          (the same, on this machine)
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from launch.executors.task import Task
from train.config.compose import compose
from train.config.packages import check_packages
from train.config.secrets import log_without_secrets


def _prepare() -> tuple[type, Callable[[Any], Task]]:
    from launch.prepare import PrepareTask, SharedPrepareSettings

    return SharedPrepareSettings, PrepareTask


def _score() -> tuple[type, Callable[[Any], Task]]:
    from launch.score.settings import ScoreSettings
    from launch.score.task import ScoreTask

    return ScoreSettings, ScoreTask


VERBS = {"prepare": _prepare, "score": _score}


def main(arguments: list[str]) -> int:
    """Compose the settings from Hydra overrides and work; return the exit code: 2 refused at the door, 1 failed."""
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    words = [word for word in arguments if not word.startswith(("--local_rank", "--local-rank"))]
    log_without_secrets(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    log = logging.getLogger(__name__)
    verb = words[0] if words else ""
    if verb not in VERBS:
        log.error("launch.executors: the first word is %r: it must be one of %s", verb, ", ".join(VERBS))
        return 2
    from launch.executors.ranks import work
    from train.config.flags import as_overrides
    from train.distributed.rendezvous import NotMet
    from train.distributed.world import OtherRankFailed, finish, start
    from train.faults import arm

    try:
        check_packages()
        arm()
        settings_class, task_of = VERBS[verb]()
        task = task_of(compose(verb, settings_class, as_overrides(words[1:], settings_class)))
        world = start(task.threads)
        work(task, world)
        finish(world)
    except OtherRankFailed:
        return 1
    except NotMet as error:
        log.error("pdpc %s: %s", verb, error)
        return error.exit_code
    except ValueError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one voice a node
            log.error("pdpc %s: %s", verb, " ".join(str(error).split()))
        return 2
    except Exception:
        log.exception("pdpc %s: rank %s failed", verb, os.environ.get("RANK", "0"))
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    from train.distributed.world import leave

    leave(code)
