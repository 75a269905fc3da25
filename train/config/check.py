"""What overrides and configuration files may contain, checked before Hydra reads them and again after composing.

Settings are plain values: nothing in them is looked up (`${oc.env:KEY}`), called (`_target_`) or expanded (YAML
aliases), no file outside the configuration folder is read, and Hydra itself cannot be configured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from train.config.groups import file_of
from train.config.secrets import secret_in
from train.config.written import Kinds, check_texts

LONGEST_WORD = 1 << 17
"""Characters of an override: Linux's limit for an argument. Hydra's parser takes 0.4 s for that many."""
LARGEST_FILE = 1 << 17
"""Bytes of a configuration file."""
DEEPEST = 32
"""Nested brackets, or levels of a YAML file."""
LONGEST_NUMBER = 400
"""Digits."""
DIGITS = re.compile(rf"\d{{{LONGEST_NUMBER},}}")
OPENING, CLOSING = "[{(", "]})"
PLAIN_TAG = "tag:yaml.org,2002:"
WRITTEN = ("output", "scripts")
"""Keys of folders and files that a verb writes."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check_words(words: Iterable[str], groups: Path) -> None:
    """Raise ValueError, naming the key, for an override that does more than set a value or choose a group's file."""
    for word in words:
        key, _, value = word.partition("=")
        key = key.lstrip("+~")
        name = key[:80]
        if len(word) > LONGEST_WORD:
            raise ValueError(f"{name} has {len(word):,} characters, the limit is {LONGEST_WORD:,}: put it into a file")
        if "\0" in word:
            raise ValueError(f"{name!r} contains a NUL byte: remove it")
        if re.match(r"/*hydra(?:$|[./@])", key) or "@" in key:
            raise ValueError(f"{name}: Hydra itself cannot be configured here: remove it")
        _check_text(name, _without_escaped(word))
        if _depth(word) > DEEPEST:
            raise ValueError(f"{name} has more than {DEEPEST} levels of brackets: write a plain value")
        by_path = re.search(r"\.ya?ml['\"]?\Z", value) and "/" not in key
        if ".." in key or ((groups / key.strip("/")).is_dir() and _is_outside(value) and not by_path):
            raise ValueError(
                f"{name}={value[:80]} is outside {groups}: name a file in that folder, or give the path of a .yaml file"
            )


def check_files(verb: str, words: Iterable[str], groups: Path, kinds: Kinds) -> None:
    """Raise ValueError if one of the files of `groups` that these overrides may read is not plain.

    Plain files have only literal values: no alias, no Python tag, no interpolation, no key for Hydra, few levels. A
    text is as it was written; `kinds` gives the type of a setting by its key.
    """
    wanted = [groups / f"{file_of(verb)}.yaml"]
    for word in words:
        group, _, value = word.lstrip("+~").partition("=")
        if (groups / group).is_dir():
            wanted += [groups / group / f"{name}.yaml" for name in re.findall(r"[^\s,\[\]'\"]+", value)]
    seen: set[Path] = set()
    while wanted:
        path = wanted.pop()
        if path not in seen and path.is_file():
            seen.add(path)
            wanted += _chosen_by(path, groups, kinds)


def check_settings(settings: Any, prefix: str = "") -> None:
    """Raise ValueError for an empty required value, a number that is not finite, a secret, or an output that is an
    address.

    The message names the key, never the secret.
    """
    for key in _empty(settings, prefix):
        raise ValueError(f"{key}= is empty: give a value")
    for key, value in _values(settings, prefix):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value} is not a finite number: give a finite one")
        if isinstance(value, str) and (secret := secret_in(value)):
            raise ValueError(
                f"{key} contains {secret}: settings are stored in many places; keep secrets in the environment or in "
                "netrc"
            )
        if key in WRITTEN and isinstance(value, str) and ADDRESS.match(value):
            raise ValueError(
                f"{key}={value} is an address, and outputs are only written to folders: give a path, such as one where "
                "the storage is mounted"
            )


def check_yaml(path: Path, largest: int = LARGEST_FILE, tags: Collection[str] = (), nodes: int | None = None) -> str:
    """Return the text of a YAML file that has only plain values and these tags; nothing is constructed from it yet.

    With `nodes`, aliases may expand to at most that many values; without, they are rejected. Raises ValueError, naming
    the file and line, for a file that is too large or too deep, for an alias, and for another tag.
    """
    import yaml

    if path.stat().st_size > largest:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, the limit is {largest:,}: make it smaller")
    open_: list[tuple[str | None, int]] = []
    sizes: dict[str, int] = {}
    expanded = 0
    try:
        text = path.read_text("utf-8")
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            where = f"{path}, line {event.start_mark.line + 1}" if event.start_mark else str(path)
            if isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_.pop()
                if anchor is not None:
                    sizes[anchor] = expanded - before
                continue
            if isinstance(event, yaml.AliasEvent):
                if nodes is None or event.anchor not in sizes:
                    raise ValueError(f"{where}: the alias {event.anchor!r} is not allowed: write the value out")
                expanded += sizes[event.anchor]
            elif isinstance(event, yaml.NodeEvent):
                _check_node(event, where, tags)
                if isinstance(event, yaml.ScalarEvent):
                    sizes |= {event.anchor: 1} if event.anchor else {}
                else:
                    open_.append((event.anchor, expanded))
                expanded += 1
            if len(open_) > DEEPEST:
                raise ValueError(f"{where}: more than {DEEPEST} nested levels: flatten it")
            if nodes is not None and expanded > nodes:
                raise ValueError(f"{where}: aliases expand to more than {nodes:,} values: write them out")
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}): fix the file") from None
    return text


def _check_node(event: Any, where: str, tags: Collection[str]) -> None:
    """Raise ValueError for a tag that is neither plain nor allowed, and for a number with too many digits."""
    tag, value = event.tag, getattr(event, "value", "")
    if tag and tag not in tags and not (tag == "!" or (tag.startswith(PLAIN_TAG) and "python" not in tag)):
        raise ValueError(f"{where}: the tag {tag!r} is not allowed, only plain values are: remove it")
    if DIGITS.search(value):
        raise ValueError(f"{where}: a number has more than {LONGEST_NUMBER} digits: give a smaller one")


def check_file(path: Path, place: str, folder: Path, groups: Path, kinds: Kinds) -> tuple[str, list[Path]]:
    """Check one file, shown as `place`; return its text, and the files of `groups` that its defaults may choose.

    Names in its defaults are relative to `folder`, one of the folders of `groups`, to whose group the file belongs.
    """
    text, content = read_plain(path)
    if not isinstance(content, Mapping):
        return text, []
    check_texts(path, text, content, folder.relative_to(groups).as_posix(), kinds)
    return text, _defaults(content.get("defaults"), folder, place, groups)


def read_plain(path: Path) -> tuple[str, Any]:
    """Return the text and the contents of a YAML file of plain values.

    Raises ValueError, naming the file and mostly the line, for anything else: an alias, a tag, an interpolation, a key
    for Hydra, a key given twice. Texts that YAML reads as something else are found by `check_texts`.
    """
    import yaml
    from omegaconf import OmegaConf

    text = check_yaml(path)
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path}, line {number}"
        line = line.partition(" #")[0]
        if re.match(r"#\s*@package\s+hydra\b", line) or re.match(r"['\"]?hydra['\"]?\s*:", line):
            raise ValueError(f"{where}: Hydra itself cannot be configured here: remove it")
        if not line.startswith("#"):
            _check_text(where, line)
    try:
        content = OmegaConf.to_container(OmegaConf.create(text)) if text.strip() else None
    except yaml.YAMLError as error:
        raise ValueError(_unread(path, error)) from None
    if isinstance(content, Mapping) and "hydra" in content:
        raise ValueError(f"{path}: hydra: Hydra itself cannot be configured here: remove it")
    return text, content


def _unread(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that is YAML, but that OmegaConf does not read: a key given twice, mostly."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
    where = f"{path}, line {mark.line + 1}" if mark else str(path)
    if twice := re.fullmatch(r"found duplicate key (.*)", problem, re.DOTALL):
        return f"{where}: the key {twice[1]!r} is given twice: keep one"
    return f"{where}: {' '.join(problem.split())}: fix the file"


def _chosen_by(path: Path, groups: Path, kinds: Kinds) -> list[Path]:
    """Check one file of `groups`; return the files that its defaults list may choose."""
    place = path.relative_to(groups).as_posix()
    if not path.resolve().is_relative_to(groups.resolve()):
        raise ValueError(f"{place} is a link to {path.resolve()}, outside {groups}: copy the file")
    return check_file(path, place, path.parent, groups, kinds)[1]


def _defaults(entries: Any, own: Path, place: str, groups: Path) -> list[Path]:
    """Return the files that a defaults list may choose."""
    chosen = []
    for entry in entries if isinstance(entries, Sequence) and not isinstance(entries, str) else []:
        pairs = entry.items() if isinstance(entry, Mapping) else [("", entry)]
        for key, value in pairs:
            group = re.sub(r"^((override|optional)\s+)+", "", str(key))
            for name in value if isinstance(value, list) else [value]:
                if _is_outside(str(name)) or ".." in group or re.match(r"/*hydra\b", group):
                    raise ValueError(f"{place}: defaults: {entry!r} is outside {groups}: name a file in that folder")
                folder = groups if group.startswith("/") else own
                chosen += [folder / group.strip("/") / f"{name}.yaml"] if name not in (None, "_self_") else []
    return chosen


def _check_text(where: str, text: str) -> None:
    if "${" in text:
        raise ValueError(f"{where}: ${{...}} is not resolved in settings: write the value, or let the shell insert it")
    if "_target_" in text:
        raise ValueError(f"{where}: _target_ names code to run, but settings are plain values: remove it")
    if DIGITS.search(text):
        raise ValueError(f"{where}: a number has more than {LONGEST_NUMBER} digits: give a smaller one")


def _without_escaped(word: str) -> str:
    """Return an override without those `${` that Hydra and OmegaConf read as text.

    In quotes that is one after an odd number of backslashes; outside quotes, where Hydra halves them first, after one.
    """
    kept, quote = [], ""
    for token in re.findall(r"\\*\$\{|\\*['\"]|[^\\'\"$]+|.", word, flags=re.DOTALL):
        backslashes = len(token) - len(token.lstrip("\\"))
        if token.endswith("${") and (backslashes == 1 or (quote and backslashes % 2)):
            continue
        if token[-1] in "'\"" and backslashes % 2 == 0:
            quote = "" if token[-1] == quote else quote or token[-1]
        kept.append(token)
    return "".join(kept)


def _is_outside(value: str) -> bool:
    return any(name.startswith("/") or ".." in Path(name).parts for name in re.findall(r"[^\s,\[\]'\"]+", value))


def _depth(text: str) -> int:
    """Return the deepest nesting of brackets; text in quotes counts too."""
    deepest = level = 0
    for character in text:
        if character in OPENING:
            level += 1
            deepest = max(deepest, level)
        elif character in CLOSING:
            level = max(0, level - 1)
    return deepest


def _empty(settings: Any, prefix: str) -> Iterator[str]:
    """Yield the dotted names of fields without a default whose text is empty."""
    for item in fields(settings) if is_dataclass(settings) else ():
        value, key = getattr(settings, item.name), f"{prefix}.{item.name}".lstrip(".")
        yield from _empty(value, key)
        if value == "" and item.default is MISSING and item.default_factory is MISSING:
            yield key


def _values(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield every number and text in settings, and the keys of their mappings, with dotted names."""
    if is_dataclass(value):
        for item in fields(value):
            yield from _values(getattr(value, item.name), f"{key}.{item.name}".lstrip("."))
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield key, name
            yield from _values(part, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _values(part, key)
    else:
        yield key, value
