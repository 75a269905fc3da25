"""The engine: a decoder under DeepSpeed ZeRO 0 to 3, its DeepSpeed configuration, and its state by parameter name."""

from train.engine.config import deepspeed_config
from train.engine.engine import Engine, parameter_groups
from train.engine.gathered import WeightsDoNotFit
from train.engine.nvme.folder import check_swap
from train.engine.state import MOMENTS, Fragment

__all__ = ["MOMENTS", "Engine", "Fragment", "WeightsDoNotFit", "check_swap", "deepspeed_config", "parameter_groups"]
