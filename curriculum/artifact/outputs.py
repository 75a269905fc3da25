"""Outputs: whether a folder may be written to, or holds files of something else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from curriculum.artifact.files import LARGEST_TEXT

BYSTANDERS = (".DS_Store", ".gitignore", ".gitkeep", "lost+found", "*.log", "*.out", "*.err")
"""Files of the system, of version control, of a shell's redirection and of a scheduler. They do not hide what a folder
is for, and nothing that is added to it touches them."""
MOST_NAMED = 5


def others(folder: Path, own: Iterable[str]) -> list[str]:
    """Return the sorted names in a folder that match none of the patterns `own`; empty if it does not exist.

    Raises ValueError for a path that is not a folder, OSError for one that cannot be read.
    """
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder")
    patterns = tuple(own)
    names = (entry.name for entry in os.scandir(folder))
    return sorted(name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns))


def check_free(key: str, folder: Path, own: Iterable[str]) -> None:
    """Raise ValueError when `folder`, the value of the setting `key`, holds files that match no pattern of `own`."""
    if found := others(folder, own):
        raise ValueError(f"{key}={folder} contains other files ({named(found)}): choose a new folder")


def check_file(key: str, path: Path, ours: bool) -> None:
    """Raise ValueError when the file `path`, the value of the setting `key`, is a folder, or exists and is not ours."""
    if path.is_dir():
        raise ValueError(f"{key}={path} is a folder: give a file")
    if path.exists() and not ours:
        raise ValueError(f"{key}={path} exists and was not written by this command: choose a new file, or remove it")


def holds(path: Path, mark: str) -> bool:
    """Return whether a file contains a text that only our files contain; only its first LARGEST_TEXT bytes are read."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return mark.encode() in file.read(LARGEST_TEXT)


def named(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
