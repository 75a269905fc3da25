"""Exit codes of a run, which schedulers and scripts may rely on."""

import errno

from curriculum.artifact.files import DISK_FULL as NO_ROOM

DONE = 0
"""The run is complete."""
FAILED = 1
"""Something failed; the message says what. Run the same command again to resume."""
REFUSED = 2
"""Rejected before training started: the settings or the data do not fit. Nothing was trained."""
PORT_TAKEN = 69
"""Another process listens on the rendezvous port (EX_UNAVAILABLE). Nothing was trained."""
GUARD_STOPPED = 70
"""The guard stopped the run: too many steps in a row with a spike, or with non-finite loss, gradient or weights."""
OUT_OF_MEMORY = 71
"""A rank, or its GPU, ran out of memory (EX_OSERR); the message names a setting that needs less."""
UNREADABLE = 74
"""A file the run reads was truncated, or its disk fails (EX_IOERR): restore it, then run the same command again."""
DISK_FULL = 75
"""No space for an artifact, a checkpoint, a record or swap files (EX_TEMPFAIL): free it, then run the command again."""
CHANGED = 78
"""Settings or data changed between two attempts (EX_CONFIG): give the old value, or accept the change on record."""
HUNG = 79
"""A step took longer than the timeout; the stacks of all ranks are in the run's folder."""
LEFT_ON_SIGINT = 130
"""Exited after a checkpoint on SIGINT."""
LEFT_ON_SIGUSR1 = 138
"""Exited after a checkpoint on SIGUSR1."""
LEFT_ON_SIGTERM = 143
"""Exited after a checkpoint on SIGTERM."""

LEFT = (LEFT_ON_SIGINT, LEFT_ON_SIGUSR1, LEFT_ON_SIGTERM)
"""Exited on request, with a checkpoint of the last step: the same command resumes from there."""


def exit_code_of(error: Exception) -> int:
    """Return the exit code of a command that an error ends, by the error's own code or by its kind."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return DISK_FULL
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # it was given: nothing has such a name
        return REFUSED
    return int(getattr(error, "exit_code", REFUSED if isinstance(error, ValueError) else FAILED))


class Refused(ValueError):
    """The run was rejected before training started: nothing was trained and nothing changed."""

    def __init__(self, reason: str, exit_code: int = REFUSED) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
