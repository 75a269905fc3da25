"""The secret of an attempt: what its ranks know and no other process does.

The launcher writes it to a file that only this user can read, and passes the file's name in PDPC_SECRET: neither a
command line nor the environment of a remote shell, which others can list, ever holds the secret itself.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

VARIABLE = "PDPC_SECRET"
"""Environment variable with the file."""
BYTES = 32
LARGEST = 4096
"""Bytes read of a file."""


def write_secret(path: Path) -> None:
    """Write a new secret to `path`, readable only by this user, in place of an earlier one."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(secrets.token_hex(BYTES) + "\n")


def read_secret() -> bytes | None:
    """Return the secret that the launcher passed; None if it passed none.

    Raises ValueError naming the file if it is missing, a link, empty, or not only this user's.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    remedy = "start the run again with the program that wrote it"
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise ValueError(
                    f"{VARIABLE}={path} is not a file that only this user can read (owner {found.st_uid}, mode "
                    f"{stat.S_IMODE(found.st_mode):o}): {remedy}"
                )
            secret = file.read(LARGEST).strip()
    except OSError as error:
        raise ValueError(f"{VARIABLE}={path} cannot be read ({error.strerror}): {remedy}") from error
    if not secret:
        raise ValueError(f"{VARIABLE}={path} is empty: {remedy}")
    return secret


def proof(secret: bytes, *words: str) -> str:
    """Return what only a process that knows the secret can compute for these words: HMAC-SHA256, in hex."""
    return hmac.new(secret, "\0".join(words).encode(), hashlib.sha256).hexdigest()
