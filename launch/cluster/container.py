"""Containers for the ranks of a Slurm job: pyxis (enroot), which extends srun, or apptainer. Neither was run yet."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

RUNTIMES = ("pyxis", "apptainer")
IMAGE = re.compile(r"[A-Za-z0-9_./][\w./@:+#-]*")
MOUNT = re.compile(r"/[\w./@+-]*")


def check_container(image: str | None, runtime: str, mounts: Sequence[str]) -> None:
    """Raise ValueError for a container that cannot be started; `image` None: there is none."""
    if runtime not in RUNTIMES:
        raise ValueError(f"cluster.container_runtime={runtime!r} is unknown: use one of {list(RUNTIMES)}")
    if image is None:
        if mounts:
            raise ValueError("cluster.container_mounts has no effect without cluster.container: name an image")
        return
    if not IMAGE.fullmatch(image):
        raise ValueError(f"cluster.container={image!r} is not the name of an image or of its file")
    if (image.startswith(("/", ".")) or Path(image).suffix in (".sif", ".sqsh")) and not Path(image).exists():
        raise ValueError(f"cluster.container={image} does not exist: build or import the image first")
    for mount in mounts:
        if not MOUNT.fullmatch(mount):
            raise ValueError(
                f"cluster.container_mounts: {mount!r} must be an absolute path without spaces, commas and colons"
            )


def in_container(image: str, runtime: str, mounts: Sequence[str], scripts: Path, *, gpus: bool) -> str:
    """Return what srun needs before a command so that it runs in the container, in the current folder.

    Raises ValueError if the current folder cannot be mounted.
    """
    here = str(Path.cwd())
    if not MOUNT.fullmatch(here):
        raise ValueError(f"the current folder {here!r} cannot be mounted in a container: use a path without spaces")
    both = ",".join(f"{mount}:{mount}" for mount in dict.fromkeys([here, str(scripts), *mounts]))
    if runtime == "pyxis":
        return shlex.join([f"--container-image={image}", f"--container-mounts={both}", f"--container-workdir={here}"])
    return shlex.join(["apptainer", "exec", *(["--nv"] if gpus else []), "--bind", both, "--pwd", here, image])
