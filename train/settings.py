"""What a run is made of: the settings of `pdpc train`, composed from `configs/train.yaml`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from models.config import DecoderConfig, DecoderSettings
from models.execution import ExecutionSettings
from models.setting import BINDS, FREE
from train.evaluation.harness.tasks import BenchmarkSettings
from train.evaluation.heldout import HeldoutSettings
from train.hooks.settings import AveragingSettings, GuardSettings, StragglerSettings, ThroughputSettings
from train.objectives import OBJECTIVES
from train.schedule import ScheduleSettings
from train.tracking import TrackerSettings

PRECISIONS = ("bf16", "fp32")
OFFLOAD_DEVICES = ("none", "cpu", "nvme")


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
class OptimizerSettings:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) and clipping."""

    lr: float = field(default=3e-4, metadata=BINDS)
    """Peak learning rate."""
    beta1: float = field(default=0.9, metadata=BINDS)
    """Decay of the first moment."""
    beta2: float = field(default=0.95, metadata=BINDS)
    """Decay of the second moment."""
    eps: float = field(default=1e-8, metadata=BINDS)
    """Added to the root of the second moment."""
    weight_decay: float = field(default=0.1, metadata=BINDS)
    """Decoupled decay of matrices; norms are not decayed."""
    clip_norm: float = field(default=1.0, metadata=BINDS)
    """Largest global norm of the gradient; 0 switches clipping off."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"optimizer.lr={self.lr} must be above 0")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"optimizer.{key}={getattr(self, key)} must lie in [0, 1)")
        for key in ("eps", "weight_decay", "clip_norm"):
            if getattr(self, key) < 0:
                raise ValueError(f"optimizer.{key}={getattr(self, key)} must not be negative")


@dataclass(frozen=True)
class ZeroSettings:
    """DeepSpeed's ZeRO: what is split over the ranks, and what is kept outside the device's memory."""

    stage: int = field(default=1, metadata=FREE)
    """0: nothing is split; 1: the optimizer's states; 2: the gradients too; 3: the parameters too."""
    overlap_comm: bool = field(default=True, metadata=FREE)
    """Reduce gradients while the backward pass runs (on GPUs)."""
    bucket_mb: int = field(default=500, metadata=FREE)
    """Size of communication buckets in MB; DeepSpeed may hold two of them (overlap_comm)."""
    reduce_in: str = field(default="fp32", metadata=BINDS)
    """Type in which gradients are summed over the ranks: fp32, or bf16 for half the traffic."""
    offload_optimizer: str = field(default="none", metadata=FREE)
    """Where master weights and moments live: none (the device); cpu, where AdamW then runs, stage 1 or more; nvme, from
    where a sub-group at a time is brought to the CPU, stage 3."""
    offload_param: str = field(default="none", metadata=FREE)
    """Where parameters wait to be used: none (the device), cpu or nvme; stage 3."""
    nvme_path: str | None = field(default=None, metadata=FREE)
    """Folder on a fast local disk of every node, for nvme; a run leaves nothing in it."""
    nvme_requests: int = field(default=8, metadata=FREE)
    """Reads or writes of 1 MiB that a rank has under way at once, for nvme."""
    sub_group_size: int = field(default=1_000_000_000, metadata=FREE)
    """Stage 3: elements of a rank that are updated together. With offload_optimizer=nvme it needs 16 bytes of host
    memory for each, or for each of the largest parameter's."""
    pin_memory: bool = field(default=True, metadata=FREE)
    """Pin the host memory of what is offloaded."""

    def __post_init__(self) -> None:
        if self.stage not in (0, 1, 2, 3):
            raise ValueError(f"zero.stage={self.stage} is not supported: use 0, 1, 2 or 3")
        if self.bucket_mb < 1:
            raise ValueError(f"zero.bucket_mb={self.bucket_mb} must be at least 1")
        if self.reduce_in not in PRECISIONS:
            raise ValueError(f"zero.reduce_in={self.reduce_in!r} is unknown: use one of {list(PRECISIONS)}")
        for key in ("nvme_requests", "sub_group_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"zero.{key}={getattr(self, key)} must be at least 1")
        for key, least in (("offload_optimizer", 1), ("offload_param", 3)):
            device = getattr(self, key)
            if device not in OFFLOAD_DEVICES:
                raise ValueError(f"zero.{key}={device!r} is unknown: use one of {list(OFFLOAD_DEVICES)}")
            needed = 3 if device == "nvme" else least
            if device != "none" and self.stage < needed:
                raise ValueError(f"zero.{key}={device} needs zero.stage={needed}{' or more' if needed < 3 else ''}")
            if device == "nvme" and not self.nvme_path:
                raise ValueError(f"zero.{key}=nvme needs zero.nvme_path: a folder on a fast local disk")

    @property
    def uses_nvme(self) -> bool:
        """Does anything lie on the fast disk?"""
        return "nvme" in (self.offload_optimizer, self.offload_param)


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
