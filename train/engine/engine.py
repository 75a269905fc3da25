"""A decoder and its AdamW under DeepSpeed: forward, backward, then a weight update or a skipped one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.attention import Documents
from models.decoder import Block, Decoder
from train.distributed.world import World
from train.engine.config import deepspeed_config, on_disk
from train.engine.gathered import gathered
from train.engine.nvme.folder import SwapFolder
from train.engine.nvme.handle import own_handles
from train.engine.nvme.state import SwappedState
from train.engine.patches import applying, check, check_built
from train.engine.stand_ins import KnownNorm, light_adamw, light_start
from train.engine.state import (
    MOMENTS,
    FlatState,
    Fragment,
    PartitionedState,
    ReplicatedState,
    SplitState,
    State,
    WholeState,
)
from train.engine.zero0 import replicated_engine
from train.faults import fault
from train.memory.heap import keep_freed_memory
from train.settings import OptimizerSettings, TrainSettings

ROW = 1 << 16
"""Elements whose squares are summed at once."""


def parameter_groups(decoder: Decoder, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: matrices with weight decay, norms without; frozen parameters are in none."""
    parameters = [p for p in decoder.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Engine:
    """A decoder and its AdamW under DeepSpeed ZeRO 0, 1, 2 or 3.

    `engine(ids_BS)` runs the model; call `backward` after every micro-batch. After the last micro-batch of a step,
    `step` either updates the weights or leaves weights and moments bit-identical; every rank must make the same choice.
    An earlier `step` does nothing, so it may also be called after every micro-batch.
    """

    def __init__(self, decoder: Decoder, settings: TrainSettings, batch_size: int, world: World) -> None:
        self.config = deepspeed_config(settings, batch_size, world.size)
        self.micro_batches: int = self.config["gradient_accumulation_steps"]
        self.world = world
        self.decoder = decoder
        fault("engine.states")
        self._adamw = light_adamw(
            parameter_groups(decoder, settings.optimizer),
            lr=settings.optimizer.lr,
            fused=True,
            betas=(settings.optimizer.beta1, settings.optimizer.beta2),
            eps=settings.optimizer.eps,
        )
        self._swap = SwapFolder(Path(str(settings.zero.nvme_path))) if settings.zero.uses_nvme else None
        try:
            rows = applying(settings)
            with light_start():
                check(rows)
                self._deepspeed = self._initialize(settings)
            check_built(rows, self._deepspeed)
            self._known_norm = KnownNorm(self._deepspeed, rows)
            self._bound_reduction()
            self._state = self._state_of(settings)
            self._state.prepare(0)
        except BaseException:
            self.remove_swap_files()
            raise
        self._filling = False
        self._average: dict[str, Tensor] | None = None
        if settings.averaging.decay:
            self._average = {
                piece.name: torch.zeros(piece.length, device=piece.master.device) for piece in self._state.pieces()
            }
        if world.device.type == "cpu":
            keep_freed_memory()
        self._done = 0
        self._norm: Tensor | None = None
        self.stayed = torch.zeros((), device=world.device)
        """Nonzero if the last update was skipped: weights and moments are as before."""
        self.returned_at = time.perf_counter()
        """When the last call that may contain a collective returned: until the next one, the rank works locally."""

    def _initialize(self, settings: TrainSettings) -> Any:
        import deepspeed

        if settings.zero.stage == 0 and settings.precision == "bf16":
            return replicated_engine(self.decoder, self._adamw, self.config, self.world)
        config = self.config
        if self._swap is not None:
            parts = [-(-parameter.numel() // self.world.size) for parameter in self.decoder.parameters()]
            config = on_disk(config, self._swap.path, max(parts), len(parts))
        if settings.zero.stage == 3 and settings.execution.compile:
            # The parts of a block are compiled, so its weights have to be gathered before them, all at once.
            deepspeed.utils.set_z3_leaf_modules(self.decoder, [Block])
        with own_handles() if self._swap is not None else nullcontext():
            engine, *_ = deepspeed.initialize(
                model=self.decoder, optimizer=self._adamw, config=config, dist_init_required=False
            )
        if settings.zero.stage == 3:
            # The loss uses the head's weight without calling the head, so no hook gathers it. The decoder reads the
            # norm's weight directly: if DeepSpeed discovered that in a forward pass, its prefetch order would break.
            for weight in (self.decoder.head.weight, self.decoder.norm.weight):
                deepspeed.zero.register_external_parameter(self.decoder, weight)
        return engine

    def _bound_reduction(self) -> None:
        """Reduce BF16_Optimizer's gradients bucket by bucket, and not at all on a single rank.

        DeepSpeed 0.19.8 reduces 500M elements at once, whatever the configuration says, and copies the whole float32
        gradient into a buffer and back even on a single rank.
        """
        from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

        engine = self._deepspeed
        if not isinstance(engine.optimizer, BF16_Optimizer):
            return
        engine.enable_backward_allreduce = self.world.size > 1
        bucket = self.config["zero_optimization"]["reduce_bucket_size"]
        engine.allreduce_gradients = partial(engine.allreduce_gradients, bucket_size=bucket)

    def _state_of(self, settings: TrainSettings) -> State:
        from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

        kind: type[State] = SplitState
        if settings.zero.stage == 0:
            kind = ReplicatedState if settings.precision == "bf16" else WholeState
        elif settings.zero.stage == 3:
            kind = SwappedState if settings.zero.offload_optimizer == "nvme" else PartitionedState
        elif isinstance(self._deepspeed.optimizer, BF16_Optimizer):
            kind = FlatState
        return kind(self._deepspeed, self._adamw, self.decoder, self.world)

    def __call__(self, ids_BS: Tensor, documents: Documents | None = None, **more: Tensor) -> Any:
        """Return the TokenLosses of a batch; `documents` and further keyword arguments as in `Decoder.forward`."""
        losses = self._deepspeed(ids_BS, documents, **more)
        self.returned_at = time.perf_counter()
        return losses

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's share of the step's mean loss."""
        assert self._done < self.micro_batches, "all micro-batches of the step went backward: call step"
        self._done += 1
        self._norm = None
        self._state.open()
        self._deepspeed.set_gradient_accumulation_boundary(self._done == self.micro_batches)
        # DeepSpeed averages over ranks, but the loss is already a share of the mean: scale it so that shares add up.
        self._deepspeed.backward(loss * self.world.size, scale_wrt_gas=False)
        self.returned_at = time.perf_counter()

    def step(self, *left_out: Tensor) -> None:
        """Update the weights, if the step's last micro-batch has gone backward.

        If any of `left_out`, scalars on the device, is nonzero, or the gradient norm is not finite, weights, moments
        and update count stay bit-identical. The device decides, and the host reads nothing. Every rank must pass
        the same values.
        """
        if self._done < self.micro_batches:
            return
        norm = self.gradient_norm()
        stays = ~torch.isfinite(norm)
        for refused in left_out:
            stays |= refused != 0
        held_at = self._state.masters()[0].device  # an offloaded AdamW runs on the host, which then needs the value
        self.stayed = stays.float()
        self._adamw.found_inf = self.stayed.to(held_at)  # type: ignore[attr-defined]  # as torch's GradScaler does
        with self._known_norm.inside(norm.to(held_at)):
            self._deepspeed.step()
        self._done = 0
        self.returned_at = time.perf_counter()

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of the next weight update."""
        for group in self._adamw.param_groups:
            group["lr"] = value

    def gradients(self) -> list[Tensor]:
        """Return the gradients this rank holds after a step's last backward pass: views, before clipping."""
        return self._state.gradients()

    def gradient_norm(self) -> Tensor:
        """Return the global gradient norm before clipping: of the coming update, or between updates of the last one.

        A float32 scalar on the device. Before the update it is computed on the first call, and every rank must call; it
        is not finite if any gradient on any rank is not.
        """
        if self._norm is None:
            assert self._done == self.micro_batches, "the gradient is complete only after a step's last backward"
            self._norm = self._global_norm()
        return self._norm

    @torch.no_grad()
    def _global_norm(self) -> Tensor:
        squares = torch.zeros((), dtype=torch.float32, device=self.world.device)
        for gradient in self._state.gradients():
            squares += _square_sum(gradient).to(squares.device)
        if self._state.shared_gradients:  # every rank has all of them; a fault may hit only one rank's
            squares /= self.world.size
        return self.world.all_sum(squares).sqrt()

    def updates(self) -> int:
        """Return the number of weight updates so far."""
        return int(next(iter(self._adamw.state.values()))["step"].item())

    def fragments(self) -> Iterator[Fragment]:
        """Yield the float32 weights and moments that this rank owns, by parameter; every element has one owner.

        A fragment is valid until the next one is requested; writes to it persist only between `prepare_state` and
        `filled`. If the settings keep a running average of the weights, it is "ema", always in memory and updated by a
        hook.
        """
        for fragment in self._state.fragments(changed=self._filling):
            if self._average is not None:
                fragment.tensors["ema"] = self._average[fragment.name]
            yield fragment

    def outline(self) -> Iterator[Fragment]:
        """Yield what `fragments` yields, with meta tensors: lengths without values."""
        kinds = ("param", *MOMENTS, *(() if self._average is None else ("ema",)))
        for piece in self._state.pieces():
            yield Fragment(piece.name, piece.start, {kind: torch.empty(piece.length, device="meta") for kind in kinds})

    def prepare_state(self, updates: int) -> None:
        """Zero the moments and set the update count, so that `fragments` can be filled from a checkpoint."""
        self._state.prepare(updates)
        self._filling = True

    def filled(self) -> None:
        """Refresh the working weights after `fragments` were filled. Every rank calls this."""
        self._filling = False
        self._state.filled()

    @contextmanager
    def whole_weights(self, spare_bytes: int = 0, *, at_once: bool = True) -> Iterator[None]:
        """Put a decoder to evaluate into `decoder` on every rank; at ZeRO 3 another module, with gathered weights.

        Every rank enters. At ZeRO 3, unless all weights are gathered `at_once` and fit next to `spare_bytes`, each
        forward pass gathers them block by block, and all ranks make the same number of passes. Raises WeightsDoNotFit
        on all ranks. Do not use the previous `decoder` object inside.
        """
        if not isinstance(self._state, PartitionedState):
            yield
            return
        partitioned = self.decoder
        with gathered(partitioned, self.world, spare_bytes, at_once=at_once) as self.decoder:
            try:
                yield
            finally:
                self.decoder = partitioned

    def destroy(self) -> None:
        """Release DeepSpeed's hooks and buffers."""
        self._deepspeed.destroy()
        self.remove_swap_files()

    def remove_swap_files(self) -> None:
        """Remove the files on NVMe; the engine cannot be used afterwards."""
        if self._swap is not None:
            self._swap.remove()


def _square_sum(tensor: Tensor) -> Tensor:
    """Return the float32 sum of squares, row by row: one sum over a billion elements loses digits on a CPU."""
    flat = tensor.view(-1)
    rows = flat.numel() // ROW
    whole = torch.linalg.vector_norm(flat[: rows * ROW].view(rows, ROW), dim=1, dtype=torch.float32)
    rest = torch.linalg.vector_norm(flat[rows * ROW :], dtype=torch.float32)
    return whole.square().sum() + rest.square()
