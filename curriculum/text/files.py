"""Find the text files of an input: files, folders and globs. A folder is read whole or rejected."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curriculum.artifact.manifest import MANIFEST
from curriculum.text.formats import READERS, file_format

SHOWN_NAMES = 5
COMPANIONS = (
    *("readme*", "license*", "licence*", "copying*", "notice*", "changelog*", "citation*", "authors*", "contributing*"),
    *("_success*", "_metadata", "_common_metadata", "_committed_*", "_started_*", "*sums", "desktop.ini", "thumbs.db"),
    *("*.crc", "*.md5", "*.sha1", "*.sha256", "*.sha512", "*.asc", "*.sig", "*.log", "*.lock", "*.etag"),
    *("*.py", "*.sh", "*.yaml", "*.yml", "*.toml", "*.ini", "*.cfg", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg"),
)
"""Patterns of files next to a corpus, in no format that PDPC reads (in lower case): noted, not read."""
NOTES = (
    *("readme", "license", "licence", "copying", "notice", "changelog", "citation", "authors", "contributing"),
    *("requirements", "checksums", "md5sums", "sha1sums", "sha256sums", "sha512sums"),
)
"""Names of .txt files, without the extension, that describe a corpus and are no part of it."""
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json", MANIFEST)
"""Files in which `datasets`, or an artifact of ours such as the demo's text, describes a corpus."""


@dataclass(frozen=True)
class TextFile:
    """A file of the input."""

    name: str
    """Unique in the input and independent of the input's location."""
    path: Path
    nested: bool
    """Whether it is in a subfolder of the folder, or of the fixed part of the glob, that input.paths names."""


def find_files(paths: list[str], notes: list[str]) -> list[TextFile]:
    """Return the files of `input.paths` in order, each once. Appends to `notes` what is left out.

    Raises ValueError if an item matches nothing, a folder has files that may be text but cannot be read, or a file is
    there both plain and compressed.
    """
    files: list[TextFile] = []
    seen: set[Path] = set()
    for number, entry in enumerate(paths):
        for name, path in _expand(entry, notes):
            real = path.resolve()
            if not real.is_file():
                raise ValueError(f"input.paths: {path} is not a file (a broken link?): restore or remove it")
            if real in seen:
                notes.append(f"note: {path} is listed twice by input.paths: read once")
                continue
            seen.add(real)
            files.append(TextFile(f"{number}/{name}", path, "/" in name))
    _reject_copies(files)
    return files


def _reject_copies(files: list[TextFile]) -> None:
    """Raise ValueError if a file lies next to its own compressed copy (`gzip --keep`): its text would be read twice."""
    found: dict[Path, Path] = {}
    for path in (file.path for file in files):
        plain = path.with_name(path.name.removesuffix(".gz").removesuffix(".zst"))
        if (other := found.setdefault(plain, path)) is not path:
            raise ValueError(
                f"input.paths: {other} and {path} have one name, so they look like copies, and the text would be read "
                "twice: remove one, or rename it if its text is another"
            )


def _expand(entry: str, notes: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield (relative name, path) of every file that one item of input.paths matches, sorted by name."""
    if not entry:
        raise ValueError("input.paths has an empty entry (a shell variable that is not set?): name a file or folder")
    place = Path(os.path.expanduser(entry))
    if place.is_dir():
        yield from sorted(_folder_files(place, place, notes))
    elif place.is_file():
        yield _known(place.name, place)
    elif glob.has_magic(entry):
        base = _fixed_part(place)
        found: dict[str, Path] = {}
        for match in map(Path, glob.glob(str(place), recursive=True)):
            if match.is_dir():
                found.update(_folder_files(match, base, notes, required=False))
            else:
                found.update([_known(match.relative_to(base).as_posix(), match)])
        if not found:
            raise ValueError(f"input.paths: no file matches {entry!r}: {_pattern_help(entry)}")
        yield from sorted(found.items())
    else:
        raise ValueError(f"input.paths: {entry!r} does not exist: check the path (relative to {os.getcwd()})")


def _pattern_help(entry: str) -> str:
    literal = entry.replace("[", "[[]")
    if literal != entry and glob.glob(os.path.expanduser(literal), recursive=True):
        return f"brackets in a pattern are a choice of characters: write {literal!r} for a name that contains them"
    return "check the pattern and the working directory"


def _folder_files(folder: Path, base: Path, notes: list[str], required: bool = True) -> list[tuple[str, Path]]:
    """List a folder's files of known formats. Hidden files are skipped, companions of a corpus are noted.

    Raises ValueError if there are others: the folder would be read in part.
    """
    known: list[tuple[str, Path]] = []
    companions: list[str] = []
    unknown: list[str] = []
    for place, folders, names in os.walk(folder, onerror=_unreadable):
        linked = [name for name in folders if os.path.islink(os.path.join(place, name)) and not name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*names, *linked]:
            path = Path(place, name)
            shown = path.relative_to(folder).as_posix()
            if name.startswith("."):
                continue
            if name in linked:
                inside = path.resolve().is_relative_to(folder.resolve())
                (companions if inside else unknown).append(f"{shown} (a linked folder)")
            elif _is_companion(path):
                companions.append(shown)
            elif file_format(name) is None:
                unknown.append(shown)
            else:
                known.append((path.relative_to(base).as_posix(), path))
    other = [*unknown, *companions]
    if not known and required:
        there = f"it contains {_some(other)}" if other else "it contains no files"
        raise ValueError(f"input.paths: {folder} has no file that PDPC reads ({', '.join(READERS)}); {there}")
    if unknown:
        raise ValueError(
            f"input.paths: {folder} also has {len(unknown)} entries that PDPC does not read ({_some(unknown)}), so it "
            f"would be read in part: convert them to {', '.join(READERS)}, move them, or list what is to be read in "
            "input.paths: linked folders too, and files by a glob"
        )
    home = folder.resolve()
    if away := [f"{name} -> {path.resolve()}" for name, path in known if not path.resolve().is_relative_to(home)]:
        notes.append(
            f"note: {folder}: {len(away)} files are links that lead out of it, and are read: {_some(away)}; check that "
            "they are text of the corpus"
        )
    if other:
        count = "1 entry" if len(other) == 1 else f"{len(other)} entries"
        notes.append(f"note: {folder}: {count} skipped, not text of the corpus: {_some(other)}")
    return known


def _is_companion(path: Path) -> bool:
    name = path.name.lower()
    if file_format(name) is not None:
        return name in METADATA or (name.endswith(".txt") and name.removesuffix(".txt") in NOTES)
    empty = path.is_file() and path.stat().st_size == 0  # a marker, such as _SUCCESS
    return empty or any(fnmatch.fnmatchcase(name, pattern) for pattern in COMPANIONS)


def _unreadable(error: OSError) -> None:
    raise ValueError(f"input.paths: {error.filename} cannot be read ({error.strerror}): fix its permissions") from error


def _known(name: str, path: Path) -> tuple[str, Path]:
    if file_format(path.name) is None:
        raise ValueError(f"input.paths: {path} has an unknown extension: PDPC reads {', '.join(READERS)}")
    return name, path


def _some(names: list[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:SHOWN_NAMES]) + (", ..." if len(shown) > SHOWN_NAMES else "")


def _fixed_part(pattern: Path) -> Path:
    """Return the leading folders of a glob without wildcards."""
    fixed: list[str] = []
    for part in pattern.parent.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)
