"""Checkpoints: float32 weights and AdamW moments by parameter name, published atomically.

A checkpoint is a folder `step_XXXXXXXX`: one safetensors file per rank with that rank's fragments (layout.py), and a
manifest with the size and checksum of every file. It can be read by any number of ranks, at any ZeRO stage. There is no
"latest" pointer: a run resumes from the newest folder whose manifest and files verify, and falls back to older ones.
"""

from train.checkpoint.commit import CheckpointError, save
from train.checkpoint.find import KIND, UnreadableCheckpoint, candidates, folder_of, newest, step_of, verified, whole
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
