"""The four packages come from one place, or PDPC says which stranger stands in the way."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

NAMES = ("models", "curriculum", "train", "launch")


def check_packages() -> None:
    """Raise ValueError when another package named models, curriculum, train or launch stands in the way."""
    home = Path(__file__).resolve().parent.parent
    for name in NAMES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != home / name:
            raise ValueError(
                f"another package named {name!r} stands in the way at {found}: "
                f"run pdpc where {home} comes first on the path"
            )
