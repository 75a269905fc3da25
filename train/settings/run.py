"""What a run is made of: the settings of `pdpc train`, composed from `configs/train.yaml`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from models.config import DecoderConfig, DecoderSettings
from models.execution import ExecutionSettings
from models.setting import BINDS, FREE
from train.evaluation.harness.tasks import BenchmarkSettings
from train.evaluation.heldout import HeldoutSettings
from train.schedule import ScheduleSettings
from train.settings.hooks import AveragingSettings, GuardSettings, StragglerSettings, ThroughputSettings
from train.settings.optimizer import PRECISIONS, OptimizerSettings, ZeroSettings
from train.tracking import TrackerSettings

OBJECTIVES = {
    "language_model": "train.objectives.language_model:LanguageModel",
}
"""Module and class by name (`objective=NAME`), imported when the run needs it: settings are read without torch."""


@dataclass(frozen=True)
class DataSettings:
    """What the run reads."""

    tokens: str = field(metadata=FREE)
    """TOKENS folder."""
    order: str = field(metadata=FREE)
    """ORDER folder: which samples, in which order, in which global batch."""
    scores: str | None = field(default=None, metadata=FREE)
    """SCORES folder, for the loss on the low-PD and high-PD halves of the validation slice; null: not reported."""


@dataclass(frozen=True)
class ModelSettings(DecoderSettings):
    """Size of the decoder; the vocabulary and the sequence length are read from the tokens."""

    vocab_multiple: int = field(default=64, metadata=BINDS)
    """The vocabulary is rounded up to a multiple of this: matrix products like it."""

    def __post_init__(self) -> None:
        if self.vocab_multiple < 1:
            raise ValueError(f"model.vocab_multiple={self.vocab_multiple} must be at least 1")
        self.decoder_config(vocab_size=1, seq_len=1, end_of_text=None)

    def decoder_config(self, vocab_size: int, seq_len: int, end_of_text: int | None) -> DecoderConfig:
        """Return the decoder's configuration for a tokenizer and a sequence length."""
        size = {key: value for key, value in asdict(self).items() if key != "vocab_multiple"}
        rounded = -(-vocab_size // self.vocab_multiple) * self.vocab_multiple
        return DecoderConfig(vocab_size=rounded, max_seq_len=seq_len, end_of_text=end_of_text, **size)


@dataclass(frozen=True)
class CheckpointSettings:
    """When the run is saved and what stays."""

    keep_last: int = field(default=2, metadata=FREE)
    """Newest checkpoints that are kept."""
    keep_every: int | None = field(default=None, metadata=FREE)
    """Every so-manieth checkpoint of the run is kept for good as well; null: none."""
    keep_stages: bool = field(default=False, metadata=FREE)
    """The checkpoint of every stage's end is kept for good as well."""
    save_every: int | None = field(default=None, metadata=FREE)
    """Steps between two checkpoints within a stage; null: at stage ends alone."""

    def __post_init__(self) -> None:
        for key in ("keep_last", "keep_every", "save_every"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"checkpoints.{key}={value} must be at least 1")

    def due(self, step: int) -> bool:
        """Tell whether a checkpoint is to be made after `step` steps, be it a stage's end or not."""
        return self.save_every is not None and step % self.save_every == 0


@dataclass(frozen=True)
class TrainSettings:
    """What `pdpc train` is told."""

    output: str = field(metadata=FREE)
    """RUN folder: created, or resumed when it holds a run of the same settings."""
    arm: str = field(metadata=BINDS)
    """Name of this run in a comparison."""
    data: DataSettings
    """What the run reads."""
    model: ModelSettings
    """Size of the decoder."""
    objective: str = field(default="language_model", metadata=BINDS)
    """What training minimises: language_model (the next token)."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """AdamW and clipping."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """How the learning rate moves."""
    averaging: AveragingSettings = field(default_factory=AveragingSettings)
    """The running average of the weights."""
    zero: ZeroSettings = field(default_factory=ZeroSettings)
    """DeepSpeed's ZeRO."""
    heldout: HeldoutSettings = field(default_factory=HeldoutSettings)
    """Held-out loss at stage ends."""
    benchmarks: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    """Harness tasks at stage ends."""
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    """Where metrics go beside metrics.jsonl."""
    throughput: ThroughputSettings = field(default_factory=ThroughputSettings)
    """What the speed is held against."""
    verify_mb: int = field(default=256, metadata=FREE)
    """Files of TOKENS, ORDER and SCORES of at most so many MB are compared with their checksums at each start; 0: none.
    An ORDER's blocks are checked when they are read, whatever its size."""
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    """When the run is saved and what stays."""
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    """Kernels, recomputation, compilation."""
    precision: str = field(default="bf16", metadata=BINDS)
    """bf16 (with float32 master weights and gradient sums) or fp32."""
    micro_batch_size: int = field(default=8, metadata=FREE)
    """Samples in one forward pass of one rank; accumulation follows from the order's batch size."""
    seed: int = field(default=0, metadata=BINDS)
    """Seed of the initial weights."""
    log_every: int = field(default=10, metadata=FREE)
    """Steps between two records of the training loss."""
    guards: GuardSettings = field(default_factory=GuardSettings)
    """What is done about a loss or a gradient that is not finite, or leaps."""
    straggler: StragglerSettings = field(default_factory=StragglerSettings)
    """When a rank that the others wait for is named."""
    grace_s: float = field(default=30.0, metadata=FREE)
    """Seconds after SIGTERM, SIGINT or SIGUSR1 in which the run writes a checkpoint and leaves; then it just leaves."""
    hang_timeout_s: float = field(default=600.0, metadata=FREE)
    """Seconds without a finished step after which the run is taken to hang and ended (exit code 79)."""
    slow_timeout_s: float = field(default=1800.0, metadata=FREE)
    """The same for the start with the first step, a checkpoint, an evaluation (each of its tasks) and the export."""
    processes: int | None = field(default=None, metadata=FREE)
    """Ranks on this machine that `pdpc train` starts; null: one a GPU, or one."""
    threads: int | None = field(default=None, metadata=FREE)
    """CPU threads of a rank; null: the machine's cores shared out."""
    accept_scores: bool = field(default=False, metadata=FREE)
    """Train although pdpc score found the scores unusable (a strong model worse than the weak one, constant scores, an
    untrained model); run.json and the report then say so."""
    accept_change: list[str] = field(default_factory=list, metadata=FREE)
    """Fields in which this life may differ from what the run was begun with, such as optimizer.lr; kept on record."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective={self.objective!r} is unknown: use one of {list(OBJECTIVES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is unknown: use one of {list(PRECISIONS)}")
        for key in ("micro_batch_size", "log_every", "processes", "threads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}={value} must be at least 1")
        for key in ("grace_s", "hang_timeout_s", "slow_timeout_s"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key}={getattr(self, key)} must be above 0 seconds")
        if self.benchmarks.tasks and not self.benchmarks.task_timeout_s < self.slow_timeout_s:
            raise ValueError(
                f"benchmarks.task_timeout_s={self.benchmarks.task_timeout_s} must be below slow_timeout_s="
                f"{self.slow_timeout_s}, after which the whole run is taken to hang"
            )
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")
        if self.verify_mb < 0:
            raise ValueError(f"verify_mb={self.verify_mb} must not be negative")
        if not self.output:
            raise ValueError("output is empty: name the RUN folder")
        if not self.arm:
            raise ValueError("arm is empty: name the run, for example arm=pdpc")
