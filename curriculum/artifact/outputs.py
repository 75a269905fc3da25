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
LONGEST_ENDING = 32
"""Bytes that may be added to an output's name, for a temporary file or folder next to it."""
SHOWN = 80
"""Characters shown of a path that the system does not take."""


def check_place(key: str, path: Path, *, inside: bool = False) -> None:
    """Raise ValueError, before the work, unless something can be written at `path`, the value of the setting `key`.

    Its name fits, also with the endings of temporary names. No part of the path is a link to nothing, or a file in the
    place of a folder. The folder that it is written to permits that: the one that `path` is in, or `path` itself where
    files are written `inside` it.
    """
    try:
        places = (path.absolute(), *path.absolute().parents)
        for place in places:
            if place.is_symlink() and not place.exists():
                raise ValueError(f"{key}={path}: {place} is a link to {os.readlink(place)}, which does not exist")
        nearest = next(place for place in places if place.exists())
        if not nearest.is_dir() and (inside or nearest != places[0]):
            where = "is a file" if nearest == places[0] else f"is below {nearest}, which is a file"
            raise ValueError(f"{key}={path} {where}: give a folder")
        folder = nearest if nearest != places[0] or inside else nearest.parent
        longest = os.pathconf(folder, "PC_NAME_MAX") - LONGEST_ENDING
        size = len(os.fsencode(path.name))
    except OSError as error:
        shown = str(path) if len(str(path)) < SHOWN else f"{str(path)[:SHOWN]}..."
        raise ValueError(f"{key}={shown} cannot be written to ({error.strerror}): choose another place") from error
    if size > longest:
        raise ValueError(
            f"{key}={path}: the name has {size} bytes, which leaves no room for temporary endings: choose one of at "
            f"most {longest} bytes"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"{key}={path} cannot be written ({folder} is read-only): choose a folder this user can write to"
        )


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
    """Raise ValueError when `folder`, the value of the setting `key`, holds files that match no pattern of `own`, or
    cannot be written to."""
    check_place(key, folder, inside=True)
    if found := others(folder, own):
        raise ValueError(f"{key}={folder} contains other files ({named(found)}): choose a new folder")


def check_file(key: str, path: Path, ours: bool) -> None:
    """Raise ValueError when the file `path`, the value of the setting `key`, is a folder, or exists and is not ours, or
    cannot be written."""
    check_place(key, path)
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
