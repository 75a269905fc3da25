"""What `pdpc score` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launch.executors.task import check_engine
from train.settings.optimizer import PRECISIONS


@dataclass(frozen=True)
class ScoreSettings:
    """What `pdpc score` is told."""

    tokens: str
    """TOKENS folder."""
    output: str
    """SCORES folder to write; what is done lies beside it in OUTPUT.chunks until all is."""
    models: dict[str, str] = field(default_factory=dict)
    """Reference models by name, each a RUN or a Hugging Face folder of any architecture: weak and strong give PD."""
    slices: list[str] = field(default_factory=lambda: ["train", "validation"])
    """Slices to score; the validation slice serves the held-out halves."""
    same_tokens: list[str] = field(default_factory=list)
    """Names of models whose folder has no tokenizer.json and whose tokens you know to be those of TOKENS."""
    batch_size: int = 32
    """Samples in one forward pass."""
    precision: str = "fp32"
    """fp32, or bf16: about twice as fast, with losses that differ in the third decimal."""
    compile: bool = False
    """Compile the models (torch.compile): slow to start, faster passes."""
    documents: bool = False
    """Keep losses by document too, as a Parquet that `own_scores` takes; every batch is then scored twice."""
    engine: str = "local"
    """local (processes of this machine), deepspeed (ranks) or ray (actors)."""
    processes: int | None = None
    """Processes, ranks or actors; null: one a GPU, or one a core where there is none. Scores do not depend on it."""
    threads: int = 1
    """CPU threads of each process. They change the last bits; on a busy machine they wait for each other."""
    chunk_tokens: int | None = None
    """Tokens of a chunk, which is done or not done; null: a 4096th of all, at least 2^16 and at most 2^24."""
    first_tokens: int | None = None
    """Score the first so many tokens of every sample; null: all. `trial` says what that loses."""
    fraction: float | None = None
    """Score a random share of the samples and predict the rest; null: all. With first_tokens, from those too."""
    trial: int | None = None
    """Score so many samples exactly, print how near cheaper ways come, and write nothing."""
    picture: str | None = None
    """Picture to write at the end, NAME.svg or NAME.png: how PD is spread by source."""

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
            raise ValueError(f"fraction={self.fraction} must be between 0 and 1: leave it out to score all")
        strangers = sorted(set(self.same_tokens) - set(self.models))
        if strangers:
            raise ValueError(f"same_tokens names {strangers[0]!r}, which is none of the models {sorted(self.models)}")
        if self.documents and (self.first_tokens or self.fraction):
            raise ValueError("documents=true needs every token scored: leave out first_tokens and fraction")
        if self.picture is not None and Path(self.picture).suffix not in (".svg", ".png"):
            raise ValueError(f"picture={self.picture!r} must end with .svg or .png")
