"""A rank's folder of swap files under `zero.nvme_path`, removed when the rank ends, or by the next run.

nvme_path/pdpc_swap_<random>/      one per rank and attempt, so that no two ranks or runs share a file
    lock                           held while the rank is alive; a process that gets it may remove the folder
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
    """A rank's own folder on NVMe, locked until it is removed or the process ends."""

    def __init__(self, parent: Path) -> None:
        remove_abandoned(parent)
        draft = Path(tempfile.mkdtemp(prefix=".pdpc_new_", dir=parent))
        self._lock = Lock(draft / LOCK, str(draft), local=True)
        self.path = draft.rename(parent / f"{PREFIX}{draft.name.removeprefix('.pdpc_new_')}")

    def remove(self) -> None:
        """Remove the files. A second call does nothing."""
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.release()


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of ranks that have ended; other users' folders stay."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(Held, OSError):  # its rank is alive, or the folder is another user's
            if (folder / LOCK).is_file():
                with Lock(folder / LOCK, str(folder), local=True):
                    shutil.rmtree(folder, ignore_errors=True)


def check_swap(zero: ZeroSettings) -> None:
    """Raise ValueError when the settings use NVMe and its folder does not exist or cannot be written."""
    if not zero.uses_nvme:
        return
    path = Path(str(zero.nvme_path))
    if not path.is_dir():
        raise ValueError(f"zero.nvme_path={path} is not a folder: create it on a fast local disk of every node")
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"?")
            file.flush()
    except OSError as error:
        raise ValueError(
            f"zero.nvme_path={path} cannot be written ({error.strerror}): use a folder this user can write to"
        ) from error
