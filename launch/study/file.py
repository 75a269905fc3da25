"""The file of a study: what is made once, the arms, seeds and schedules, and the primary measure.

Values are settings of the verbs, as on the command line. `$NAME` in a text stands for the output of the step NAME, or,
inside an arm, for the order of another arm with the same seed; `$$` is a dollar sign.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from curriculum.artifact.files import hash_file
from train.config.check import read_plain
from train.config.keys import kind_of
from train.config.typed import quoted
from train.config.written import check_texts

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
"""Names of steps, arms and schedules, which become names of folders."""
VARIABLE = re.compile(r"\$(\$|[A-Za-z][A-Za-z0-9_-]*)")
MADE_ONCE = ("demo", "prepare", "adopt", "arrange", "train", "score")
"""Verbs of the steps that are made once."""
KEYS = ("question", "primary", "baseline", "seeds", "steps", "order", "train", "arms", "schedules")
RESERVED = ("orders", "runs", "done", "logs", "slurm", "page")
MOST_SEEDS = 1000
OURS = {"order": ("output", "seed"), "train": ("output", "seed", "arm", "data.order"), "steps": ("output",)}
"""Settings that the study sets itself, by section."""

Settings = Mapping[str, Any]
"""Settings of a verb, by dotted key."""


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


def words_of(settings: Settings, outputs: Mapping[str, Path]) -> list[str]:
    """Return settings as overrides, with `$NAME` replaced by the outputs.

    Raises ValueError for a name that is not among `outputs`, or a value that no setting can have.
    """
    return [f"{key}={_value(key, value, outputs)}" for key, value in settings.items()]


def names_in(settings: Settings) -> set[str]:
    """Return the names that `$NAME` stands for in settings."""

    def texts(value: Any) -> list[str]:
        if isinstance(value, Mapping):
            return [text for inner in value.values() for text in texts(inner)]
        if isinstance(value, list):
            return [text for inner in value for text in texts(inner)]
        return [value] if isinstance(value, str) else []

    return {match.group(1) for text in texts(settings) for match in VARIABLE.finditer(text)} - {"$"}


def verb_of(arm: Settings) -> str:
    """Return the verb that makes the orders of an arm: replan, if it names the `order` whose tail it replans."""
    return "replan" if "order" in arm else "arrange"


def trunk_of(study: Study, arm: str) -> str | None:
    """Return the arm whose runs those of `arm` branch from: the one whose order it replans; None if it replans none."""
    parent = study.arms[arm].get("order")
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
    schedules = _named("schedules", content.get("schedules", {"default": {}}))
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
        _primary(content["primary"], arms, schedules, baseline),
        baseline,
        _seeds(content["seeds"]),
        steps,
        order,
        train,
        arms,
        schedules,
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


def _primary(value: Any, arms: Mapping[str, Any], schedules: Mapping[str, Any], baseline: str) -> Primary:
    keys = ("measure", "arm", "schedule")
    if not isinstance(value, dict) or not {"measure", "arm"} <= value.keys() <= set(keys):
        raise ValueError("primary must have the keys measure and arm, and schedule if there are several")
    if "schedule" not in value and len(schedules) > 1:
        raise ValueError(f"primary.schedule is missing: name one of {', '.join(schedules)} before the runs")
    primary = Primary(*(str(value.get(key, next(iter(schedules)))) for key in keys))
    if primary.arm not in arms or primary.arm == baseline:
        raise ValueError(f"primary.arm: {primary.arm!r} must be an arm other than the baseline")
    if primary.schedule not in schedules:
        raise ValueError(f"primary.schedule: {primary.schedule!r} is not one of {', '.join(schedules)}")
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
        if "order" in settings and settings["order"] not in {f"${arm}" for arm in earlier}:
            names = ", ".join(f"${arm}" for arm in earlier) or "none yet"
            raise ValueError(
                f"arms.{name}.order: {settings['order']!r} must be an earlier arm, from whose runs those of {name} "
                f"branch: one of {names}"
            )
        parts.append((f"arms.{name}", settings, known | earlier))
        earlier.add(name)
    parts += [(f"schedules.{name}", settings, known) for name, settings in schedules.items()]
    for where, settings, allowed in parts:
        if unknown := sorted(names_in(settings) - allowed):
            listed = ", ".join(f"${name}" for name in sorted(allowed)) or "no step"
            raise ValueError(
                f"{where}: ${unknown[0]} is not made before it: use {listed}, or write $$ for a dollar sign"
            )


def _value(key: str, value: Any, outputs: Mapping[str, Path]) -> str:
    """Return a value as the right side of an override."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return quoted(VARIABLE.sub(lambda match: _meaning(key, match.group(1), outputs), value))
    if isinstance(value, list):
        return f"[{','.join(_value(key, inner, outputs) for inner in value)}]"
    if isinstance(value, dict):
        inner = (f"{_value(key, name, {})}: {_value(key, inner, outputs)}" for name, inner in value.items())
        return f"{{{', '.join(inner)}}}"
    raise ValueError(f"{key}: {value!r} is a {type(value).__name__}: put it into quotes")


def _meaning(key: str, name: str, outputs: Mapping[str, Path]) -> str:
    if name == "$":
        return "$"
    if name not in outputs:
        raise ValueError(f"{key}: ${name} is not made before it")
    return str(outputs[name])
