"""Who else is connected to a port of this machine: torch's store accepts every connection, and asks for nothing."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
"""The kernel's connections, with the user of each end that is on this machine. Absent elsewhere than on Linux."""
ESTABLISHED = "01"


def strangers(port: int) -> list[str]:
    """Return the other users of this machine, root excepted, with a connection to a port of it, by name.

    Users of other machines are not known here.
    """
    found = set()
    for table in TABLES:
        try:
            rows = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            words = (
                row.split()
            )  # number, own address:port, the other's address:port, state, queues, timer, retries, user
            if words[3] == ESTABLISHED and int(words[2].rpartition(":")[2], 16) == port:
                found.add(int(words[7]))
    return [_named(user) for user in sorted(found - {0, os.geteuid()})]


def _named(user: int) -> str:
    try:
        return f"{pwd.getpwuid(user).pw_name} (user {user})"
    except KeyError:
        return f"user {user}"
