"""Settings of `pdpc score`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launch.executors.task import check_engine
from train.settings.optimizer import PRECISIONS


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of `pdpc score`."""

    tokens: str
    """TOKENS folder."""
    output: str
    """SCORES folder to write; finished chunks are kept next to it in OUTPUT.chunks until all are done."""
    models: dict[str, str] = field(default_factory=dict)
    """Reference models by name, each a RUN or a Hugging Face folder of any architecture; PD needs weak and strong."""
    slices: list[str] = field(default_factory=lambda: ["train", "validation"])
    """Slices to score; held-out loss by PD half needs the validation slice."""
    same_tokens: list[str] = field(default_factory=list)
    """Names of models without a tokenizer.json whose token ids you know to match those of TOKENS."""
    batch_size: int = 32
    """Samples per forward pass."""
    precision: str = "fp32"
    """fp32, or bf16: about twice as fast, with losses that differ in the third decimal."""
    compile: bool = False
    """Compile the models with torch.compile: slower start, faster forward passes."""
    documents: bool = False
    """Also write losses by document, as a Parquet file for own_scores; every batch is then scored twice."""
    engine: str = "local"
    """local (processes on this machine), deepspeed (ranks) or ray (actors)."""
    processes: int | None = None
    """Number of processes, ranks or actors; null: one per GPU, or per usable CPU without GPUs. Scores stay the same."""
    threads: int = 1
    """CPU threads per process. Affects the last bits of scores; more threads are slow on a busy machine."""
    chunk_tokens: int | None = None
    """Tokens per chunk, the unit of resuming; null: 1/4096 of all tokens, at least 2^16 and at most 2^24."""
    first_tokens: int | None = None
    """Score only the first N tokens of each sample; null: all. Use trial to measure the loss of accuracy."""
    fraction: float | None = None
    """Score a random fraction of the samples and predict the rest, also from first_tokens if set; null: score all."""
    trial: int | None = None
    """Score N samples exactly, print how close cheaper methods come and which to take, and write nothing."""
    trial_models: dict[str, str] = field(default_factory=dict)
    """Smaller models for trial to try in place of `models`, by the name of the one that each replaces."""
    picture: str | None = None
    """Picture to write at the end, NAME.svg or NAME.png: the distribution of PD by source."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models is empty: give models.weak=RUN models.strong=RUN")
        if not self.slices:
            raise ValueError("slices is empty: give slices=[train,validation]")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is unknown: use one of {list(PRECISIONS)}")
        check_engine(self.engine, self.processes)
        for key in ("batch_size", "threads", "chunk_tokens", "first_tokens", "trial"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}={value} must be at least 1")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ValueError(f"fraction={self.fraction} must be between 0 and 1: leave it out to score all samples")
        unknown = sorted(set(self.same_tokens) - set(self.models))
        if unknown:
            raise ValueError(f"same_tokens: {unknown[0]!r} is not one of the models {sorted(self.models)}")
        unknown = sorted(set(self.trial_models) - set(self.models))
        if unknown:
            raise ValueError(f"trial_models: {unknown[0]!r} is not one of the models {sorted(self.models)} to replace")
        if self.trial_models and self.trial is None:
            raise ValueError("trial_models needs trial=N, the number of samples: add it, or leave trial_models out")
        if self.documents and (self.first_tokens or self.fraction):
            raise ValueError("documents=true needs every token scored: leave out first_tokens and fraction")
        if self.picture is not None and Path(self.picture).suffix not in (".svg", ".png"):
            raise ValueError(f"picture={self.picture!r} must end with .svg or .png")
