"""The code a run is computed with: our four packages, from one place, and the versions of others."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

RECORDED = ("torch", "deepspeed", "transformers")
"""Packages whose versions are recorded in every run and checkpoint, as well as Python's and ours."""
NAMES = ("models", "curriculum", "train", "launch")


def check_packages() -> None:
    """Raise ValueError when another package named models, curriculum, train or launch shadows ours."""
    home = Path(__file__).resolve().parent.parent.parent
    for name in NAMES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != home / name:
            raise ValueError(
                f"another package named {name!r} at {found} shadows PDPC's: put {home} first on PYTHONPATH"
            )


def versions() -> dict[str, str]:
    """Return the versions of the software that computes a run."""
    from curriculum.artifact.files import code_version

    found = {"pdpc": code_version(), "python": platform.python_version()}
    return found | {name: _installed(name) for name in RECORDED}


@cache
def _installed(name: str) -> str:
    """Return a package's version, read only once: parsing its metadata takes longer than a small checkpoint."""
    return version(name)


@cache
def code_fingerprint() -> str:
    """Return the digest of the source of our four packages, which a version does not tell apart between releases."""
    from curriculum.artifact.files import fingerprint_of

    home = Path(__file__).resolve().parent.parent.parent
    files = sorted(path for name in NAMES for path in (home / name).rglob("*.py"))
    return fingerprint_of([[path.relative_to(home).as_posix(), path.read_text("utf-8")] for path in files])


def drift(before: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each version that differs from what the run was computed with before, naming both."""
    now = versions()
    for name, old in before.items():
        if old != now.get(name):
            yield f"{name} was {old} and is {now.get(name)} now: last digits may differ"
