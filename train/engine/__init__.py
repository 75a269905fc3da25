"""The engine: a decoder under DeepSpeed ZeRO 0 to 3, its DeepSpeed configuration, and its state by parameter name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.engine.config import deepspeed_config
    from train.engine.engine import Engine, parameter_groups
    from train.engine.gathered import WeightsDoNotFit
    from train.engine.nvme.folder import check_swap
    from train.engine.state import MOMENTS, Fragment

__all__ = ["MOMENTS", "Engine", "Fragment", "WeightsDoNotFit", "check_swap", "deepspeed_config", "parameter_groups"]

_MODULES = {
    "deepspeed_config": "config",
    "Engine": "engine",
    "parameter_groups": "engine",
    "WeightsDoNotFit": "gathered",
    "check_swap": "nvme.folder",
    "MOMENTS": "state",
    "Fragment": "state",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is used: only `deepspeed_config` does without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
