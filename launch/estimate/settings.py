"""Settings of `pdpc estimate`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from launch.cluster.machines import Cluster
from launch.estimate.hardware import A100_80
from train.config.typed import QUOTED, quoted

FORMATS = ("table", "json")
LARGEST_BATCH = 1_000_000


@dataclass(frozen=True)
class EstimateSettings:
    """Settings of `pdpc estimate`; every other key is an override of `train`, as for `pdpc launch`."""

    cluster: Cluster = field(default_factory=A100_80)
    """Hardware: a100_80, a100_40, a800_80, h100_80, h800_80 or h200_141; or a cluster of pdpc launch, with gpu."""
    gpu: str | None = None
    """With cluster=local, hostfile or slurm: which of the GPUs above the nodes have."""
    vocab_size: int | None = None
    """Size of the tokenizer's vocabulary; null: of data.tokens, else 50257 (GPT-2's)."""
    seq_len: int | None = None
    """Tokens per sample; null: of data.tokens, else 2048."""
    batch_size: int | None = None
    """Samples in a global batch; null: of data.order, else 1024."""
    train_tokens: float | None = None
    """Tokens of one arm; null: of data.order, else 1e11."""
    stages: int | None = None
    """Evaluations of one arm; null: of data.order, else 4, the default of pdpc arrange."""
    arms: int = 2
    """Runs that are compared."""
    references: dict[str, str | None] = field(default_factory=lambda: {"weak": "100m", "strong": "700m"})
    """Reference models by name, each a size of configs/model; null leaves one out. The default sizes are assumed."""
    reference_tokens: float | None = None
    """Tokens that each reference is trained on; null: a ninth of train_tokens, as reference_fraction=0.1 leaves."""
    benchmark_tokens: float = 0.0
    """Tokens that the benchmarks of one evaluation score (questions * answers * their length); 0: not counted."""
    from_run: str | None = None
    """RUN whose metrics correct speed and memory (--from RUN)."""
    format: str = "table"
    """table, or json for programs."""
    overrides: list[str] = field(default_factory=list)
    """Overrides of train; on the command line, every key that is not a key of estimate."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format!r} is unknown: use one of {', '.join(FORMATS)}")
        for key in ("vocab_size", "seq_len", "batch_size", "train_tokens", "stages", "arms", "reference_tokens"):
            value = getattr(self, key)
            if value is not None and not 1 <= value < 1e18:
                raise ValueError(f"{key}={value} must be at least 1 and below 1e18")
        if self.batch_size is not None and self.batch_size > LARGEST_BATCH:
            raise ValueError(f"batch_size={self.batch_size} must be at most {LARGEST_BATCH} samples")
        if not 0 <= self.benchmark_tokens < 1e18:
            raise ValueError(f"benchmark_tokens={self.benchmark_tokens} must not be negative, and below 1e18")
        if self.from_run == "":
            raise ValueError("from_run is empty: name a RUN folder")


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the overrides for `estimate` and those for `train`; `--from RUN` is from_run=RUN."""
    own = {one.name for one in fields(EstimateSettings)}
    mine, others = [], []
    for word in words:
        key = re.split(r"[.=]", word.lstrip("+~"), maxsplit=1)[0]
        if word.startswith("from="):
            value = word.removeprefix("from=")
            mine.append(f"from_run={value if QUOTED.fullmatch(value) else quoted(value)}")
        elif key in own:
            mine.append(word)
        else:
            others.append(word)
    return mine, others
