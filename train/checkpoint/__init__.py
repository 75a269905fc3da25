"""Checkpoints: float32 weights and AdamW's moments by parameter name, published whole or not at all.

A checkpoint is a folder `step_XXXXXXXX`: one safetensors file a rank with that rank's fragments (layout.py), and a
manifest that vouches for every byte. Any number of ranks can read it, at any ZeRO stage. There is no pointer to the
newest: the newest folder whose manifest and files verify wins, older ones are what a run falls back to.
"""

from train.checkpoint.commit import CheckpointError, save
from train.checkpoint.find import KIND, UnreadableCheckpoint, candidates, folder_of, newest, step_of, verified, whole
from train.checkpoint.read import load, read_weights
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
    "folder_of",
    "load",
    "newest",
    "prune",
    "read_weights",
    "save",
    "set_aside",
    "step_of",
    "verified",
    "whole",
]
