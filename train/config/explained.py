"""What was wrong with a configuration, from the errors of Hydra and OmegaConf: the key, the value and the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from train.config.groups import CONFIGS, options_of
from train.config.secrets import without_secrets

LONGEST_MESSAGE = 2000
"""Characters."""


def short(message: str) -> str:
    """Return a message without secrets, and shortened in the middle if it is very long."""
    text = without_secrets(message)
    return (
        text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE // 2]} ... {text[-LONGEST_MESSAGE // 2 :]}"
    )


def explain(verb: str, error: Exception, known: list[str], choices: Mapping[str, Mapping[str, type]]) -> str:
    """Return the message for an error of Hydra or OmegaConf while a verb with these keys was composed."""
    cause = error.__cause__ if error.__cause__ is not None else error
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'|Key '([^']+)' not in|cannot assign to field '([^']+)'", text)
    if unknown is None:
        unknown = re.search(r"Key '([^']+)' not in", str(cause))
    if unknown:
        key = next(group for group in unknown.groups() if group)
        full = re.search(r"full_key: (\S+)", str(cause))
        key = full.group(1) if full and full.group(1).endswith(key) else key
        return f"{verb}: {_unknown(verb, key, known)}"
    missing = re.search(r"missing mandatory value: (\S+)", text)
    if missing:
        key = re.search(r"full_key: (\S+)", text)
        name = key.group(1) if key else missing.group(1)
        return f"{verb}: {name} has no value: give {name}=..."
    wrong = re.search(r"full_key: (\S+)", str(cause))
    if wrong:
        first, *rest = str(cause).splitlines()
        file = re.match(r"In '([^']+)': ", first)
        if file:  # from a YAML file, not an override: Hydra puts the file's name first
            first = f"{rest[0]} in {file.group(1)}.yaml"
        if "is not a ListConfig" in first:  # in a YAML file
            return f"{verb}: {wrong.group(1)} is a list: write {wrong.group(1)}=[...], with commas between its entries"
        return f"{verb}: {wrong.group(1)}: {first}: give a value of the right type"
    unread = re.search(r"LexerNoViableAltException: ([^=\s]+)=(.*)", text)
    if unread:
        key = unread.group(1).lstrip("+")
        if not (CONFIGS / key).is_dir():
            return f"{verb}: {_unknown(verb, key, known)}"
        return f"{verb}: {key}={unread.group(2).strip()} is unknown: use one of {', '.join(options_of(key))}"
    group = re.search(r"Could not find '([^']+)/([^']+)'", text)
    if group:
        name, option = group.groups()
        options = sorted({*options_of(name), *choices.get(name, ())})
        return f"{verb}: {name}={option} is unknown: use one of {', '.join(options)}"
    lines = [line.strip() for line in text.splitlines() if "provider=" not in line and "search path" not in line]
    return f"{verb}: {' '.join(line for line in lines if line and not line.endswith('_schema'))}"


def _unknown(verb: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=3) or _near_leaves(key.split(".")[-1], known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"pdpc {verb} --help lists them"
    return f"unknown key {key!r}: {hint}"


def _near_leaves(leaf: str, known: list[str]) -> list[str]:
    """Return the known keys whose last word is closest to `leaf`."""
    leaves = difflib.get_close_matches(leaf, {key.split(".")[-1] for key in known}, n=2)
    return [key for key in known if key.split(".")[-1] in leaves]
