"""The file of a study: what is made once, the arms, seeds and schedules, and the primary measure.

launch/study/words.py turns its settings into overrides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from curriculum.artifact.files import hash_file
from launch.study.words import Settings, names_in
from train.config.check import read_plain
from train.config.keys import kind_of
from train.config.written import check_texts

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
"""Names of steps, arms and schedules, which become names of folders."""
MADE_ONCE = ("demo", "prepare", "adopt", "arrange", "train", "score")
"""Verbs of the steps that are made once."""
KEYS = ("question", "primary", "baseline", "seeds", "steps", "order", "train", "arms", "schedules")
RESERVED = ("orders", "runs", "done", "logs", "slurm", "page")
MOST_SEEDS = 1000
OURS = {"order": ("output", "seed"), "train": ("output", "seed", "arm", "data.order"), "steps": ("output",)}
"""Settings that the study sets itself, by section."""


@dataclass(frozen=True)
class Primary:
    """The one comparison that the study was made for, named before it runs."""

    measure: str
    """A measure of the report, such as val/loss or val/source/science/loss."""
    arm: str
    """The arm that is compared with the baseline."""
    schedule: str
    """The schedule of that arm; the baseline has the best of its schedules."""


@dataclass(frozen=True)
class Study:
    """The contents of a study's file."""

    question: str
    primary: Primary
    baseline: str
    """The arm that the others are compared with."""
    seeds: list[int]
    steps: dict[str, tuple[str, Settings]]
    """Name to (verb, settings) of what is made once, in order."""
    order: Settings
    """Settings of `arrange` for all arms."""
    train: Settings
    """Settings of `train` for all runs."""
    arms: dict[str, Settings]
    """Settings of `arrange` by arm, or of `replan`: an arm with `order: $ARM` branches from the runs of that arm."""
    schedules: dict[str, Settings]
    """Settings of `train` by schedule."""
    arms_of: dict[str, list[str]]
    """Arms that run with each schedule."""
    digest: str
    """Checksum of the file."""


def read_study(path: Path) -> Study:
    """Read a study's file, as strictly as any configuration.

    Raises ValueError naming the file, the line or the key, and the remedy.
    """
    if not path.is_file():
        raise ValueError(f"file={path} is not a file: give the YAML file of a study")
    text, content = read_plain(path)
    try:
        study = _study(content, hash_file(path).xxh3_128)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    check_texts(path, text, content, ".", partial(_kind, steps=study.steps, arms=study.arms))
    from yaml import BaseLoader, compose

    try:
        _check_written(compose(text, Loader=BaseLoader), content)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None
    return study


def _check_written(node: Any, value: Any) -> None:
    """Raise ValueError, with the line, for what YAML reads as something else than it seems: 1:30 is 90, 010 is 8."""
    if isinstance(value, dict):
        for (_, inner), read in zip(node.value, value.values(), strict=True):
            _check_written(inner, read)
    elif isinstance(value, list):
        for inner, read in zip(node.value, value, strict=True):
            _check_written(inner, read)
    elif type(value) in (int, bool) and node.value.lower().lstrip("+") != str(value).lower():
        shown = str(value).lower()
        raise ValueError(
            f'line {node.start_mark.line + 1}: YAML reads {node.value} as {shown}: write {shown}, or "{node.value}" if '
            "it is text"
        )


def verb_of(arm: Settings) -> str:
    """Return the verb that makes the orders of an arm: replan, if it names the `order` whose tail it replans."""
    return "replan" if "order" in arm else "arrange"


def trunk_of(arm: Settings) -> str | None:
    """Return the arm from whose runs those of an arm branch, the one whose order it replans; None without one."""
    parent = arm.get("order")
    return parent[1:] if isinstance(parent, str) else None


def _kind(key: str, steps: Mapping[str, tuple[str, Settings]], arms: Mapping[str, Settings]) -> Any:
    """Return the type of a setting by its place in the file, such as train.seq_len or arms.late.preference; or None."""
    from launch.cli import VERBS

    section, _, rest = key.partition(".")
    if section in ("question", "baseline", "primary"):
        return str if section != "primary" or rest else None
    verb = {"order": "arrange", "arms": "arrange", "train": "train", "schedules": "train"}.get(section)
    if section not in ("order", "train"):
        name, _, rest = rest.partition(".")
        verb = steps[name][0] if section == "steps" and name else verb
        verb = verb_of(arms[name]) if section == "arms" and name else verb
    if verb is None or not rest:
        return None
    schema, _, choices = VERBS[verb].load()
    return kind_of(rest.lstrip("+~"), (schema,), choices)


def _study(content: Any, digest: str) -> Study:
    if not isinstance(content, dict):
        raise ValueError(f"the file must be a mapping with the keys {', '.join(KEYS)}")
    if unknown := [str(key) for key in content if key not in KEYS]:
        raise ValueError(f"unknown key {unknown[0]!r}: use {', '.join(KEYS)}")
    if missing := [key for key in ("question", "primary", "seeds", "order", "train", "arms") if key not in content]:
        raise ValueError(f"{missing[0]} is missing")
    if not isinstance(content["question"], str) or not content["question"].strip():
        raise ValueError("question must be a sentence: what is the study to find out?")
    arms = _named("arms", content["arms"])
    _check_trunks(arms)
    schedules, arms_of = _schedules(content.get("schedules", {"default": {}}), arms)
    baseline = content.get("baseline", "shuffled")
    if baseline not in arms or len(arms) < 2:
        raise ValueError(f"arms are {', '.join(arms) or 'missing'}: give the baseline {baseline!r} and another arm")
    steps = _steps(content.get("steps", {}), {*arms, *schedules})
    order, train = _section("order", content["order"]), _section("train", content["train"])
    for section, all_of in (("order", {"arms": arms}), ("train", {"schedules": schedules})):
        for part, several in all_of.items():
            for name, settings in several.items():
                _check_ours(f"{part}.{name}", settings, OURS[section])
    _check_names(steps, order, train, arms, schedules)
    return Study(
        " ".join(content["question"].split()),
        _primary(content["primary"], arms_of, arms, baseline),
        baseline,
        _seeds(content["seeds"]),
        steps,
        order,
        train,
        arms,
        schedules,
        arms_of,
        digest,
    )


def _seeds(value: Any) -> list[int]:
    if type(value) is int and value > MOST_SEEDS:
        raise ValueError(f"seeds: {value} is a number of seeds, more than {MOST_SEEDS}: for one seed write [{value}]")
    seeds = list(range(value)) if type(value) is int else value
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: {value!r} must be a number of seeds, or a list of distinct whole numbers")
    return seeds


def _check_trunks(arms: Mapping[str, Settings]) -> None:
    """Raise ValueError for an arm whose `order` is not that of an earlier arm."""
    earlier: list[str] = []
    for name, own in arms.items():
        if "order" in own and own["order"] not in earlier:
            raise ValueError(
                f"arms.{name}.order: {own['order']!r} must be an earlier arm, from whose runs those of {name} branch: "
                f"one of {', '.join(earlier) or 'none yet'}"
            )
        earlier.append(f"${name}")


def _schedules(content: Any, arms: Mapping[str, Settings]) -> tuple[dict[str, Settings], dict[str, list[str]]]:
    """Return the settings of every schedule, and the arms that run with it: all, or those of its key `arms`."""
    named = _named("schedules", content)
    arms_of = {}
    for schedule, settings in named.items():
        chosen = settings.get("arms", list(arms))
        if not isinstance(chosen, list) or not chosen or not set(chosen) <= set(arms):
            raise ValueError(f"schedules.{schedule}.arms: {chosen!r} must be a list of arms: {', '.join(arms)}")
        for arm in chosen:
            if (trunk := trunk_of(arms[arm])) is not None and trunk not in chosen:
                raise ValueError(
                    f"schedules.{schedule}.arms: {arm} branches from the runs of {trunk}: add {trunk} to the list"
                )
        arms_of[schedule] = [arm for arm in arms if arm in chosen]
    return {name: {k: v for k, v in own.items() if k != "arms"} for name, own in named.items()}, arms_of


def _primary(value: Any, arms_of: Mapping[str, Sequence[str]], arms: Mapping[str, Any], baseline: str) -> Primary:
    keys = ("measure", "arm", "schedule")
    if not isinstance(value, dict) or not {"measure", "arm"} <= value.keys() <= set(keys):
        raise ValueError("primary must have the keys measure and arm, and schedule if there are several")
    if "schedule" not in value and len(arms_of) > 1:
        raise ValueError(f"primary.schedule is missing: name one of {', '.join(arms_of)} before the runs")
    primary = Primary(*(str(value.get(key, next(iter(arms_of)))) for key in keys))
    if primary.arm not in arms or primary.arm == baseline:
        raise ValueError(f"primary.arm: {primary.arm!r} must be an arm other than the baseline")
    if primary.schedule not in arms_of:
        raise ValueError(f"primary.schedule: {primary.schedule!r} is not one of {', '.join(arms_of)}")
    if primary.arm not in arms_of[primary.schedule]:
        raise ValueError(f"primary.arm: {primary.arm!r} is not among the arms of schedules.{primary.schedule}")
    if not any(baseline in chosen for chosen in arms_of.values()):
        raise ValueError(f"baseline: no schedule has the arm {baseline!r}: add it to one")
    if not primary.measure.startswith(("val/", "bench/")):
        raise ValueError(f"primary.measure: {primary.measure!r} must be a measure of the report, such as val/loss")
    return primary


def _steps(value: Any, taken: set[str]) -> dict[str, tuple[str, Settings]]:
    steps: dict[str, tuple[str, Settings]] = {}
    for name, settings in _named("steps", value).items():
        verb = settings.get("verb")
        if verb not in MADE_ONCE:
            raise ValueError(f"steps.{name}.verb: {verb!r} must be one of {', '.join(MADE_ONCE)}")
        rest = {key: inner for key, inner in settings.items() if key != "verb"}
        _check_ours(f"steps.{name}", rest, OURS["steps"])
        if name in taken or name in RESERVED:
            raise ValueError(f"steps.{name}: the name is already used: choose another one")
        steps[name] = (str(verb), rest)
    return steps


def _named(section: str, value: Any) -> dict[str, Settings]:
    """Return a section of named settings."""
    if not isinstance(value, dict):
        raise ValueError(f"{section} must be a mapping from names to settings")
    for name in value:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"{section}: {name!r} must be at most 40 letters, digits, _ and -, starting with a letter")
    return {name: _section(f"{section}.{name}", settings) for name, settings in value.items()}


def _section(where: str, value: Any) -> Settings:
    """Return settings by dotted key."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) and key for key in value):
        raise ValueError(f"{where} must be a mapping of settings, such as batch_size: 16")
    _check_ours(where, value, OURS.get(where, ()))
    return value


def _check_ours(where: str, settings: Settings, ours: tuple[str, ...]) -> None:
    for key in settings:
        if key.lstrip("+~") in ours:
            raise ValueError(f"{where}.{key}: the study sets it: remove it")


def _check_names(
    steps: Mapping[str, tuple[str, Settings]], order: Settings, train: Settings, arms: Mapping[str, Settings],
    schedules: Mapping[str, Settings],
) -> None:  # fmt: skip
    """Raise ValueError for a `$NAME` that stands for nothing that is made before."""
    known: set[str] = set()
    parts: list[tuple[str, Settings, set[str]]] = []
    for name, (_, settings) in steps.items():
        parts.append((f"steps.{name}", settings, set(known)))
        known.add(name)
    parts += [("order", order, known), ("train", train, known)]
    earlier: set[str] = set()
    for name, settings in arms.items():
        parts.append((f"arms.{name}", settings, known | earlier))
        earlier.add(name)
    parts += [(f"schedules.{name}", settings, known) for name, settings in schedules.items()]
    for where, settings, allowed in parts:
        if unknown := sorted(names_in(settings) - allowed):
            listed = ", ".join(f"${name}" for name in sorted(allowed)) or "no step"
            raise ValueError(
                f"{where}: ${unknown[0]} is not made before it: use {listed}, or write $$ for a dollar sign"
            )
