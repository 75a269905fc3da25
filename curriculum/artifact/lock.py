"""The folder lock: held by a folder's only writer, and released when its process ends."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import pwd
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from io import FileIO
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from curriculum.artifact.drafts import machine
from curriculum.artifact.files import ArtifactError, open_regular

log = logging.getLogger(__name__)

POLL_S = 0.1
NAMELESS_S = 0.2
"""How long a lock may be held without naming its holder: that is being written, or a reader is testing the lock."""
BEAT_S = 5.0
"""The holder updates the modification time of its lock file this often."""
JOIN_S = 1.0
"""How long `release` waits for a file system that does not answer."""
SILENT_S = 3 * BEAT_S
"""A holder on another machine whose file has not changed for this long has ended."""
CANNOT_LOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class Held(ArtifactError):
    """Another process holds the lock; the message names what it guards and, if known, the process."""


class CannotLock(ArtifactError):
    """The file system has no locks."""


class Lock:
    """An exclusive lock (flock) on a file, held until `release` or the end of the process, however it ends.

    The file names its holder. Programs started with subprocess do not inherit the lock; forked children do, and it is
    free only once they have ended too. Who may not write to the folder cannot open the file, so cannot lock it.

    File systems differ in whether another machine sees the lock (NFS with `local_lock` and Lustre with `localflock` do
    not show it). So the holder also updates the file's modification time, and a lock that is free here but names a
    holder on another machine is watched for SILENT_S first.
    """

    def __init__(self, path: Path, what: str, wait_s: float = 0.0, *, local: bool = False) -> None:
        """Lock the file `path`, which is created if missing; `what` names in messages what the lock guards.

        `local`: the disk is this machine's own, so a holder on another one does not exist. Raises Held when another
        process still holds it after `wait_s` seconds, CannotLock for a file system without locks, OSError when the
        file cannot be written.
        """
        began, waiting = time.monotonic(), False
        while (file := _taken(path, what)) is None:
            holder = _named(_note(path))
            held = f"{what} is being written by another process{holder}"
            waited_s = time.monotonic() - began
            if waited_s >= max(wait_s, 0.0 if holder else NAMELESS_S):
                raise Held(f"{held}: wait for it, or choose another output")
            if not waiting and wait_s > 0:
                waiting = True
                log.warning("%s: waiting for up to %g s", held, wait_s)
            time.sleep(POLL_S)
        self._file = file
        self._over = threading.Event()
        try:
            if not local:
                _watch(path, what)
            note = {"pid": os.getpid(), "host": socket.gethostname(), "machine": machine(), "command": _command()}
            with suppress(OSError):  # the disk is full: the lock is held, but does not name its holder
                file.truncate(0)
                os.pwrite(file.fileno(), json.dumps(note).encode() + b"\n", 0)
        except BaseException:
            file.close()
            raise
        self._beating = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._beating.start()

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        self._over.set()
        self._beating.join(JOIN_S)  # its file descriptor may be another file's once it is closed
        if not self._file.closed:
            with suppress(OSError):
                self._file.truncate(0)
            self._file.close()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(OSError):
                os.utime(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool | None:
    """Return whether a process holds the lock file `path`; None if that cannot be tested from here.

    A file that names a holder on another machine, but is free here, may be on a disk that does not forward locks.
    """
    try:
        with FileIO(open_regular(path, os.O_RDONLY), "r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return None if _elsewhere(_note(path)) else False


def _taken(path: Path, what: str) -> FileIO | None:
    """Return the locked file; None if another process holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(_opened(path), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        except OSError as error:
            file.close()
            if error.errno in CANNOT_LOCK:
                raise CannotLock(
                    f"{path} is on a file system that cannot lock files (flock: {error.strerror}), so a second writer "
                    f"of {what} would go unnoticed: choose an output on another file system, or mount this one with "
                    "locks (Lustre: option flock; NFS: version 4, or version 3 with a running lockd)"
                ) from error
            raise
        except BaseException:
            file.close()
            raise
        file.close()  # its last holder removed the folder: lock the new file


def _opened(path: Path) -> int:
    """Open a lock file, or create it. Whoever may write to its folder may open it, and nobody else."""
    try:
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise PermissionError(error.errno, f"{error.strerror}{_owner(path)}", str(path)) from error
    there, folder = os.fstat(descriptor), path.parent.stat()
    if there.st_uid == os.geteuid():
        group = 0o060 if folder.st_mode & stat.S_IWGRP and there.st_gid == folder.st_gid else 0
        other = 0o006 if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX else 0
        if stat.S_IMODE(there.st_mode) != (mode := 0o600 | group | other):
            with suppress(OSError):  # a file system without permissions
                os.fchmod(descriptor, mode)
    return descriptor


def _owner(path: Path) -> str:
    """Return whose file it is, worded for a message; empty if that is unknown."""
    with suppress(OSError, KeyError):
        return f": it is {pwd.getpwuid(path.stat().st_uid).pw_name}'s"
    return ""


def _watch(path: Path, what: str) -> None:
    """Raise Held if the free lock file `path` names a holder on another machine that still updates it."""
    note = _note(path)
    if not _elsewhere(note):
        return
    log.warning("%s was last written%s: waiting for %g s to be sure that it has ended", what, _named(note), SILENT_S)
    began, before = time.monotonic(), _written_ns(path)
    while time.monotonic() - began < SILENT_S:
        time.sleep(POLL_S)
        if _written_ns(path) != before:
            raise Held(
                f"{what} is being written by another process{_named(note)}, whose lock this machine does not see: wait "
                "for it, or choose another output; mount the file system with locks that all machines see (Lustre: "
                "option flock; NFS: without local_lock)"
            )


def _written_ns(path: Path) -> int:
    """Return the modification time of a file; opening it makes a network file system ask its server."""
    with FileIO(open_regular(path, os.O_RDONLY), "r") as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _note(path: Path) -> dict[str, Any]:
    """Return what a lock file says of its holder; {} if it does not name it."""
    with suppress(OSError, ValueError, RecursionError):
        note = json.loads(path.read_text("utf-8"))
        if isinstance(note, dict) and {"pid", "host", "command"} <= set(note):
            return note
    return {}


def _elsewhere(note: dict[str, Any]) -> bool:
    return bool(note) and note.get("machine", machine()) != machine()


def _named(note: dict[str, Any]) -> str:
    """Return the holder of a lock, worded for a message; empty if it is unknown."""
    return f" (pid {note['pid']} on {note['host']}: {note['command']})" if note else ""


def _command() -> str:
    """Return the program and its subcommand, without settings: their values may be secrets."""
    program, *words = sys.argv or [""]
    plain = takewhile(lambda word: "=" not in word and not word.startswith("-"), words)
    return " ".join(["/".join(Path(program).parts[-2:]), *plain])
