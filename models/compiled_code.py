"""Where torch.compile keeps compiled code, which later processes load and run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def check_cache() -> None:
    """Raise ValueError unless the folder of compiled code is only this user's to write; create it if it is missing.

    By default torch uses a name in the temporary folder that any user of the machine could create first, with code of
    theirs. A folder that VARIABLE names is the user's choice.
    """
    chosen = os.environ.get(VARIABLE)
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    folder = Path(default_cache_dir())
    if chosen is not None and Path(chosen) != folder:  # torch sets the variable too, to the default
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ValueError(
            f"{folder}, from which torch.compile would run code, can be written by other users (owner {found.st_uid}, "
            f"mode {stat.S_IMODE(found.st_mode):o}): remove it if it is yours, or set {VARIABLE} to one of yours"
        )
