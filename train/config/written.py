"""Texts in configuration files: YAML may read the characters of a text as a number, a truth value or null."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from train.config.keys import is_text

Kinds = Callable[[str], Any]
"""Gives the type of a setting by its dotted key; None for an unknown one."""
GLOBAL = "_global_"
PACKAGE = re.compile(r"#\s*@package\s+(\S+)")


def package_of(text: str, default: str | None) -> str | None:
    """Return the package that the first lines of a file name, as in `# @package _global_`; `default` if they do not."""
    return next((match[1] for line in text.splitlines() if (match := PACKAGE.match(line))), default)


def check_texts(path: Path, text: str, content: Mapping[Any, Any], group: str, kinds: Kinds) -> None:
    """Raise ValueError, with the line and the quotes to write, for a text of which YAML changes the characters.

    `arm: 2024_06_01` is the number 20240601, `arm: on` is true. `content` is what OmegaConf reads in the file, `group`
    the folder of the file in `configs/`, "." for that folder itself.
    """
    import yaml

    root = yaml.compose(text, Loader=yaml.BaseLoader)
    package = package_of(text, {".": GLOBAL, "experiment": GLOBAL}.get(group, group.replace("/", ".")))
    prefix = "" if package == GLOBAL else f"{package}."
    for name, node, _, value in _pairs(path, root, content):
        if name != "defaults":
            _check(path, f"{prefix}{name}", node, value, kinds(f"{prefix}{name}"), kinds, name)


def _check(path: Path, key: str, node: Any, value: Any, kind: Any, kinds: Kinds, name: str = "") -> None:
    """Check a value and all values in it. `node` is what was written after `name`, `value` what OmegaConf reads."""
    inner = get_args(kind)[-1] if get_origin(kind) in (list, dict) else None
    if isinstance(value, Mapping):
        for own, part, read, found in _pairs(path, node, value):
            if inner is not None and get_args(kind)[0] is str and not isinstance(read, str):
                _refuse(f"{path}, line {part.start_mark.line + 1}: a name in {key}", own, read, f'"{own}": ...')
            _check(path, f"{key}.{own}", part, found, inner or kinds(f"{key}.{own}"), kinds, own)
    elif isinstance(value, list):
        for part, found in zip(node.value, value, strict=True):
            _check(path, f"an entry of {key}", part, found, inner or kind, kinds)
    elif (is_text(kind) or kind is Any) and _changed(node.value, value, kind):
        quoted = f'{name}: "{node.value}"' if name else f'"{node.value}"'
        _refuse(f"{path}, line {node.start_mark.line + 1}: {key}", node.value, value, quoted)


def _changed(written: str, value: Any, kind: Any) -> bool:
    """Return whether a text is read as other characters; null is one of the values of an optional text."""
    return not isinstance(value, str) and str(value) != written and (value is not None or kind is str)


def _pairs(path: Path, node: Any, content: Mapping[Any, Any]) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield name as written, node, name as read and value of every entry of a mapping."""
    if node is not None and len(node.value) != len(content):
        line = node.start_mark.line + 1
        raise ValueError(f"{path}, line {line}: YAML merges names of this mapping, or reads two as one: quote them")
    for (name, part), (read, value) in zip(node.value if node is not None else (), content.items(), strict=True):
        yield name.value, part, read, value


def _refuse(where: str, written: str, value: Any, remedy: str) -> NoReturn:
    read = "null" if value is None else json.dumps(value, default=str)
    raise ValueError(f"{where} is text, but YAML reads {written or 'nothing'} as {read}: write {remedy}")
