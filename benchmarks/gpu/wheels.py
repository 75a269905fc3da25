"""python -m benchmarks.gpu.wheels FOLDER: wheels for a node without internet, of at most 60 MB; never torch.

DeepSpeed is built without its compiled parts (DS_BUILD_OPS=0), as a pure Python wheel for any torch; packages with
compiled parts are downloaded for Python 3.11 to 3.13 on x86-64 Linux. `install_missing` unpacks from such a folder what
a node lacks. This module needs nothing but Python and pip.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LISTED = Path(__file__).with_name("wheels.txt")
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13")
LARGEST_BYTES = 60_000_000
BUILT = ("deepspeed", "antlr4-python3-runtime")
"""Published without wheels."""
PINNED = ("deepspeed", "hydra-core", "omegaconf", "liger-kernel")
"""Taken from the folder if the node has another version; of the rest, any version serves."""
COMPILED = ("msgpack", "psutil", "pydantic_core", "PyYAML", "safetensors", "xxhash")
TOGETHER = ("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions")
"""Taken all or none: pydantic accepts exactly one version of its core."""
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
)


def listed() -> list[str]:
    """Return the names in wheels.txt."""
    lines = (line.partition("#")[0].strip() for line in LISTED.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def pins() -> dict[str, str]:
    """Return the version of every listed package in constraints.txt, by name."""
    known = dict(line.split("==") for line in CONSTRAINTS.read_text("utf-8").split() if "==" in line)
    by_name = {_plain(name): value for name, value in known.items()}
    return {name: by_name[_plain(name)] for name in listed()}


def make(folder: Path) -> int:
    """Fill an empty folder with wheels; return its bytes. Raises ValueError if it is not empty, or gets too large."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: remove it, or give another folder")
    wanted = {name: f"{name}=={number}" for name, number in pins().items()}
    pip = [sys.executable, "-m", "pip"]
    environment = {**os.environ, "DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu", "DS_BUILD_STRING": " "}
    built = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*built, *(wanted[name] for name in BUILT)], check=True, env=environment)
    download = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    pure = [wanted[name] for name in wanted if name not in (*BUILT, *COMPILED)]
    subprocess.run([*download, *pure], check=True)
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    for python in PYTHONS:
        fitting = ["--python-version", python, "--implementation", "cp", *platforms]
        subprocess.run([*download, *fitting, *(wanted[name] for name in COMPILED)], check=True)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LARGEST_BYTES:
        raise ValueError(f"{folder} has {size:,} bytes, more than {LARGEST_BYTES:,}: shorten {LISTED.name}")
    return size


def missing() -> list[str]:
    """Return the listed packages that this Python lacks, or has in another version than a pinned one's."""
    wanted = pins()
    lacking = [name for name, number in wanted.items() if not _serves(name, number)]
    return [name for name in wanted if name in lacking or (name in TOGETHER and not set(TOGETHER).isdisjoint(lacking))]


def install_missing(folder: Path, into: Path) -> list[str]:
    """Install what this Python lacks from a folder of wheels into another folder, which goes first on the path.

    Returns the names; needs no network. Raises ValueError if pip cannot.
    """
    names = missing()
    if not names:
        return []
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", "--find-links", str(folder), "--target", str(into)]
    done = subprocess.run([*command, *names], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise ValueError(f"{', '.join(names)} cannot be installed from {folder}: {' '.join(last)}; run make gpu-wheels")
    sys.path.insert(0, str(into))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(into), os.environ.get("PYTHONPATH")]))
    return names


def _serves(name: str, number: str) -> bool:
    try:
        return version(name) == number or name not in PINNED
    except PackageNotFoundError:
        return False


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    try:
        made = make(Path(sys.argv[1] if len(sys.argv) == 2 else "wheels"))
    except ValueError as error:
        sys.exit(f"gpu-wheels: {error}")
    print(f"{made / 1e6:.1f} MB of wheels: copy the checkout and this folder to the node, and run make check-gpu there")
