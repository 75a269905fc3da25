"""Exit codes of a run: what a scheduler, a script or a person may build on."""

DONE = 0
"""The run reached its end."""
FAILED = 1
"""Something broke; the message says what. Run the same command again to go on."""
REFUSED = 2
"""Refused at the door: the settings or the data do not fit. Nothing was trained."""
PORT_TAKEN = 69
"""Another process listens at the port at which the ranks were to meet (EX_UNAVAILABLE). Nothing was trained."""
GUARD_STOPPED = 70
"""The guard stopped the run: its loss, gradient or weights were not finite, or leapt, too often in a row."""
OUT_OF_MEMORY = 71
"""The memory of a rank, or of its GPU, did not suffice (EX_OSERR); the message names a setting that needs less."""
UNREADABLE = 74
"""A file that the run reads was cut, or its disk fails (EX_IOERR): put it back, then run the same command again."""
DISK_FULL = 75
"""No room for a checkpoint, a record or swap files (EX_TEMPFAIL): free space, then run the same command again."""
CHANGED = 78
"""What the run is made of changed between two lives (EX_CONFIG): give the old value, or accept the change on record."""
HUNG = 79
"""A step took longer than the time-out: the stacks of all ranks are in the run's folder."""
LEFT_ON_SIGINT = 130
"""Left after a checkpoint on SIGINT."""
LEFT_ON_SIGUSR1 = 138
"""Left after a checkpoint on SIGUSR1."""
LEFT_ON_SIGTERM = 143
"""Left after a checkpoint on SIGTERM."""

LEFT = (LEFT_ON_SIGINT, LEFT_ON_SIGUSR1, LEFT_ON_SIGTERM)
"""Left as asked, with a checkpoint of the last step: the same command goes on from there."""


class Refused(ValueError):
    """The run was refused at the door: nothing was trained and nothing changed."""

    def __init__(self, why: str, exit_code: int = REFUSED) -> None:
        super().__init__(why)
        self.exit_code = exit_code
