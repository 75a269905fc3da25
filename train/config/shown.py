"""The composed configuration as YAML, with the origin of every value: `--cfg job`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.config.typed import PLAIN

DEFAULT = "default"
COMMAND_LINE = "command line"
REQUIRED = "required, has no value"


def asks_config(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Return whether the command line asks for the configuration (`--cfg job`), and the other words.

    Raises ValueError for what Hydra's option prints of Hydra itself.
    """
    rest, asked, index = [], False, 0
    while index < len(words):
        word = words[index]
        index += 1
        option, equals, value = word.partition("=")
        if option not in ("--cfg", "-c"):
            rest.append(word)
            continue
        if not equals and index < len(words) and words[index] in ("job", "hydra", "all"):
            value = words[index]
            index += 1
        if value not in ("", "job"):
            raise ValueError(f"{option} {value} is not supported: write --cfg job for the composed configuration")
        asked = True
    return asked, rest


def origins(
    layers: Sequence[tuple[str, str, Mapping[str, Any]]], words: Sequence[str], configuration: Mapping[str, Any]
) -> dict[str, str]:
    """Return where the value of every dotted key was set last.

    `layers`: origin, package and content of every file, in the order of merging; `words` set values after them.
    """
    found: dict[str, str] = {}
    for origin, package, content in layers:
        for key, _ in leaves(content, f"{package}." if package else ""):
            found[key] = origin
    keys = [key for key, _ in leaves(configuration)]
    for word in words:
        name = word.partition("=")[0].lstrip("+")
        for key in keys:
            if key == name or key.startswith(f"{name}."):
                found[key] = COMMAND_LINE
    return found


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its dotted key; an empty mapping is a value."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_text(configuration: Mapping[str, Any], origin: Mapping[str, str], prefix: str = "", indent: str = "") -> str:
    """Return a configuration as YAML, one value per line with its origin."""
    lines = []
    for key, value in configuration.items():
        place = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{_scalar(key)}:\n{as_text(value, origin, f'{place}.', f'{indent}  ')}")
            continue
        note = REQUIRED if value == "???" else origin.get(place, DEFAULT)
        lines.append(f"{indent}{_scalar(key)}: {_scalar(value)}  # {note}")
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    """Return a value in JSON, which is YAML; plain names and paths without quotes."""
    if isinstance(value, str) and (value == "???" or (PLAIN.fullmatch(value) and value.lower() not in WORDS)):
        return value
    return json.dumps(value, ensure_ascii=False)


WORDS = frozenset(("y", "n", "yes", "no", "on", "off"))
"""YAML 1.1 reads these as booleans."""


def label(path: Path, configs: Path) -> str:
    """Return how a configuration file is named: from the folder of `configs`, if it is there."""
    return path.relative_to(configs.parent).as_posix() if path.is_relative_to(configs) else str(path)
