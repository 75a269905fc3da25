"""Values of overrides as they were typed, whatever Hydra's grammar would read in them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, get_args, get_origin

from train.config.keys import is_text, kind_of

PLAIN = re.compile(r"(?!(?:null|true|false|inf|nan)\Z)[a-z_][\w./-]*|[\w./-]*/[\w./-]*", re.ASCII | re.IGNORECASE)
"""Text that Hydra's grammar reads literally without quotes: a name, or a path with a slash."""
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
"""A value in Hydra's own quotes."""
BRACKETS = {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}


def as_typed(
    words: Sequence[str], *schemas: type, choices: Mapping[str, Mapping[str, type]] | None = None
) -> list[str]:
    """Return overrides in which the value of every text setting composes to the characters that were typed.

    Hydra reads `output=2024_06_01` as the number 20240601, and rejects `score=log(pd)`, `[c#1]` or a name that is not
    ASCII. Text, entries of a list of text and values of a mapping to text are put into quotes where Hydra would read
    something else. Outside quotes, a leading `~/` is the home folder. What is left to Hydra: text in its own quotes or
    with its escapes (`a\\,b`), `${`, and `null` for an optional setting. Raises ValueError, with the words to type, for
    a list given as one text and one text given as a list.
    """
    typed = {group: _chosen(group, options, words) for group, options in (choices or {}).items()}
    return [_typed(words, index, schemas, typed) for index in range(len(words))]


def _chosen(group: str, options: Mapping[str, type], words: Sequence[str]) -> Mapping[str, type]:
    """Return the option of a group that the words choose; all of them if its type is not known from its name."""
    names = [value for key, _, value in (word.partition("=") for word in words) if key.lstrip("+") == group]
    return {names[-1]: options[names[-1]]} if names and names[-1] in options else options


def _typed(words: Sequence[str], index: int, schemas: Sequence[type], choices: Mapping[str, Mapping[str, type]]) -> str:
    name, equals, value = words[index].partition("=")
    key = name.lstrip("+")
    kind = kind_of(key, schemas, choices) if equals else None
    if kind is None or value == "":
        return words[index]
    if get_origin(kind) is list and value.strip()[:1] == "[" and not value.strip().endswith("]"):
        _check_unsplit(key, value, words[index + 1 :])
    return f"{name}={_value(key, value, kind)}"


def _value(key: str, value: str, kind: Any) -> str:
    """Return a value so that Hydra reads the texts in it as they were typed."""
    if (bare := value.strip(" \t"))[:1] in ("[", "{", "'", '"'):
        value = bare
    if kind is Any:  # a text, or a list of texts
        kind = list[str] if _is_list(value) else str
    if is_text(kind):
        return _literal(key, value, kind)
    inner = get_args(kind)[-1] if get_origin(kind) in (list, dict) else None
    if inner is None or "${" in value or _is_null(value):
        return value
    if get_origin(kind) is list and not _is_list(value):
        raise ValueError(_list_needed(key, value, inner))
    if get_origin(kind) is list and is_text(inner):
        return f"[{','.join(_literal(key, entry, inner, listed=True) for entry in _entries(key, value))}]"
    if get_origin(kind) is dict and (inner is Any or is_text(inner)) and value[0] == "{" and value[-1] == "}":
        return f"{{{','.join(_pair(key, entry, inner) for entry in _entries(key, value))}}}"
    return value


def _is_list(value: str) -> bool:
    return value.startswith("[") and value.endswith("]")


def _literal(key: str, value: str, kind: Any, listed: bool = False) -> str:
    """Return one text so that Hydra reads it as it was typed, and `~` as the home folder."""
    if value == "~" or value.startswith("~/"):  # as shells do, but not after every `=`
        return quoted(os.path.expanduser(value))
    if PLAIN.fullmatch(value) or "${" in value or QUOTED.fullmatch(value) or (kind is not str and _is_null(value)):
        return value
    if "\\" in value and isinstance(read := _read(value), str):  # Hydra's escapes
        return quoted(read)
    if value[0] in "[{" and isinstance(_read(value), list | dict):
        what, text = ("an entry", f"[{_shown(value)}]") if listed else (key, _shown(value))
        raise ValueError(
            f"{key}: {value} is a list or a mapping, and {what} is one text: if these characters are the text, write "
            f"{shlex.quote(f'{key}={text}')}"
        )
    return quoted(value)


def _shown(text: str) -> str:
    """Return text as a person would quote it for Hydra, in a word that the shell's single quotes surround."""
    return text if PLAIN.fullmatch(text) else quoted(text) if re.search(r'["\\]|\$\{', text) else f'"{text}"'


def _pair(key: str, entry: str, kind: Any) -> str:
    name, colon, value = entry.partition(":")
    if not colon or not value.strip():
        raise ValueError(f"{key}: {entry!r} is not NAME: TEXT: write {key}.NAME=TEXT")
    return f"{name.strip()}: {_value(f'{key}.{name.strip()}', value.strip(), kind)}"


def _entries(key: str, value: str) -> list[str]:
    """Return the entries of a list or mapping as typed: split at commas outside quotes and inner brackets."""
    found, start, depth, index = [], 0, 0, 0
    inner = value[1:-1]
    while index < len(inner):
        character, quote = inner[index], None
        if character in "'\"" and not inner[start:index].rpartition(":")[2].strip():
            quote = QUOTED.match(inner, index)
        if character == "," and depth == 0:
            found.append(inner[start:index].strip())
            start = index + 1
        depth += BRACKETS.get(character, 0)
        if depth < 0:
            break
        index = quote.end() if quote else index + (2 if character == "\\" else 1)
    if depth:
        opening, closing = value[0], value[-1]
        shown = ",".join(_shown(entry.strip()) for entry in inner.split(","))
        raise ValueError(
            f"{key}: the brackets of {value} do not match: quote the texts that contain brackets, as in "
            f"{shlex.quote(f'{key}={opening}{shown}{closing}')}"
        )
    found += [inner[start:].strip()] if found or inner.strip() else []
    if "" in found:
        raise ValueError(f"{key}: {value} has an empty entry: remove a comma, or write '' for an empty text")
    return found


def _check_unsplit(key: str, value: str, after: Sequence[str]) -> None:
    """Raise ValueError, with the word to type, if the shell split a list at its spaces."""
    if sum(BRACKETS.get(character, 0) for character in value) <= 0:
        return
    end = next((n for n, word in enumerate(after, start=1) if "=" in word or word.endswith("]")), 0)
    whole = " ".join([value, *after[:end]])
    whole = whole if _is_list(whole) else f"{value}]"
    raise ValueError(f"{key}: {value} has no closing bracket: write {shlex.quote(f'{key}={whole}')}")


def _list_needed(key: str, value: str, kind: Any) -> str:
    """Return the message for a list setting that was not given a list, with the words to type."""
    if QUOTED.fullmatch(value):
        listed = value[1:-1] if _is_list(value[1:-1]) else f"[{value}]"
        return f"{key} is a list: write {shlex.quote(f'{key}={listed}')}"
    listed = f"[{_shown(value)}]" if value.startswith("[") else f"[{value}]"
    words = shlex.quote(f"{key}={listed}")
    if is_text(kind) and "," in value and not value.startswith("["):
        one = shlex.quote(f"{key}=[{_shown(value)}]")
        return f"{key} is a list: write {words} for the entries {value}, or {one} for one entry with these characters"
    return f"{key} is a list: write {words}"


def _read(value: str) -> Any:
    """Return what Hydra's grammar reads in a value; None if it cannot be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        return None


def quoted(text: str | PathLike[str]) -> str:
    """Return text, or a path, as the value of a Hydra override (`key=VALUE`, `key=[VALUE,...]`) that composes to it.

    In quotes where Hydra or OmegaConf would read something else: a number, `null`, a list, `${...}`. The only text
    that no override can express is `???`, OmegaConf's mark for a missing value.
    """
    text = fspath(text)
    if PLAIN.fullmatch(text):
        return text
    # A backslash escapes a quote (Hydra) or `${` (OmegaConf), so only backslashes before one of these are doubled, and
    # those at the end, before the closing quote.
    text = re.sub(r"(\\*)('|\$\{)", r"\1\1\\\2", text)
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", text) + "'"


def _is_null(value: str) -> bool:
    return value.lower() == "null"
