"""Settings of `pdpc train`, one dataclass per component. Importing them does not import torch."""

from train.settings.hooks import AveragingSettings, GuardSettings, StragglerSettings, ThroughputSettings
from train.settings.lora import LoraSettings
from train.settings.optimizer import OptimizerSettings, ZeroSettings
from train.settings.pair_loss import PairLossSettings
from train.settings.run import OBJECTIVES, CheckpointSettings, DataSettings, ModelSettings, TrainSettings

__all__ = [
    "OBJECTIVES",
    "AveragingSettings",
    "CheckpointSettings",
    "DataSettings",
    "GuardSettings",
    "LoraSettings",
    "ModelSettings",
    "OptimizerSettings",
    "PairLossSettings",
    "StragglerSettings",
    "ThroughputSettings",
    "TrainSettings",
    "ZeroSettings",
]
