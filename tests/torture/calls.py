"""A shim over the system calls that change a disk: it records them, and can make one of them fail."""

from __future__ import annotations

import _pyio  # type: ignore[import-not-found]
import builtins
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHANGING = ("open", "write", "pwrite", "ftruncate", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


@dataclass(frozen=True)
class Call:
    """A call that changed the disk."""

    name: str
    path: str
    """Relative to the watched folder."""
    target: str = ""
    """Of a rename: the new path."""
    data: bytes = b""
    offset: int = 0
    """Of a write; for ftruncate, the new size."""


@dataclass
class Calls:
    """The calls under `root`, in order."""

    root: Path
    fail_at: int | None = None
    """Number of the call, from 0, that fails with `error`."""
    error: Callable[[], OSError] = field(default=lambda: OSError(28, "No space left on device"))
    calls: list[Call] = field(default_factory=list)
    failed: Call | None = None
    _paths: dict[int, str] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def inside(self, path: Any, folder: int | None = None) -> str | None:
        """Return a path relative to the root, None if it is outside."""
        if isinstance(path, int):
            return self._paths.get(path)
        text = os.fspath(path)
        if folder is not None:
            above = self._paths.get(folder)
            return None if above is None else os.path.normpath(os.path.join(above, text))
        relative = os.path.relpath(os.path.abspath(text), self.root)
        return None if relative.startswith("..") else relative

    def note(self, call: Call) -> None:
        """Record a call; raise if it is the one that must fail."""
        with self._lock:
            if self.fail_at == len(self.calls) and self.failed is None:
                self.failed = call
                raise self.error()
            self.calls.append(call)


@contextmanager
def watched(root: Path, fail_at: int | None = None, error: Callable[[], OSError] | None = None) -> Iterator[Calls]:
    """Record the changes that this process makes under `root` through the calls in CHANGING, and through `open`."""
    seen = Calls(root.resolve(), fail_at, **({"error": error} if error else {}))
    real: dict[str, Any] = {name: getattr(os, name) for name in (*CHANGING, "close")}
    real_open: Any = io.open

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        inside = seen.inside(path, dir_fd)
        creates = inside is not None and flags & os.O_CREAT and not (seen.root / inside).exists()
        if creates:
            seen.note(Call("create", str(inside)))
        elif inside is not None and flags & os.O_TRUNC:
            seen.note(Call("ftruncate", inside))
        descriptor = real["open"](path, flags, mode, dir_fd=dir_fd)
        if inside is not None:
            seen._paths[descriptor], seen._places[descriptor] = inside, 0
        return int(descriptor)

    def opened_file(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        """`open`: to write, the one in Python, since the one in C does not go through `os`."""
        if set(mode) & set("wxa+") and seen.inside(file) is not None:
            return _pyio.open(file, mode, *args, **options)
        return real_open(file, mode, *args, **options)

    def closed(descriptor: int) -> None:
        seen._paths.pop(descriptor, None)
        real["close"](descriptor)

    def write(descriptor: int, data: Any) -> int:
        if (inside := seen.inside(descriptor)) is not None:
            seen.note(Call("write", inside, data=bytes(data), offset=seen._places[descriptor]))
            seen._places[descriptor] += len(data)
        return int(real["write"](descriptor, data))

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        if (inside := seen.inside(descriptor)) is not None:
            seen.note(Call("write", inside, data=bytes(data), offset=offset))
        return int(real["pwrite"](descriptor, data, offset))

    def ftruncate(descriptor: int, size: int) -> None:
        if (inside := seen.inside(descriptor)) is not None:
            seen.note(Call("ftruncate", inside, offset=size))
        real["ftruncate"](descriptor, size)

    def fsync(descriptor: int) -> None:
        if (inside := seen.inside(descriptor)) is not None:
            seen.note(Call("fsync", inside))
        real["fsync"](descriptor)

    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if (inside := seen.inside(path, dir_fd)) is not None and not os.path.isdir(path):
            seen.note(Call("mkdir", inside))
        real["mkdir"](path, mode, dir_fd=dir_fd)

    def moved(name: str) -> Callable[..., None]:
        def move(source: Any, target: Any) -> None:
            inside = seen.inside(source)
            if inside is not None:
                seen.note(Call("rename", inside, str(seen.inside(target))))
            real[name](source, target)

        return move

    def gone(name: str) -> Callable[..., None]:
        def remove(path: Any, *, dir_fd: int | None = None) -> None:
            inside = seen.inside(path, dir_fd)
            if inside is not None:
                seen.note(Call(name, inside))
            real[name](path, dir_fd=dir_fd)

        return remove

    shims = {
        "open": opened,
        "close": closed,
        "write": write,
        "pwrite": pwrite,
        "ftruncate": ftruncate,
        "fsync": fsync,
        "mkdir": mkdir,
        "rename": moved("rename"),
        "replace": moved("replace"),
        "unlink": gone("unlink"),
        "rmdir": gone("rmdir"),
    }
    for name, shim in shims.items():
        setattr(os, name, shim)
    builtins.open = io.open = opened_file  # type: ignore[assignment]
    try:
        yield seen
    finally:
        builtins.open = io.open = real_open
        for name, function in real.items():
            setattr(os, name, function)
