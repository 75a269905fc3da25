"""The folder lock: held by a folder's only writer, and released when its process ends."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import sys
import time
from contextlib import suppress
from io import FileIO
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

from curriculum.artifact.files import ArtifactError

log = logging.getLogger(__name__)

POLL_S = 0.2


class Held(ArtifactError):
    """Another process holds the lock; the message names what it guards and, if known, the process."""


class Lock:
    """An exclusive lock (flock) on a file, held until `release` or the end of the process, however it ends.

    The file names its holder. Programs started with subprocess do not inherit the lock; forked children do, and it is
    free only once they have ended too. NFS forwards flock to its server (unless mounted with `local_lock`); a file
    system that cannot lock raises OSError.
    """

    def __init__(self, path: Path, what: str, wait_s: float = 0.0) -> None:
        """Lock the file `path`, which is created if missing; `what` names in messages what the lock guards.

        Raises Held when another process still holds it after `wait_s` seconds, OSError when the file cannot be written.
        """
        deadline = time.monotonic() + wait_s
        waiting = False
        while (file := _taken(path)) is None:
            held = f"{what} is being written by another process{_holder(path)}"
            if time.monotonic() >= deadline:
                raise Held(f"{held}: wait for it, or choose another output")
            if not waiting:
                waiting = True
                log.warning("%s: waiting for up to %g s", held, wait_s)
            time.sleep(POLL_S)
        self._file = file
        note = {"pid": os.getpid(), "host": socket.gethostname(), "command": _command()}
        with suppress(OSError):  # the disk is full: the lock is held, but does not name its holder
            file.truncate(0)
            file.write(json.dumps(note).encode() + b"\n")

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if not self._file.closed:
            with suppress(OSError):
                self._file.truncate(0)
            self._file.close()

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
        with FileIO(path, "r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    with suppress(OSError, ValueError, LookupError, TypeError):
        if json.loads(path.read_text("utf-8"))["host"] != socket.gethostname():
            return None
    return False


def _taken(path: Path) -> FileIO | None:
    """Return the locked file; None if another process holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(path, "a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()  # its last holder removed the folder: lock the new file


def _holder(path: Path) -> str:
    """Return the holder of a lock, worded for a message; empty if the file does not name it."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        note = json.loads(path.read_text("utf-8"))
        return f" (pid {note['pid']} on {note['host']}: {note['command']})"
    return ""


def _command() -> str:
    """Return the program and its subcommand, without settings: their values may be secrets."""
    program, *words = sys.argv or [""]
    plain = takewhile(lambda word: "=" not in word and not word.startswith("-"), words)
    return " ".join(["/".join(Path(program).parts[-2:]), *plain])
