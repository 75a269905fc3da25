"""What a setting says about itself: may it change when a run resumes?

    lr: float = field(default=3e-4, metadata=BINDS)
    threads: int | None = field(default=None, metadata=FREE)

It is part of a field's metadata, next to its default; `train/resume/identity.py` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Metadata = Mapping[str, Any]
"""A dataclass field's metadata."""

BINDS: Metadata = MappingProxyType({"binds": True})
"""The setting decides what a run computes or reports: a change is rejected on resume, or accepted on record."""

FREE: Metadata = MappingProxyType({"binds": False})
"""The setting may change whenever a run resumes.

Paths are free because what is read is compared by fingerprint; so is how the work is split and what computes attention,
which change losses by rounding only.
"""


def fixed(why: str) -> Metadata:
    """Return the metadata of a setting that binds a run and can never change once something was trained, and why."""
    return {"binds": True, "fixed": why}


def binds(metadata: Metadata) -> bool:
    """Does a setting with this metadata bind a run? One that does not say binds; a test names it."""
    return bool(metadata.get("binds", True))
