"""Entry point of the ranks of prepare, score and evaluate; training ranks start with `--module train`.

deepspeed --hostfile hosts --module launch.rank prepare 'input.paths=[text]' tokenizer.name=gpt2 output=tokens
deepspeed --hostfile hosts --module launch.rank score tokens=tokens models.weak=weak models.strong=strong output=...
deepspeed --hostfile hosts --module launch.rank evaluate run=runs/pdpc
pdpc score engine=deepspeed processes=2 tokens=...          (the same, on this machine)
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # before anything else is imported: from here, and not from the current folder
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    from train.config.safe_path import leave_current_folder

    leave_current_folder()
    del sys.path[0]

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from curriculum.work.streams import open_streams
from launch.cli import VERBS, split_verb
from train.config.help import asks_help
from train.distributed.entry import RankVerb, run_rank, speaks
from train.distributed.exit_codes import DONE, REFUSED
from train.distributed.heartbeat import leave

if TYPE_CHECKING:
    from launch.evaluate.settings import EvaluateSettings
    from launch.executors.task import Task
    from launch.prepare import SharedPrepareSettings
    from launch.score.pairs_settings import ScorePairsSettings
    from launch.score.settings import ScoreSettings


def main(arguments: Sequence[str]) -> int:
    """Run a verb on this rank, given the words of `pdpc`; return the exit code (train/distributed/exit_codes.py)."""
    given = [word for word in arguments if not word.startswith("-")]
    name, _ = split_verb(given) if given else ("", [])
    if name in WORK:
        words = list(arguments)
        for word in [name] if name in words else name.split():
            words.remove(word)
        settings, _, choices = VERBS[name].load()
        return run_rank(RankVerb(name, VERBS[name].does, settings, WORK[name], choices), words)
    if not name and asks_help(arguments):
        if speaks():
            print(__doc__)
        return DONE
    if speaks():
        print(f"launch.rank: unknown verb {name!r}: use one of {', '.join(WORK)}", file=sys.stderr)
    return REFUSED


def _prepare(settings: SharedPrepareSettings, _overrides: list[str]) -> None:
    from launch.prepare import PrepareTask

    _chunks(PrepareTask(settings))


def _score(settings: ScoreSettings, _overrides: list[str]) -> None:
    from launch.score.task import ScoreTask

    _chunks(ScoreTask(settings))


def _score_pairs(settings: ScorePairsSettings, _overrides: list[str]) -> None:
    from launch.score.pairs_task import PairScoreTask

    _chunks(PairScoreTask(settings))


def _chunks(task: Task) -> None:
    from launch.executors.ranks import work
    from train.distributed.signals import heed
    from train.distributed.world import finish
    from train.engine.communication import start

    world = start(task.threads)
    heed()
    work(task, world)
    finish(world)


def _evaluate(settings: EvaluateSettings, overrides: list[str]) -> int:
    if settings.pack is not None:
        raise ValueError(f"pack={settings.pack} needs a single process: use pdpc evaluate --pack {settings.pack}")
    from launch.evaluate.model import evaluate_asked
    from train.distributed.signals import heed
    from train.distributed.world import finish
    from train.engine.communication import start

    world = start()
    heed()
    code = evaluate_asked(settings, overrides, world)
    finish(world)
    return code


WORK: dict[str, Callable[[Any, list[str]], int | None]] = {
    "prepare": _prepare,
    "score": _score,
    "pairs score": _score_pairs,
    "evaluate": _evaluate,
}

if __name__ == "__main__":
    open_streams()
    leave(main(sys.argv[1:]))
