"""Files that one process appends to for hours."""

from __future__ import annotations

import os
from pathlib import Path

from curriculum.artifact.files import ArtifactError, no_links


class Misplaced(ArtifactError):
    """A file that this process appends to is no longer under its name, or somebody else wrote to it."""

    exit_code = os.EX_IOERR


class AppendedFile:
    """A file that only this process writes to. A link at `path` is not followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "ab", opener=no_links)  # noqa: SIM115 (held until close())
        self._size = os.fstat(self._file.fileno()).st_size

    def append(self, data: bytes) -> None:
        """Add bytes; they may be kept in a buffer until `flush` or `sync`."""
        self._file.write(data)
        self._size += len(data)

    def flush(self) -> None:
        """Give the operating system all that was appended."""
        self._file.flush()

    def sync(self) -> None:
        """Flush the file to disk. Raises Misplaced unless all of it is under its name.

        An editor, mv or rm may have put another file there, and what is appended would be lost with this one.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        there = os.fstat(self._file.fileno())
        try:
            same = os.path.samestat(there, os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            same = False
        if not same or there.st_size != self._size:
            what = (
                "was removed, moved or replaced" if not same else f"has {there.st_size} bytes instead of {self._size}"
            )
            raise Misplaced(
                f"{self.path} {what}: another process changed it while it was being written; restore it and run the "
                "same command again, which resumes from the last checkpoint"
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
