"""The file of a study for the tests."""

from pathlib import Path

import yaml

STUDY = {
    "question": "Does reading science late help science?",
    "primary": {"measure": "val/source/science/loss", "arm": "late"},
    "seeds": 3,
    "steps": {
        "tokens": {"verb": "prepare", "input.paths": ["corpus"], "tokenizer.name": "train:300"},
        "order_weak": {"verb": "arrange", "tokens": "$tokens", "batch_size": 8, "preference": "shuffled"},
        "weak": {"verb": "train", "data.tokens": "$tokens", "data.order": "$order_weak", "experiment": "demo"},
    },
    "order": {"tokens": "$tokens", "batch_size": 16},
    "train": {"experiment": "demo", "data.tokens": "$tokens"},
    "arms": {
        "shuffled": {"preference": "shuffled"},
        "late": {"preference": "mixture", "preference.shares": {0.0: {"science": 0.05}, 1.0: {"science": 0.5}}},
    },
}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return path
