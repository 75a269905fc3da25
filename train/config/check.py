"""What overrides and configuration files may say: checked before Hydra reads them, and what came of them afterwards.

Settings are plain values. There is nothing in them to be looked up (`${oc.env:KEY}`), called (`_target_`) or expanded
(YAML's aliases), no file is read from outside the folder of configurations, and Hydra itself cannot be configured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from train.config.secrets import secret_in

LONGEST_WORD = 1 << 17
"""Characters of an override: what Linux allows of an argument. Hydra's parser takes 0.4 s for them."""
LARGEST_FILE = 1 << 17
"""Bytes of a configuration file."""
DEEPEST = 32
"""Brackets inside each other, or levels of a YAML file."""
LONGEST_NUMBER = 400
"""Digits."""
DIGITS = re.compile(rf"\d{{{LONGEST_NUMBER},}}")
OPENING, CLOSING = "[{(", "]})"
PLAIN_TAG = "tag:yaml.org,2002:"


def check_words(words: Iterable[str], groups: Path) -> None:
    """Raise ValueError for an override that does more than set a value or choose a file of `groups`, naming its key."""
    for word in words:
        key, _, value = word.partition("=")
        key = key.lstrip("+~")
        name = key[:80]
        if len(word) > LONGEST_WORD:
            raise ValueError(f"{name} has {len(word):,} characters, {LONGEST_WORD:,} are allowed: put it into a file")
        if "\0" in word:
            raise ValueError(f"{name!r} holds a NUL byte: leave it out")
        if re.match(r"/*hydra(?:$|[./@])", key) or "@" in key:
            raise ValueError(f"{name}: Hydra itself is not configured here: leave it out")
        _check_text(name, _without_escaped(word))
        if _depth(word) > DEEPEST:
            raise ValueError(f"{name} has brackets more than {DEEPEST} deep: write a plain value")
        if ".." in key or ((groups / key.strip("/")).is_dir() and _leads_out(value)):
            raise ValueError(f"{name}={value[:80]} leads out of {groups}: name a file in there")


def check_files(verb: str, words: Iterable[str], groups: Path) -> None:
    """Raise ValueError for a file of `groups`, among all that may be read for these overrides, that is not plain.

    Only values that YAML writes directly: no alias, no tag of Python's, no interpolation, no key for Hydra, few levels.
    """
    wanted = [groups / f"{verb}.yaml"]
    for word in words:
        group, _, value = word.lstrip("+~").partition("=")
        if (groups / group).is_dir():
            wanted += [groups / group / f"{name}.yaml" for name in re.findall(r"[^\s,\[\]'\"]+", value)]
    seen: set[Path] = set()
    while wanted:
        path = wanted.pop()
        if path not in seen and path.is_file():
            seen.add(path)
            wanted += _chosen_by(path, groups)


def check_settings(settings: Any, prefix: str = "") -> None:
    """Raise ValueError for an empty value where one is needed, a number that is not finite, and a secret.

    The message names the key, and never the secret.
    """
    for key in _empty(settings, prefix):
        raise ValueError(f"{key}= is empty: give a value")
    for key, value in _values(settings, prefix):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value} is not a finite number: give one")
        if isinstance(value, str) and (secret := secret_in(value)):
            raise ValueError(
                f"{key} holds {secret}: settings are written down in many places; keep secrets in the environment "
                "or in netrc"
            )


def check_yaml(path: Path, largest: int = LARGEST_FILE, tags: Collection[str] = (), nodes: int | None = None) -> str:
    """Return the text of a YAML file that holds plain values alone, or these tags; nothing is made of it yet.

    Aliases are allowed with `nodes`: so many values may come of them. Raises ValueError, naming the file and its line,
    for what is too large or too deep, an alias, another tag.
    """
    import yaml

    if path.stat().st_size > largest:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, {largest:,} are allowed: make it smaller")
    open_: list[tuple[str | None, int]] = []
    sizes: dict[str, int] = {}
    made = 0
    try:
        text = path.read_text("utf-8")
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            where = f"{path}, line {event.start_mark.line + 1}" if event.start_mark else str(path)
            if isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_.pop()
                if anchor is not None:
                    sizes[anchor] = made - before
                continue
            if isinstance(event, yaml.AliasEvent):
                if nodes is None or event.anchor not in sizes:
                    raise ValueError(f"{where}: the alias {event.anchor!r}: write the value out")
                made += sizes[event.anchor]
            elif isinstance(event, yaml.NodeEvent):
                _check_node(event, where, tags)
                if isinstance(event, yaml.ScalarEvent):
                    sizes |= {event.anchor: 1} if event.anchor else {}
                else:
                    open_.append((event.anchor, made))
                made += 1
            if len(open_) > DEEPEST:
                raise ValueError(f"{where}: more than {DEEPEST} levels inside each other: write it flat")
            if nodes is not None and made > nodes:
                raise ValueError(f"{where}: more than {nodes:,} values come of its aliases: write them out")
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}): mend that file") from None
    return text


def _check_node(event: Any, where: str, tags: Collection[str]) -> None:
    """Raise ValueError for a tag that is neither plain nor allowed, and for a number of too many digits."""
    tag, value = event.tag, getattr(event, "value", "")
    if tag and tag not in tags and not (tag == "!" or (tag.startswith(PLAIN_TAG) and "python" not in tag)):
        raise ValueError(f"{where}: the tag {tag!r}, and plain values are wanted: leave it out")
    if DIGITS.search(value):
        raise ValueError(f"{where}: a number of more than {LONGEST_NUMBER} digits: give a smaller one")


def _chosen_by(path: Path, groups: Path) -> list[Path]:
    """Check one file; return the files that its defaults list may choose."""
    import yaml

    place = path.relative_to(groups).as_posix()
    if not path.resolve().is_relative_to(groups.resolve()):
        raise ValueError(f"{place} is a link to {path.resolve()}, out of {groups}: copy the file")
    text = check_yaml(path)
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path}, line {number}"
        line = line.partition(" #")[0]
        if re.match(r"#\s*@package\s+hydra\b", line) or re.match(r"['\"]?hydra['\"]?\s*:", line):
            raise ValueError(f"{where}: Hydra itself is not configured here: leave it out")
        if not line.startswith("#"):
            _check_text(where, line)
    content = yaml.safe_load(text)
    if not isinstance(content, Mapping):
        return []
    if "hydra" in content:
        raise ValueError(f"{path}: hydra: Hydra itself is not configured here: leave it out")
    return _defaults(content.get("defaults"), path, place, groups)


def _defaults(entries: Any, path: Path, place: str, groups: Path) -> list[Path]:
    """Return the files that a defaults list may choose."""
    chosen = []
    for entry in entries if isinstance(entries, Sequence) and not isinstance(entries, str) else []:
        pairs = entry.items() if isinstance(entry, Mapping) else [("", entry)]
        for key, value in pairs:
            group = re.sub(r"^((override|optional)\s+)+", "", str(key))
            for name in value if isinstance(value, list) else [value]:
                if _leads_out(str(name)) or ".." in group or re.match(r"/*hydra\b", group):
                    raise ValueError(f"{place}: defaults: {entry!r} leads out of {groups}: name a file in there")
                folder = groups if group.startswith("/") else path.parent
                chosen += [folder / group.strip("/") / f"{name}.yaml"] if name not in (None, "_self_") else []
    return chosen


def _check_text(where: str, text: str) -> None:
    if "${" in text:
        raise ValueError(f"{where}: ${{...}} is not looked up in settings: write the value, or let the shell put it in")
    if "_target_" in text:
        raise ValueError(f"{where}: _target_ names code to run, and settings are values: leave it out")
    if DIGITS.search(text):
        raise ValueError(f"{where}: a number of more than {LONGEST_NUMBER} digits: give a smaller one")


def _without_escaped(word: str) -> str:
    """Return an override without the `${` in it that are text for Hydra and OmegaConf.

    In quotes that is one after an odd number of backslashes; outside, where Hydra halves them first, after one.
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


def _leads_out(value: str) -> bool:
    return any(name.startswith("/") or ".." in Path(name).parts for name in re.findall(r"[^\s,\[\]'\"]+", value))


def _depth(text: str) -> int:
    """Return how many brackets are open at once at most; text in quotes counts too."""
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
