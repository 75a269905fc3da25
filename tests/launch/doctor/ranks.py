"""Ranks that run the doctor's step with our attention intact or broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def stepped(words: list[str], result: str, broken: bool) -> None:
    """Run the step on this rank; `broken`: the run's attention scores are twice what they should be."""
    from launch.doctor.rank import one_step
    from models.attention import sdpa
    from train.config.compose import compose
    from train.distributed.world import finish
    from train.engine.communication import start
    from train.inputs import open_inputs
    from train.settings import TrainSettings

    if broken:
        attend = sdpa.BACKEND.attend
        wrong: Any = lambda q_NHS, *rest: attend(2 * q_NHS, *rest)  # noqa: E731
        object.__setattr__(sdpa.BACKEND, "attend", wrong)
    settings = compose("train", TrainSettings, words)
    world = start(settings.threads)
    found = one_step(settings, open_inputs(settings), world)
    if world.first:
        Path(result).write_text(json.dumps(found), "utf-8")
    finish(world)
