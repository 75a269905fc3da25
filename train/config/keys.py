"""The keys of a verb, read from its settings dataclasses: name, type, default, and the docstring under each field."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints


@lru_cache(maxsize=512)
def hints_of(settings: type) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields by name; Python compiles every annotation to read them."""
    return get_type_hints(settings)


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
        names = [*files, *(name for name in choices.get(group, ()) if name not in files)]
        yield f"  {group}={default}\n      One of {', '.join(names)}."
    yield from _lines(settings, "", skip=set(choices), defaults=defaults)
    for group, options in choices.items():
        for name, option in options.items():
            yield f"{group}={name}"
            yield from _lines(option, f"{group}.", skip={"name"}, defaults={})


def _lines(settings: type, prefix: str, skip: set[str], defaults: Mapping[str, Any]) -> Iterator[str]:
    hints = hints_of(settings)
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


@lru_cache(maxsize=512)
def field_docstrings(settings: type) -> Mapping[str, str]:
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


def keys_of(schema: type, choices: Mapping[str, Mapping[str, type]]) -> list[str]:
    """Return the dotted keys of a verb, sorted."""
    return sorted({*_keys(schema), *(f"{g}.{k}" for g, o in choices.items() for t in o.values() for k in _keys(t))})


def _keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a settings dataclass."""
    hints = hints_of(schema)
    for field in fields(schema):
        kind = hints[field.name]
        if is_dataclass(kind):
            yield from _keys(cast(type, kind), f"{prefix}{field.name}.")
        yield f"{prefix}{field.name}"


def kind_of(key: str, schemas: Sequence[type], choices: Mapping[str, Mapping[str, type]]) -> Any:
    """Return the type of a setting by its dotted key, in settings or in the options of groups; None if unknown."""
    group, _, rest = key.partition(".")
    places = [(schema, key) for schema in schemas]
    places += [(option, rest) for option in choices.get(group, {}).values()]
    return next((kind for schema, name in places if (kind := _kind(schema, name)) is not None), None)


def is_text(kind: Any) -> bool:
    """Return whether a setting of this type is a text, required or not."""
    return kind is str or (get_origin(kind) in (Union, UnionType) and str in get_args(kind))


def _kind(schema: Any, key: str) -> Any:
    for name in key.split("."):
        if isinstance(schema, type) and is_dataclass(schema):
            schema = hints_of(schema).get(name)
        elif get_origin(schema) is dict:
            schema = get_args(schema)[1]
        else:
            return None
    return schema
