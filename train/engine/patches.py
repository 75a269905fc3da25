"""The table of DeepSpeed internals that we replace or use by name, and the check that they exist.

DeepSpeed promises none of them. `check` looks up the rows that apply to a run's settings when its engine starts: a
missing internal, or one with other parameters, is an error that names it, the installed version and the versions that
work. Nothing here probes an internal with `hasattr` and does without it. The replacements are in stand_ins.py.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from train.settings import TrainSettings

TESTED = ">=0.19.8,<0.19.9"
"""DeepSpeed versions that pass the tests; pyproject.toml requires the same. Six rows fail with 0.19.7."""


@dataclass(frozen=True)
class Where:
    """The settings to which a row applies."""

    words: str
    holds: Callable[[TrainSettings], bool]


def _flat(run: TrainSettings) -> bool:
    return run.precision == "bf16" and run.zero.stage < 2 and run.zero.offload_optimizer == "none"


JOIN = Where("rendezvous of the ranks", lambda _: True)
START = Where("engine start", lambda _: True)
BARE = Where("stage 0 in fp32", lambda run: run.zero.stage == 0 and run.precision == "fp32")
ZERO0 = Where("stage 0 in bf16", lambda run: run.zero.stage == 0 and run.precision == "bf16")
FLAT = Where("stages 0 and 1 in bf16, without offloading", _flat)
SPLIT = Where("stages 1 and 2 (bf16 at 1: offloaded)", lambda run: run.zero.stage in (1, 2) and not _flat(run))
SHARDS = Where("stages 1 and 2, 0 in bf16", lambda run: run.zero.stage < 3 and not BARE.holds(run))
ZERO3 = Where("stage 3", lambda run: run.zero.stage == 3)
DISK = Where("stage 3, NVMe", lambda run: run.zero.uses_nvme)
STATES = Where("stage 3, optimizer on NVMe", lambda run: run.zero.offload_optimizer == "nvme")


@dataclass(frozen=True)
class Row:
    """One internal."""

    owner: str
    """Module, or module:class."""
    name: str
    where: Where
    why: str
    replaced: bool = False
    """Replaced by ours for all or part of a run; otherwise only called or read."""
    parameters: tuple[str, ...] | None = None
    """For a replaced function: all of them, in order; for a called one: those we pass."""
    held: bool = False
    """An attribute of instances, not necessarily of the class: checked once the engine is built."""
    versions: str = TESTED

    @property
    def path(self) -> str:
        """Return the full dotted name."""
        return f"{self.owner.replace(':', '.')}.{self.name}"


def _replaced(owner: str, name: str, parameters: str, where: Where, why: str) -> Row:
    return Row(owner, name, where, why, replaced=True, parameters=tuple(parameters.split()))


def _called(owner: str, name: str, parameters: str, where: Where, why: str) -> Row:
    return Row(owner, name, where, why, parameters=tuple(parameters.split()))


def _held(owner: str, names: str, where: Where, why: str) -> list[Row]:
    return [Row(owner, name, where, why, held=True) for name in names.split()]


BF16 = "deepspeed.runtime.bf16_optimizer"
OPTIMIZER01 = f"{BF16}:BF16_Optimizer"
BF16_ARGUMENTS = "init_optimizer param_names bfloat16_config clip_grad dp_process_group timers grad_acc_dtype"
ENGINE = "deepspeed.runtime.engine:DeepSpeedEngine"
STAGE12 = "deepspeed.runtime.zero.stage_1_and_2"
OPTIMIZER12 = f"{STAGE12}:DeepSpeedZeroOptimizer"
STAGE3 = "deepspeed.runtime.zero.stage3"
OPTIMIZER3 = f"{STAGE3}:DeepSpeedZeroOptimizer_Stage3"
FRAGMENTS = "deepspeed.utils.tensor_fragment"
FRAGMENT_FIELDS = "lp_fragment_address hp_fragment_address param_group_index"
SWAPPING = "deepspeed.runtime.swap_tensor"
PARTITION = "deepspeed.runtime.zero.partition_parameters"
SWAPPER = f"{SWAPPING}.partitioned_optimizer_swapper:PartitionedOptimizerSwapper"
SWAPPED = f"{SWAPPING}.optimizer_utils:OptimizerStateSwapInfo"
GRADIENTS = "parameter gradient_offsets gradient_tensors"
PARAMETER = "torch.nn:Parameter"

_SYNC = "it turns a device tensor into a bool, so the host waits for the whole step"
_NORM = "it passes over all gradients again for the norm that the guards already have"
_DTYPE = "on a CPU without float16 it takes bfloat16, whatever the parameters' dtype"
_BUILD = "DeepSpeed would compile a reader and writer that ignore I/O errors; DiskHandle replaces it"

TABLE: tuple[Row, ...] = (
    # Rendezvous (communication.py).
    _replaced("deepspeed.ops", "_probe_compatible_ops", "", JOIN, "it starts compilers; gloo needs no shm_comm"),
    _called("deepspeed.utils.groups", "_clone_world_group", "", JOIN, "created later, it waits 30 min for a lost rank"),
    # Engine start (light_start, engine.py, zero 0 in bf16).
    _replaced("deepspeed.runtime.compiler", "compile", "", START, "Muon's decorators load torch's compiler: 1.1 s"),
    Row("deepspeed.runtime.compiler", "dummy_decorator", START, "replaces what `compile` returns"),
    _replaced(BF16, "see_memory_usage", "message force", START, "it runs the garbage collector four times: 1.4 s"),
    _called(OPTIMIZER01, "__init__", BF16_ARGUMENTS, ZERO0, "DeepSpeed's choice starts with a step on zero gradients"),
    _replaced(ENGINE, "_configure_optimizer", "client_optimizer model_parameters", ZERO0, "builds BF16_Optimizer"),
    *_held(ENGINE, "basic_optimizer param_names timers _config", ZERO0, "arguments of BF16_Optimizer, as at stage 1"),
    *_held("deepspeed.runtime.config:DeepSpeedConfig", "bfloat16_config", ZERO0, "an argument of BF16_Optimizer"),
    *_held(ENGINE, "enable_backward_allreduce", FLAT, "a single rank has nothing to reduce"),
    _replaced(ENGINE, "allreduce_gradients", "bucket_size", FLAT, "it would reduce 500M elements at once"),
    # Weight update (KnownNorm).
    _replaced(BF16, "is_invalid_grad_norm", "norm", FLAT, _SYNC),
    _replaced(BF16, "clip_tensors_by_global_norm", "input_tensors max_norm global_norm mpu eps", FLAT, _SYNC),
    _replaced(BF16, "get_global_norm_of_tensors", "input_tensors norm_type mpu moe_ep_group", FLAT, _NORM),
    _replaced(STAGE12, "is_invalid_grad_norm", "norm", SPLIT, _SYNC),
    _replaced(OPTIMIZER12, "scaled_global_norm", "norm_type", SPLIT, _NORM),
    _replaced(STAGE3, "is_invalid_grad_norm", "norm", ZERO3, _SYNC),
    _replaced(OPTIMIZER3, "_get_norm_groups", "", ZERO3, _NORM),
    _replaced(ENGINE, "clip_fp32_gradients", "", BARE, _NORM),
    _called(ENGINE, "gradient_clipping", "", BARE, "the norm above which gradients are clipped"),
    # Gradient accumulation (state.py).
    _called(OPTIMIZER3, "clear_backward_seen_flag", "", ZERO3, "only a forward pass starts a new sum: see State.open"),
    *_held(OPTIMIZER3, "micro_step_id", ZERO3, "counts the backward passes of a step, for the same"),
    # State by parameter name (state.py).
    *_held(PARAMETER, "_hp_mapping", SHARDS, "which elements of a parameter this rank owns"),
    _called(FRAGMENTS, "tensor_fragment", FRAGMENT_FIELDS, SHARDS, "the type of _hp_mapping"),
    _called(FRAGMENTS, "fragment_address", "numel start", SHARDS, "an offset and a length"),
    *_held(OPTIMIZER01, "fp32_groups_gradients_flat", FLAT, "the gradient"),
    _called(OPTIMIZER01, "update_lp_params", "", FLAT, "casts and gathers filled weights"),
    *_held(OPTIMIZER12, "averaged_gradients cpu_offload", SPLIT, "the gradient, and where it is"),
    _called(OPTIMIZER12, "_wait_for_offload_copies", "", SPLIT, "offloaded gradients are still being copied before"),
    _called(OPTIMIZER12, "update_lp_params", "", SPLIT, "casts and gathers filled weights"),
    *_held(PARAMETER, "ds_numel ds_id all_gather", ZERO3, "length without padding; gathers persistent parameters"),
    *_held(OPTIMIZER3, "fp32_partitioned_groups_flat fp16_groups", ZERO3, "sub-groups and their master weights"),
    *_held(OPTIMIZER3, "grad_position", ZERO3, "where a parameter's partition is in them"),
    *_held(OPTIMIZER3, "averaged_gradients offload_optimizer", ZERO3, "the gradient, and where it is"),
    *_held(OPTIMIZER3, "persistent_parameters", ZERO3, "never partitioned, so gathered after filling"),
    _called(OPTIMIZER3, "get_param_id", "param", ZERO3, "the key of grad_position"),
    _called(OPTIMIZER3, "_partition_all_parameters", "", ZERO3, "nothing is gathered while filling"),
    _called(OPTIMIZER3, "_reassign_or_swap_out_partitioned_parameters", "sub_group_id", ZERO3, "casts a sub-group"),
    # State on NVMe (nvme/handle.py, nvme/state.py).
    _replaced(f"{SWAPPING}.partitioned_optimizer_swapper", "AsyncIOBuilder", "", DISK, _BUILD),
    _replaced(f"{SWAPPING}.partitioned_param_swapper", "AsyncIOBuilder", "", DISK, _BUILD),
    _replaced(f"{PARTITION}:Init", "_set_dtype", "ds_config dtype", DISK, _DTYPE),
    _replaced(SWAPPER, "swap_out_gradients", GRADIENTS, STATES, "it writes gradients that stay in memory anyway"),
    *_held(OPTIMIZER3, "optimizer_swapper", STATES, "knows the files"),
    *_held(OPTIMIZER3, "fp16_partitioned_groups_flat_numel", STATES, "elements of each sub-group"),
    *_held(OPTIMIZER3, "grad_partitions_flat_buffer", STATES, "the gradient, in memory"),
    _called(OPTIMIZER3, "_swappable_optimizer_subgroup", "sub_group_id", STATES, "is it in files?"),
    _called(OPTIMIZER3, "_optimizer_states_and_gradient_swap_in", "sub_group_id", STATES, "read for a cast"),
    _called(OPTIMIZER3, "_release_swap_buffers", "sub_group_id", STATES, "released after the cast"),
    _called(SWAPPER, "_io_aligned_numel", "numel", STATES, "the length of a file"),
    _called(SWAPPER, "parameter_id", "param", STATES, "a file's name is the tensor's ds_id"),
    *_held(SWAPPER, "swap_params_info", STATES, "DeepSpeed's record of each sub-group's files"),
    _called(SWAPPED, "get_swap_paths", "", STATES, "the files of a sub-group"),
    _called(SWAPPED, "add_state_tensors", "tensor_list", STATES, "registers the moments"),
    _called(SWAPPED, "numel", "", STATES, "elements of a sub-group"),
    *_held(SWAPPED, "unswapped_gradients", STATES, "the update reads gradients from here"),
)


class UnknownDeepSpeed(RuntimeError):
    """The installed DeepSpeed lacks an internal of the table."""

    def __init__(self, row: Row, problem: str) -> None:
        use = "replaced" if row.replaced else "used"
        super().__init__(
            f"DeepSpeed {version('deepspeed')}: {row.path} {problem}; it is {use} at {row.where.words} ({row.why}): "
            f'install "deepspeed{row.versions}"'
        )


def applying(settings: TrainSettings) -> list[Row]:
    """Return the rows for a run's settings."""
    return [row for row in TABLE if row.where is not JOIN and row.where.holds(settings)]


def check(rows: Iterable[Row]) -> None:
    """Raise UnknownDeepSpeed for a module, class or function that is missing or has other parameters."""
    for row in rows:
        try:
            owner = pkgutil.resolve_name(row.owner)
            found = None if row.held else getattr(owner, row.name)
        except (ImportError, AttributeError) as error:
            raise UnknownDeepSpeed(row, "does not exist") from error
        if row.parameters is None:
            continue
        there = _parameters(found)
        if there != row.parameters if row.replaced else not set(row.parameters) <= set(there):
            raise UnknownDeepSpeed(row, f"takes ({', '.join(there)}), not ({', '.join(row.parameters)})")


def _parameters(function: Any) -> tuple[str, ...]:
    """Return parameter names; for profilers DeepSpeed wraps functions in others that take anything."""
    if inspect.isfunction(function):
        function = inspect.getclosurevars(function).nonlocals.get("func", function)
    return tuple(name for name in inspect.signature(function).parameters if name != "self")


def check_held(rows: Iterable[Row], instances: Iterable[object]) -> None:
    """Raise UnknownDeepSpeed for an attribute that an instance lacks; classes without instances are skipped."""
    instances = list(instances)
    for row in rows:
        if row.held:
            owner = pkgutil.resolve_name(row.owner)
            if not all(hasattr(instance, row.name) for instance in instances if isinstance(instance, owner)):
                raise UnknownDeepSpeed(row, "does not exist")


def check_built(rows: Iterable[Row], engine: Any) -> None:
    """Raise UnknownDeepSpeed for an attribute that a built DeepSpeedEngine, or one of its parts, lacks."""
    swapper = getattr(engine.optimizer, "optimizer_swapper", None)
    files = getattr(swapper, "swap_params_info", {}).values()
    config = getattr(engine, "_config", None)
    trained = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    check_held(rows, [engine, config, engine.optimizer, swapper, *files, *trained])
