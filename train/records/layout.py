"""Names of the files and folders of a RUN."""

from __future__ import annotations

RUN = "run.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
CONSUMED = "consumed"
"""One file per rank: rows of int64 [step, ids...], steps counted from 0."""
EVALUATIONS = "evaluations"
EXPORT = "export"
BASE = "base"
"""Hugging Face folder with the frozen weights of a run that trains adapters."""
ADAPTER = "adapter"
"""The trained adapter in peft's format."""
REFERENCE = "reference"
"""Log-probabilities under dpo's reference model, one file per slice of PAIRS."""
STACKS = "stacks"
"""One file per rank: the stacks of all threads when a hang was found."""
FILES = ("config.json", "config.yaml", "ds_config.json", METRICS)
"""Files that a run writes next to run.json."""
FOLDERS = (CHECKPOINTS, CONSUMED, EVALUATIONS, REFERENCE, STACKS)
"""Folders in which files are written."""
LOCK = ".lock"
WANDB_ID = "wandb_id"
TENSORBOARD = "tensorboard"
