"""The keys of a verb, read from its settings dataclasses: name, default, and the docstring under each field."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints


def describe(
    settings: type,
    choices: Mapping[str, Mapping[str, type]],
    defaults: Mapping[str, Any],
    groups: Mapping[str, tuple[str, list[str]]],
) -> Iterator[str]:
    """Yield one entry per config group (default and options), one per key, and the keys of every choice.

    `defaults`, by dotted key, override those of the dataclasses.
    """
    for group, (default, files) in groups.items():
        yield f"  {group}={default}\n      One of {', '.join(files)}."
    yield from _lines(settings, "", skip=set(choices), defaults=defaults)
    for group, options in choices.items():
        for name, option in options.items():
            yield f"{group}={name}"
            yield from _lines(option, f"{group}.", skip={"name"}, defaults={})


def _lines(settings: type, prefix: str, skip: set[str], defaults: Mapping[str, Any]) -> Iterator[str]:
    hints = get_type_hints(settings)
    texts = field_docstrings(settings)
    for field in fields(settings):
        if field.name in skip:
            continue
        kind = hints[field.name]
        if is_dataclass(kind) and isinstance(kind, type):
            yield from _lines(kind, f"{prefix}{field.name}.", skip=set(), defaults=defaults)
            continue
        default: Any = "???"
        if field.default is not MISSING:
            default = field.default
        elif field.default_factory is not MISSING:
            default = field.default_factory()
        default = defaults.get(f"{prefix}{field.name}", default)
        shown = "null" if default is None else "(required)" if default == "???" else default
        yield f"  {prefix}{field.name} = {shown}\n      {texts.get(field.name, '')}"


def field_docstrings(settings: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, including those of its bases."""
    texts: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        if not is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
                value = after.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    texts[node.target.id] = " ".join(value.value.split())
    return texts
