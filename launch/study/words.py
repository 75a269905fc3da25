"""Settings in the file of a study as overrides of a verb.

Values are written as on the command line. `$NAME` in a text stands for the output of the step NAME, or, inside an arm,
for the order of another arm with the same seed; `$$` is a dollar sign.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.config.typed import quoted

VARIABLE = re.compile(r"\$(\$|[A-Za-z][A-Za-z0-9_-]*)")

Settings = Mapping[str, Any]
"""Settings of a verb, by dotted key."""


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
