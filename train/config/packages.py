"""What a run is computed by: our four packages, from one place, and the versions of others."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

RECORDED = ("torch", "deepspeed", "transformers")
"""Packages whose versions are written into every run and checkpoint, beside Python's and ours."""
NAMES = ("models", "curriculum", "train", "launch")


def check_packages() -> None:
    """Raise ValueError when another package named models, curriculum, train or launch stands in the way."""
    home = Path(__file__).resolve().parent.parent.parent
    for name in NAMES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != home / name:
            raise ValueError(
                f"another package named {name!r} stands in the way at {found}: "
                f"run pdpc where {home} comes first on the path"
            )


def versions() -> dict[str, str]:
    """Return the versions of what computes a run."""
    from curriculum.artifact.files import code_version

    found = {"pdpc": code_version(), "python": platform.python_version()}
    return found | {name: _installed(name) for name in RECORDED}


@cache
def _installed(name: str) -> str:
    """Return a package's version, read once: a file of a thousand lines takes longer than a small checkpoint."""
    return version(name)


def drift(before: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each version that is not what a run was computed by before, naming both."""
    now = versions()
    for name, old in before.items():
        if old != now.get(name):
            yield f"{name} was {old} and is {now.get(name)} now: last digits may differ"
