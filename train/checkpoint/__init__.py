"""Checkpoints: float32 weights and AdamW moments by parameter name, published atomically.

A checkpoint is a folder `step_XXXXXXXX`: one safetensors file per rank with that rank's fragments (layout.py), and a
manifest with the size and checksum of every file. It can be read by any number of ranks, at any ZeRO stage. There is no
"latest" pointer: a run resumes from the newest folder whose manifest and files verify, and falls back to older ones.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.checkpoint.commit import CheckpointError, save
    from train.checkpoint.find import (
        KIND,
        UnreadableCheckpoint,
        candidates,
        folder_of,
        newest,
        step_of,
        verified,
        whole,
    )
    from train.checkpoint.read import fill, load, read_base, read_trained, read_weights
    from train.checkpoint.records import damaged_records, set_aside
    from train.checkpoint.retention import clean, prune
    from train.checkpoint.write import NotFiniteError

__all__ = [
    "KIND",
    "CheckpointError",
    "NotFiniteError",
    "UnreadableCheckpoint",
    "candidates",
    "clean",
    "damaged_records",
    "fill",
    "folder_of",
    "load",
    "newest",
    "prune",
    "read_base",
    "read_trained",
    "read_weights",
    "save",
    "set_aside",
    "step_of",
    "verified",
    "whole",
]

_MODULES = {
    "CheckpointError": "commit",
    "save": "commit",
    "KIND": "find",
    "UnreadableCheckpoint": "find",
    "candidates": "find",
    "folder_of": "find",
    "newest": "find",
    "step_of": "find",
    "verified": "find",
    "whole": "find",
    "fill": "read",
    "load": "read",
    "read_base": "read",
    "read_trained": "read",
    "read_weights": "read",
    "damaged_records": "records",
    "set_aside": "records",
    "clean": "retention",
    "prune": "retention",
    "NotFiniteError": "write",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is used: finding checkpoints does without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
