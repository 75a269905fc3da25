"""A preference outside PDPC: a class in a Python file, or an installed entry point of the group `pdpc.preferences`.

    pdpc arrange preference=./my_preference.py:Ramp preference.slope=2 tokens=tokens scores=scores output=order

Code runs only when the user names it on the command line. An ORDER records its class and checksum, to compare with
what the user names (`record`, `load`); nothing is imported because an artifact says so.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from importlib.abc import SourceLoader
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from traceback import extract_tb
from typing import Any

import xxhash

from curriculum.artifact.files import hash_file
from curriculum.preference import PREFERENCES
from curriculum.preference.base import Preference

GROUP = "pdpc.preferences"
"""Entry point group."""
RECORD = "preference_code"
"""Key of an ORDER's config that holds `record`."""
CHECKSUM = "__pdpc_checksum__"
"""Attribute of a loaded module: xxh3-128 of the bytes that were executed."""
FILE = re.compile(r"(?P<file>.+\.py)(?::(?P<name>[A-Za-z_]\w*))?")


def with_own(
    words: Sequence[str], known: Mapping[str, type[Preference]], files: Collection[str] = ()
) -> tuple[list[str], dict[str, type[Preference]]]:
    """Load a preference that `preference=` names and PDPC does not have; return the words and choices that select it.

    `known` names and config `files` take precedence over entry points. Raises ValueError like `load`.
    """
    made, choices = [], dict(known)
    for word in words:
        key, _, value = word.partition("=")
        named = _unquoted(value)
        if key == "preference" and (FILE.fullmatch(named) or (named not in {*known, *files} and _entry(named))):
            kind = load(named)
            if kind.__name__ in {*known, *files}:
                raise ValueError(f"preference {named} has the name of a preference of PDPC: rename the class")
            choices[kind.__name__] = kind
            word = f"preference={kind.__name__}"
        made.append(word)
    return made, choices


def is_own(value: str) -> bool:
    """Return whether the value of `preference=` is a file with a preference of the user's own."""
    return FILE.fullmatch(_unquoted(value)) is not None


def load(named: str, expected: Mapping[str, Any] | None = None) -> type[Preference]:
    """Return the class that the user names, as FILE.py:CLASS or by an entry point's name.

    `expected` is what an ORDER recorded: another class or checksum is rejected, for a file before any of it is run.
    Raises ValueError if the class is missing, fails to load, differs, or is not a preference.
    """
    if match := FILE.fullmatch(named):
        path, name = Path(match["file"]), match["name"]
        if not path.is_file():
            raise ValueError(f"preference {named}: {path} is not a file: give FILE.py:CLASS")
        if name is None:
            raise ValueError(f"preference {named} names no class: give {named}:CLASS")
        data = path.read_bytes()
        checksum = xxhash.xxh3_128_hexdigest(data)
        _compare(named, {"class": name, "xxh3_128": checksum}, expected)
        kind = getattr(_run(named, path, data, checksum), name, None)
        if kind is None:
            raise ValueError(f"preference {named}: {path} has no class {name}")
    else:
        entry = _entry(named)
        if entry is None:
            raise ValueError(
                f"preference {named}: no installed package has this entry point in the group {GROUP}: install it, or "
                "give FILE.py:CLASS"
            )
        try:
            kind = entry.load()
        except Exception as error:
            raise ValueError(f"preference {named} ({entry.value}) fails to load: {_described(error)}") from error
        _compare(named, _record(kind) if isinstance(kind, type) else {}, expected)
    return _checked(named, kind)


def record(preference: Preference) -> dict[str, Any]:
    """Return what an ORDER's config records of code outside PDPC: class, file name, checksum; {} for PDPC's own."""
    kind = type(preference)
    return {} if kind in PREFERENCES.values() else {RECORD: _record(kind)}


def recorded(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what an ORDER's config records of code outside PDPC; None if the preference is PDPC's own."""
    code = config.get(RECORD)
    if code is not None and not isinstance(code, Mapping):
        raise ValueError(f"the manifest's {RECORD}={code!r} is not the record of a class")
    return code


def _record(kind: type) -> dict[str, Any]:
    module = sys.modules.get(kind.__module__)
    try:
        file = Path(inspect.getsourcefile(kind) or "")
    except TypeError:  # typed into an interpreter
        file = Path()
    checksum = getattr(module, CHECKSUM, None) or (hash_file(file).xxh3_128 if file.is_file() else None)
    return {"class": kind.__qualname__, "file": file.name or None, "xxh3_128": checksum}


def _compare(named: str, found: Mapping[str, Any], expected: Mapping[str, Any] | None) -> None:
    if expected is None:
        return
    for key in ("class", "xxh3_128"):
        if found.get(key) != expected.get(key):
            raise ValueError(
                f"preference {named} is not what the order was arranged by: {key} {found.get(key)}, the order's "
                f"manifest says {expected.get(key)}: name the code of that time"
            )


class _Source(SourceLoader):
    """Loads a module from bytes that were read once, so that their checksum matches what runs; caches nothing."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data = path, data

    def get_filename(self, fullname: str) -> str:
        """Return the file that the bytes were read from."""
        return str(self._path.absolute())

    def get_data(self, path: str | bytes) -> bytes:
        """Return the bytes."""
        return self._data


def _run(named: str, path: Path, data: bytes, checksum: str) -> Any:
    """Run a file's bytes as a registered module, where dataclasses look up their types."""
    spec = spec_from_loader(f"pdpc_preference_{checksum}", _Source(path, data))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    setattr(module, CHECKSUM, checksum)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise ValueError(f"preference {named}: {path} fails to load: {_described(error)}") from error
    return module


def _checked(named: str, kind: Any) -> type[Preference]:
    if not (isinstance(kind, type) and issubclass(kind, Preference)):
        raise ValueError(f"preference {named} must be a subclass of curriculum.preference.Preference: derive it")
    if "__dataclass_params__" not in vars(kind):
        raise ValueError(f"preference {named}: decorate {kind.__name__} with @dataclass(frozen=True)")
    called = next(item.default for item in fields(kind) if item.name == "name")
    if called in PREFERENCES:
        raise ValueError(
            f"preference {named} is called {called!r}, a name that PDPC uses: give it another one, "
            f'name: str = "{kind.__name__.lower()}"'
        )
    return kind


def _entry(named: str) -> Any:
    """Return the installed entry point of this name, or None; its code is not loaded."""
    return next(iter(entry_points(group=GROUP, name=named)), None)


def _described(error: Exception) -> str:
    """Return an error on one line, with its location."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):  # it includes its location
        return text
    frame = extract_tb(error.__traceback__)[-1]
    return f"{text} ({Path(frame.filename).name}, line {frame.lineno})"


def _unquoted(value: str) -> str:
    """Return an override's value without the quotes that Hydra's grammar asks for."""
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(f"\\{value[0]}", value[0]).replace("\\\\", "\\")
    return value
