"""Settings of `pdpc pairs score`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launch.executors.task import check_engine
from train.settings.optimizer import PRECISIONS


@dataclass(frozen=True)
class ScorePairsSettings:
    """Settings of `pdpc pairs score`."""

    pairs: str
    """PAIRS folder."""
    output: str
    """SCORES folder to write; finished chunks are kept next to it in OUTPUT.chunks until all are done."""
    policy: str | None = None
    """The model before training on the pairs, a RUN or a Hugging Face folder with the tokenizer of PAIRS: for implicit
    margins and M_AP, and as DPO's reference. null: explicit margins only."""
    reward_model: str | None = None
    """Reward model: a Hugging Face folder with a sequence classifier of one label, of any tokenizer. null: the rewards
    stored in PAIRS, if there are any."""
    weight: float = 1.0
    """w in M_AP = z(explicit) - w * z(implicit)."""
    slices: list[str] = field(default_factory=lambda: ["train", "validation"])
    """Slices to score."""
    batch_size: int = 16
    """Pairs per forward pass, each with all of its answers."""
    precision: str = "fp32"
    """fp32, or bf16: about twice as fast, with losses that differ in the third decimal."""
    engine: str = "local"
    """local (processes on this machine), deepspeed (ranks) or ray (actors)."""
    processes: int | None = None
    """Number of processes, ranks or actors; null: one per GPU, or per usable CPU without GPUs. Scores stay the same."""
    threads: int = 1
    """CPU threads per process. Affects the last bits of scores."""
    chunk_tokens: int | None = None
    """Tokens per chunk, the unit of resuming, counted as pairs times seq_len; null: 1/4096 of all, at least 2^16 and at
    most 2^24."""
    picture: str | None = None
    """Picture to write at the end, NAME.svg or NAME.png: explicit against implicit margins."""

    def __post_init__(self) -> None:
        if not self.slices:
            raise ValueError("slices is empty: give slices=[train,validation]")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is unknown: use one of {list(PRECISIONS)}")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight={self.weight} must be at least 0 and finite")
        check_engine(self.engine, self.processes)
        for key in ("batch_size", "threads", "chunk_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}={value} must be at least 1")
        if self.picture is not None and Path(self.picture).suffix not in (".svg", ".png"):
            raise ValueError(f"picture={self.picture!r} must end with .svg or .png")
