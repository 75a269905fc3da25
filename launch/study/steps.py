"""The steps of a study: every command that it runs, where the output goes, and what must be made before."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.study.file import Study, trunk_of, verb_of
from launch.study.words import names_in, words_of

INPUTS = ("tokens", "scores", "own_scores", "nonfinite")
"""Settings for all arms that `pdpc replan` has too; the others are the parent's."""

Compose = Callable[[str, Sequence[str]], Any]
"""Returns the settings of a verb with overrides; raises ValueError if they are invalid."""


@dataclass(frozen=True)
class Step:
    """One command of a study."""

    name: str
    """Unique; also the name of its log."""
    verb: str
    words: list[str]
    """Overrides, with the output."""
    output: Path
    needs: list[str]
    """Names of the steps that must be done before."""
    width: int | None
    """CPUs (or GPUs) that it keeps busy; None: all of them."""


@dataclass(frozen=True)
class Run:
    """One training run of a study."""

    arm: str
    schedule: str
    seed: int
    step: Step


@dataclass(frozen=True)
class Steps:
    """All steps of a study, in an order in which they could run, and its training runs."""

    all: list[Step]
    runs: list[Run]


def steps_of(study: Study, folder: Path, compose: Compose, width: Callable[[Any], int]) -> Steps:
    """Return the steps of a study whose output is `folder`.

    `width` returns how many CPUs or GPUs a training run with these settings keeps busy. Raises ValueError, naming the
    step, if its settings are invalid, or if two steps would write to one place: nothing has started by then.
    """
    made: dict[str, Step] = {}
    taken: dict[str, str] = {}
    widths: dict[str, int | None] = {}

    def add(name: str, verb: str, words: list[str], output: Path, needs: list[str], like: str) -> Step:
        """Add a step. Composing takes a moment: of the steps `like` each other, which differ in the seed or the arm,
        the first is checked."""
        for place in (f"logs/{name}", os.path.relpath(output, folder)):
            other = taken.setdefault(place.casefold(), name)  # some file systems ignore case
            if other != name or name in made:
                raise ValueError(
                    f"the steps {other} and {name} would both write to {place}: rename the step, arm or schedule"
                )
        words = [*words, *words_of({"output": str(output)}, {})]
        if like not in widths:
            try:
                settings = compose(verb, words)
            except ValueError as error:
                raise ValueError(f"step {name}: {error}") from None
            widths[like] = width(settings) if verb == "train" else None
        made[name] = Step(name, verb, words, output, needs, widths[like])
        return made[name]

    outputs = {name: folder / name for name in study.steps}
    for name, (verb, settings) in study.steps.items():
        named = {"arm": name, **settings} if verb == "train" else settings
        add(name, verb, words_of(named, outputs), outputs[name], _needed(settings, study.steps), name)
    runs = []
    for seed in study.seeds:
        orders = {arm: folder / "orders" / f"{arm}_{seed}" for arm in study.arms}
        for arm, own in study.arms.items():
            settings = {**_shared(study, own), **own, "seed": seed}
            name, verb = f"order_{arm}_{seed}", verb_of(own)
            needs = [*_needed(settings, study.steps), *(f"order_{other}_{seed}" for other in _arms_in(own, study))]
            add(name, verb, words_of(settings, outputs | orders), orders[arm], needs, f"order_{arm}")
    for schedule, own in study.schedules.items():
        for seed in study.seeds:
            for arm in study.arms_of[schedule]:
                order = str(folder / "orders" / f"{arm}_{seed}")
                settings = {**study.train, **own, "seed": seed, "arm": arm, "data.order": order}
                name = f"{arm}_{schedule}_{seed}"
                needs = [*_needed(settings, study.steps), f"order_{arm}_{seed}"]
                if trunk := trunk_of(study.arms[arm]):
                    settings["branch_of"] = str(folder / "runs" / f"{trunk}_{schedule}_{seed}")
                    needs.append(f"run_{trunk}_{schedule}_{seed}")
                words, output = words_of(settings, outputs), folder / "runs" / name
                runs.append(
                    Run(arm, schedule, seed, add(f"run_{name}", "train", words, output, needs, f"run_{schedule}"))
                )
    return Steps(list(made.values()), runs)


def _shared(study: Study, arm: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings for all arms that this one has too; a twin takes everything from its parent."""
    if "twin" in arm:
        return {}
    if verb_of(arm) == "replan":
        return {key: value for key, value in study.order.items() if key in INPUTS}
    return study.order


def _needed(settings: Mapping[str, Any], steps: Mapping[str, Any]) -> list[str]:
    return sorted(names_in(settings) & steps.keys())


def _arms_in(settings: Mapping[str, Any], study: Study) -> list[str]:
    return sorted(names_in(settings) & study.arms.keys())
