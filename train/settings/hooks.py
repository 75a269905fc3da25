"""Settings of the hooks, in their own file: the command line reads them without loading torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.setting import BINDS, FREE

SPIKE_ACTIONS = ("off", "skip", "rollback")


@dataclass(frozen=True)
class AveragingSettings:
    """Exponential moving average of the weights, off by default."""

    decay: float = field(default=0.0, metadata=FREE)
    """Share of the average kept at each update, for example 0.999; 0: no average."""
    every: int = field(default=10, metadata=FREE)
    """Steps between updates of the average."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"averaging.decay={self.decay} must lie in [0, 1): 0 switches the running average off")
        if self.every < 1:
            raise ValueError(f"averaging.every={self.every} must be at least 1 step")


@dataclass(frozen=True)
class GuardSettings:
    """How non-finite losses and gradients, and loss spikes, are handled."""

    finite: bool = field(default=True, metadata=BINDS)
    """Skip a step whose loss or gradient is not finite on any rank."""
    stop_after: int = field(default=5, metadata=FREE)
    """Stop the run (exit code 70) after this many skipped steps in a row."""
    spike: str = field(default="off", metadata=BINDS)
    """Action on a loss far above the last ones: off (none), skip (skip the step) or rollback (skip the step, restore
    the weights of the last checkpoint and continue with the next step)."""
    spike_sigma: float = field(default=6.0, metadata=BINDS)
    """Standard deviations above the mean of the last losses at which a loss counts as a spike."""
    spike_window: int = field(default=128, metadata=BINDS)
    """Number of losses, one per step, over which mean and deviation are computed."""

    def __post_init__(self) -> None:
        if self.spike not in SPIKE_ACTIONS:
            raise ValueError(f"guards.spike={self.spike!r} is unknown: use one of {', '.join(SPIKE_ACTIONS)}")
        if self.stop_after < 1:
            raise ValueError(f"guards.stop_after={self.stop_after} must be at least 1")
        if not self.spike_sigma > 0:
            raise ValueError(f"guards.spike_sigma={self.spike_sigma} must be above 0")
        if self.spike_window < 2:
            raise ValueError(
                f"guards.spike_window={self.spike_window} must be at least 2, because a deviation needs two losses"
            )


@dataclass(frozen=True)
class StragglerSettings:
    """When a rank counts as slow."""

    factor: float | None = field(default=2.0, metadata=FREE)
    """Its own work takes at least this many times the other ranks' median; null: nothing is measured."""

    def __post_init__(self) -> None:
        if self.factor is not None and not self.factor > 1:
            raise ValueError(f"straggler.factor={self.factor} must be above 1, or null")


@dataclass(frozen=True)
class ThroughputSettings:
    """Reference for the speed of a run."""

    peak_tflops: float | None = field(default=None, metadata=FREE)
    """Peak of one device in TFLOP/s, for MFU; null: built in for A100, A800 and H100 in bf16, otherwise no MFU."""

    def __post_init__(self) -> None:
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise ValueError(f"throughput.peak_tflops={self.peak_tflops} must be above 0, or null")
