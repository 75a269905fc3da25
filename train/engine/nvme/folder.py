"""The folder of a rank's swap files under `zero.nvme_path`: its own, removed with it, or by the next run.

nvme_path/pdpc_swap_<random>/      one a rank and life, so that no two ranks or runs share a file
    lock                           held as long as the rank lives: who can take it may remove the folder
    zero_stage_3/...               DeepSpeed's files
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from curriculum.artifact.lock import Held, Lock
from train.settings import ZeroSettings

PREFIX = "pdpc_swap_"
LOCK = "lock"


class SwapFolder:
    """A rank's own folder on the fast disk, locked until it is removed or the process ends."""

    def __init__(self, parent: Path) -> None:
        remove_abandoned(parent)
        made = Path(tempfile.mkdtemp(prefix=".pdpc_new_", dir=parent))
        self._lock = Lock(made / LOCK, str(made))
        self.path = made.rename(parent / f"{PREFIX}{made.name.removeprefix('.pdpc_new_')}")

    def remove(self) -> None:
        """Remove the files. A second call does nothing."""
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.release()


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of ranks that no longer live; those of other users stay."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(Held, OSError):  # its rank lives; or the folder is another user's
            if (folder / LOCK).is_file():
                with Lock(folder / LOCK, str(folder)):
                    shutil.rmtree(folder, ignore_errors=True)


def check_swap(zero: ZeroSettings) -> None:
    """Raise ValueError when the settings ask for a fast disk and its folder is not there or cannot be written."""
    if not zero.uses_nvme:
        return
    path = Path(str(zero.nvme_path))
    if not path.is_dir():
        raise ValueError(f"zero.nvme_path={path} is not a folder: make it, on a fast disk of every node")
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"?")
            file.flush()
    except OSError as error:
        raise ValueError(
            f"zero.nvme_path={path} cannot be written ({error.strerror}): give a folder in which this user may write"
        ) from error
