"""Settings of a run (`pdpc train`), composed from `configs/train.yaml`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

from models.config import DecoderConfig, DecoderSettings
from models.execution import ExecutionSettings
from models.setting import BINDS, FREE
from train.evaluation.harness.tasks import BenchmarkSettings
from train.evaluation.heldout import HeldoutSettings
from train.schedule import ScheduleSettings
from train.settings.hooks import AveragingSettings, GuardSettings, StragglerSettings, ThroughputSettings
from train.settings.lora import LoraSettings
from train.settings.optimizer import PRECISIONS, OptimizerSettings, ZeroSettings
from train.settings.pair_loss import PairLossSettings
from train.tracking import TrackerSettings

ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")
ARM_NAMES = "at most 40 letters, digits and _ . + -, starting with a letter or digit"
"""What ARM_NAME matches, in words."""

OBJECTIVES = {
    "language_model": "train.objectives.language_model:LanguageModel",
    "dpo": "train.objectives.preference:Preference",
    "simpo": "train.objectives.preference:Preference",
    "logo": "train.objectives.preference:Preference",
}
"""Module and class by name (`objective=NAME`), imported on use so that reading settings does not import torch."""


@dataclass(frozen=True)
class DataSettings:
    """Inputs of the run."""

    tokens: str = field(metadata=FREE)
    """TOKENS folder."""
    order: str = field(metadata=FREE)
    """ORDER folder: the samples in training order, and the global batch size."""
    scores: str | None = field(default=None, metadata=FREE)
    """SCORES folder, to report the loss on the low-PD and high-PD halves of the validation slice; null: no report. With
    objective=dpo, SCORES of PAIRS with the log-probabilities of `init`; null: the run computes them."""


@dataclass(frozen=True)
class ModelSettings(DecoderSettings):
    """Size of the decoder; vocabulary size and sequence length are read from TOKENS."""

    vocab_multiple: int = field(default=64, metadata=BINDS)
    """Round the vocabulary up to a multiple of this, for faster matrix products."""

    def __post_init__(self) -> None:
        if self.vocab_multiple < 1:
            raise ValueError(f"model.vocab_multiple={self.vocab_multiple} must be at least 1")
        self.decoder_config(vocab_size=1, seq_len=1, end_of_text=None)

    def decoder_config(
        self, vocab_size: int, seq_len: int, end_of_text: int | None, input_only: int | None = None
    ) -> DecoderConfig:
        """Return the decoder configuration for a tokenizer and a sequence length."""
        size = {key: value for key, value in asdict(self).items() if key != "vocab_multiple"}
        rounded = -(-vocab_size // self.vocab_multiple) * self.vocab_multiple
        return DecoderConfig(
            vocab_size=rounded, max_seq_len=seq_len, end_of_text=end_of_text, input_only=input_only, **size
        )


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written and which are kept."""

    keep_last: int = field(default=2, metadata=FREE)
    """Number of newest checkpoints to keep."""
    keep_every: int | None = field(default=None, metadata=FREE)
    """Also keep every N-th checkpoint of the run permanently; null: none."""
    keep_stages: bool = field(default=False, metadata=FREE)
    """Also keep the checkpoint at the end of every stage permanently."""
    save_every: int | None = field(default=None, metadata=FREE)
    """Steps between checkpoints; null: only at stage ends."""

    def __post_init__(self) -> None:
        for key in ("keep_last", "keep_every", "save_every"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"checkpoints.{key}={value} must be at least 1")

    def due(self, step: int) -> bool:
        """Return whether `save_every` asks for a checkpoint after `step` steps."""
        return self.save_every is not None and step % self.save_every == 0


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `pdpc train`."""

    output: str = field(metadata=FREE)
    """RUN folder: created, or resumed if it holds a run with the same settings."""
    arm: str = field(metadata=BINDS)
    """Name of this run in a comparison."""
    data: DataSettings
    """Inputs of the run."""
    model: ModelSettings
    """Size of the decoder."""
    init: str | None = field(default=None, metadata=FREE)
    """Folder of the initial weights: a Hugging Face folder, an export, a finished RUN or a checkpoint of one; null:
    random weights. Tokenizer, vocabulary and `model` must be those of the folder. Its fingerprint binds the run."""
    init_weights: str = field(default="last", metadata=FREE)
    """Which weights of a run `init` takes: last or running (their running average)."""
    init_average: int = field(default=1, metadata=FREE)
    """Start from the mean of this many newest checkpoints of the run in `init`."""
    init_rope: bool = field(default=False, metadata=FREE)
    """Train with the rotary positions of `model`, although `init` has others: for longer samples."""
    branch_of: str | None = field(default=None, metadata=FREE)
    """RUN to branch from: this run begins as that one was at the step at which `data.order` was replanned from its
    order, which must be a checkpoint that it keeps; null: begin at step 0."""
    objective: str = field(default="language_model", metadata=BINDS)
    """What training minimises: language_model (next-token prediction) or, on PAIRS, dpo, simpo or logo."""
    pair_loss: PairLossSettings = field(default_factory=PairLossSettings)
    """Coefficients of dpo, simpo and logo."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Train adapters instead of all weights."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """AdamW and gradient clipping."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """Learning rate schedule."""
    averaging: AveragingSettings = field(default_factory=AveragingSettings)
    """Exponential moving average of the weights."""
    zero: ZeroSettings = field(default_factory=ZeroSettings)
    """DeepSpeed ZeRO."""
    heldout: HeldoutSettings = field(default_factory=HeldoutSettings)
    """Held-out loss at stage ends."""
    benchmarks: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    """Harness tasks at stage ends."""
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    """Where metrics go in addition to metrics.jsonl."""
    throughput: ThroughputSettings = field(default_factory=ThroughputSettings)
    """Hardware peak that throughput is compared with."""
    verify_mb: int = field(default=256, metadata=FREE)
    """Verify checksums of TOKENS, ORDER and SCORES files up to this many MB at every start; 0: none.
    The blocks of an ORDER are always checked as they are read."""
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    """When checkpoints are written and which are kept."""
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    """Kernels, activation checkpointing, compilation."""
    precision: str = field(default="bf16", metadata=BINDS)
    """bf16 (with float32 master weights and gradient sums) or fp32."""
    micro_batch_size: int = field(default=8, metadata=FREE)
    """Samples per forward pass and rank; gradient accumulation follows from the batch size of the order."""
    seed: int = field(default=0, metadata=BINDS)
    """Seed of the initial weights; with `init`, only the number of the run among its repeats."""
    log_every: int = field(default=10, metadata=FREE)
    """Steps between records of the training loss."""
    guards: GuardSettings = field(default_factory=GuardSettings)
    """What to do about non-finite losses or gradients, and loss spikes."""
    straggler: StragglerSettings = field(default_factory=StragglerSettings)
    """When a rank counts as a straggler."""
    grace_s: float = field(default=30.0, metadata=FREE)
    """Seconds after SIGTERM, SIGINT or SIGUSR1 to write a checkpoint and exit; after that the run exits without one."""
    hang_timeout_s: float = field(default=600.0, metadata=FREE)
    """Seconds without a completed step before the run counts as hung and is ended (exit code 79)."""
    slow_timeout_s: float = field(default=1800.0, metadata=FREE)
    """The same limit for startup with the first step, a checkpoint, an evaluation (per task) and the export."""
    processes: int | None = field(default=None, metadata=FREE)
    """Ranks that `pdpc train` starts on this machine; null: one per GPU, or one without a GPU."""
    threads: int | None = field(default=None, metadata=FREE)
    """CPU threads per rank, also of an offloaded optimizer; null: OMP_NUM_THREADS of the environment, else an equal
    share of the cores that may be used (CPU affinity, control group)."""
    accept_scores: bool = field(default=False, metadata=FREE)
    """Train although pdpc score found the scores unusable (a strong model worse than the weak one, constant scores, an
    untrained model); run.json and the report then say so."""
    accept_change: list[str] = field(default_factory=list, metadata=FREE)
    """Fields that this attempt may change, for example optimizer.lr; every change is recorded in the run."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective={self.objective!r} is unknown: use one of {list(OBJECTIVES)}")
        self.pair_loss.check(self.objective)
        excluded = {
            "branch_of": self.branch_of is not None,
            "averaging.decay": self.averaging.decay > 0,
            "offloading to nvme": self.zero.uses_nvme,
            "execution.compile=true": self.execution.compile,
        }
        self.lora.check(self.init, excluded)
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
                f"{self.slow_timeout_s}, after which the whole run counts as hung"
            )
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")
        if self.verify_mb < 0:
            raise ValueError(f"verify_mb={self.verify_mb} must not be negative")
        if self.init == "":
            raise ValueError("init is empty: name a folder, or write init=null for random weights")
        if self.branch_of == "":
            raise ValueError("branch_of is empty: name a RUN folder, or write branch_of=null to begin at step 0")
        if not self.output:
            raise ValueError("output is empty: name the RUN folder")
        if not self.arm:
            raise ValueError("arm is empty: name the run, for example arm=pdpc")
        if not ARM_NAME.fullmatch(self.arm):
            raise ValueError(f"arm={self.arm!r} is not a name that reports can show: use {ARM_NAMES}")
