"""Configuration files outside the checkout: `experiment=./my.yaml` by path, or by name in a `--config-dir`.

They are read as text and hold plain values, like the files in `configs/`; no code is loaded from where they are.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from train.config.check import check_file
from train.config.typed import QUOTED
from train.config.written import Kinds, package_of

CONFIG_DIR = "config_dir"
"""Key of the folder of further groups, as in Hydra: `--config-dir DIR`."""
SUFFIXES = (".yaml", ".yml")


def named_path(value: str) -> Path | None:
    """Return the file that an override of a group names by its path; None if the value is a name in the group."""
    text = re.sub(r"\\(.)", r"\1", value[1:-1]) if QUOTED.fullmatch(value) else value
    return Path(os.path.expanduser(text)) if text.endswith(SUFFIXES) else None


@contextmanager
def with_outside_files(words: Sequence[str], groups: Path, kinds: Kinds) -> Iterator[tuple[list[str], dict[str, Path]]]:
    """Make files outside `groups` known to Hydra; yield the words that choose them, and the files by GROUP/NAME.

    `kinds` gives the type of a setting by its key. Raises ValueError for a file or folder that does not exist, or that
    has more than plain values.
    """
    from hydra.core.config_store import ConfigStore

    folder = _folder(words, groups)
    found: dict[str, Path] = {}
    made = []
    for word in words:
        key, _, value = word.partition("=")
        group = key.lstrip("+")
        if group == CONFIG_DIR:
            continue
        if (groups / group).is_dir() and "/" not in group:
            path = named_path(value)
            if path is not None:
                if not path.is_file():
                    raise ValueError(f"{group}={value}: {path} is not a file: give a .yaml file, or a name in {group}")
                name = f"{path.stem} (a file)"
                found[f"{group}/{name}"] = path
                word = f"{key}='{name}'"
            elif folder and (folder / group / f"{value}.yaml").is_file():
                if (groups / group / f"{value}.yaml").is_file():
                    raise ValueError(f"{group}={value} is in {groups} and in {folder}: give its path, or rename it")
                found[f"{group}/{value}"] = folder / group / f"{value}.yaml"
        made.append(word)
    try:
        waiting = list(found)
        while waiting:
            place = waiting.pop()
            for chosen in _store(place, found[place], groups, kinds):
                other = chosen.relative_to(groups).with_suffix("").as_posix()
                if folder and other not in found and not chosen.is_file() and (folder / f"{other}.yaml").is_file():
                    found[other] = folder / f"{other}.yaml"
                    waiting.append(other)
        yield made, found
    finally:
        for place in found:
            group, _, name = place.partition("/")
            ConfigStore.instance().repo.get(group, {}).pop(f"{name}.yaml", None)


def _folder(words: Sequence[str], groups: Path) -> Path | None:
    given = [word.partition("=")[2] for word in words if word.lstrip("+").startswith(f"{CONFIG_DIR}=")]
    if not given:
        return None
    text = given[-1]
    folder = Path(os.path.expanduser(text[1:-1] if QUOTED.fullmatch(text) else text))
    known = sorted(path.name for path in groups.iterdir() if path.is_dir())
    if not any((folder / name).is_dir() for name in known):
        raise ValueError(
            f"{CONFIG_DIR}={folder} has none of the folders {', '.join(known)}: put files there, as in "
            f"{folder / 'experiment'}/NAME.yaml"
        )
    return folder


def _store(place: str, path: Path, groups: Path, kinds: Kinds) -> list[Path]:
    """Check one file and store it as GROUP/NAME; return the files in `groups` that its defaults choose."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    group, _, name = place.partition("/")
    text, chosen = check_file(path, str(path), groups / group, groups, kinds)
    package = package_of(text, "_global_" if group == "experiment" else None)
    content = OmegaConf.load(io.StringIO(text))
    if package == "_global_":
        _check_choices(path, content, groups)
    ConfigStore.instance().store(group=group, name=name, node=content, package=package, provider=str(path))
    return chosen


def _check_choices(path: Path, content: Any, groups: Path) -> None:
    """Raise ValueError for `tracker: none` in a file: there a group is a mapping, and its name chooses nothing."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, str) and (groups / str(key)).is_dir():
            raise ValueError(
                f"{path}: {key}: {value} chooses a file of configs/{key}, which a file does under `defaults:`, with "
                f"the line - override /{key}: {value}"
            )
