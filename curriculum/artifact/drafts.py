"""Drafts: temporary names next to a file or folder, that nobody can guess and that tell who writes under them.

    .<name>.tmp-<host>.<digest>-<pid>-<random>

The digest is of the host, its boot and the scope of its process ids (the container). So another machine never takes
a draft for abandoned because it has no process with that id.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

import xxhash

log = logging.getLogger(__name__)

MARK = ".tmp-"
LEASE_S = 24 * 3600.0
"""A draft of another machine counts as abandoned once nothing in it has been written for this long."""
LONGEST_NAME, LONGEST_HOST = 160, 24
"""Bytes of a file's name, and characters of a host's, that a draft's name repeats: a name has at most 255 bytes."""
WRITER = re.compile(r"(?P<machine>(?P<host>[\w.-]*)\.[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")


def process_alive(pid: int) -> bool:
    """Return whether a process exists on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def boot_id() -> str:
    """Return a name for this boot of the machine; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def machine() -> str:
    """Return a name for the scope of process ids: this host, its boot and its container."""
    try:
        scope = os.readlink("/proc/self/ns/pid")
    except OSError:
        scope = ""
    host = socket.gethostname()
    digest = xxhash.xxh3_64_hexdigest(f"{host} {boot_id()} {scope}".encode("utf-8", "surrogateescape"))[:8]
    return f"{re.sub(r'[^A-Za-z0-9.-]', '_', host)[:LONGEST_HOST]}.{digest}"


def draft_of(path: Path) -> Path:
    """Return a new temporary name in the folder of `path`, which names this process."""
    return path.with_name(f"{_start(path.name)}{machine()}-{os.getpid()}-{secrets.token_hex(4)}")


def remove_abandoned(folder: Path, name: str | None = None, now: float | None = None) -> None:
    """Remove the drafts in `folder`, of the file or folder `name` or of any, whose writers are gone.

    A draft of this machine is removed once its process has ended. One of another machine stays, with a warning, until
    nothing in it has been written for LEASE_S before `now`: seconds on the clock of the file system, such as the
    modification time of something new (by default, this machine's clock).
    """
    pattern = f".*{MARK}*" if name is None else f"{glob.escape(_start(name))}*"
    here = machine()
    for draft in folder.glob(pattern):
        found = WRITER.fullmatch(draft.name.rpartition(MARK)[2])
        if found is None and name is None:
            continue  # not ours
        if found and found["machine"] == here:
            gone, idle_s = not process_alive(int(found["pid"])), 0.0
        else:
            idle_s = (time.time() if now is None else now) - _last_written(draft)
            gone = idle_s > LEASE_S
        if gone:
            _remove(draft)
        elif not found or found["machine"] != here:
            writer = f"process {found['pid']} on {found['host']}" if found else "an unknown process"
            log.warning(
                "%s was left, or is being written, by %s (last write %.0f s ago): left alone; remove it if that "
                "process has ended",
                *(draft, writer, max(0.0, idle_s)),
            )


def _start(name: str) -> str:
    """Return what the names of the drafts of a file or folder begin with."""
    return f".{os.fsencode(name)[:LONGEST_NAME].decode('utf-8', 'ignore')}{MARK}"


def _last_written(draft: Path) -> float:
    """Return the latest modification time of a draft and of what is in it."""
    latest = 0.0
    for path in (draft, *draft.rglob("*")):
        with suppress(OSError):
            latest = max(latest, path.lstat().st_mtime)
    return latest


def _remove(draft: Path) -> None:
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        with suppress(OSError):
            draft.unlink()
