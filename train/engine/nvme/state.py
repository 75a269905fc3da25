"""AdamW's state at ZeRO 3 in files: read and written part by part, by parameter name.

DeepSpeed keeps a sub-group's master weights and each of its moments in a float32 file and loads them only for its
update. Checkpoints, averages and tests read a parameter's part from these files, and write it back after filling it:
the memory needed is one parameter's part, whatever the size of a sub-group. Sub-groups below 1 MiB stay in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from train.distributed.world import World
from train.engine.nvme.handle import DiskHandle, reserve
from train.engine.state import MOMENTS, Fragment, PartitionedState

WORD = 4
"""Bytes of a float32."""
KINDS = ("param", *MOMENTS)


class SwappedState(PartitionedState):
    """Stage 3 with `zero.offload_optimizer=nvme`."""

    def __init__(self, deepspeed_engine: Any, adamw: torch.optim.Optimizer, decoder: nn.Module, world: World) -> None:
        super().__init__(deepspeed_engine, adamw, decoder, world)
        self._swapper = self.optimizer.optimizer_swapper
        self._disk = DiskHandle()
        # A rank's gradients stay in memory, whether or not they are also written to files.
        self._swapper.swap_out_gradients = self._keep_gradients

    def fragments(self, changed: bool = False) -> Iterator[Fragment]:
        """Yield this rank's state; state in files is read, and if `changed` written back at the next request."""
        for piece in self.pieces():
            info = self._info(piece.master)
            if info is None:
                yield self._views(piece)
                continue
            read = {kind: torch.empty(piece.length) for kind in KINDS}
            files = list(zip(read.values(), info.get_swap_paths(), strict=True))
            for tensor, path in files:
                self._disk.async_pread(tensor, path, WORD * piece.offset)
            self._disk.wait()
            yield Fragment(piece.name, piece.start, read)
            if changed:
                for tensor, path in files:
                    self._disk.async_pwrite(tensor, path, WORD * piece.offset)
                self._disk.wait()

    def prepare_master(self, master: Tensor, updates: int) -> None:
        """Zero the files of a sub-group's moments and set its update count."""
        info = self._info(master)
        if info is None:
            super().prepare_master(master, updates)
            return
        state = self.adamw.state[master]
        if not state:
            state |= {moment: torch.empty(0) for moment in MOMENTS}
            for moment in MOMENTS:
                state[moment].ds_id = f"{moment}-{master.ds_id}"  # type: ignore[attr-defined]  # DeepSpeed's file name
            info.add_state_tensors([state[moment] for moment in MOMENTS])
        state["step"] = torch.tensor(float(updates))
        for path in info.get_swap_paths()[1:]:
            reserve(path, WORD * self._swapper._io_aligned_numel(info.numel()), zero=True)

    def gradients(self) -> list[Tensor]:
        """Return the gradients of this rank's parts, which stay in memory."""
        held = [
            master.grad if self._info(master) is None else self._flat_gradient(group)
            for group, master in enumerate(self.masters())
        ]
        return [gradient for gradient in held if gradient is not None]

    def cast(self, group: int) -> None:
        """Cast the parts of a sub-group, which is loaded for the duration."""
        swapped = self.optimizer._swappable_optimizer_subgroup(group)
        if swapped:
            self.optimizer._optimizer_states_and_gradient_swap_in(group)
        super().cast(group)
        if swapped:
            self.optimizer._release_swap_buffers(group)

    def _info(self, master: Tensor) -> Any:
        """Return DeepSpeed's record of a sub-group's files; None if it stays in memory."""
        return self._swapper.swap_params_info.get(master.ds_id)  # type: ignore[attr-defined]

    def _flat_gradient(self, group: int) -> Tensor:
        lengths = self.optimizer.fp16_partitioned_groups_flat_numel
        return self.optimizer.grad_partitions_flat_buffer.narrow(0, sum(lengths[:group]), lengths[group])

    def _keep_gradients(self, parameter: Tensor, gradient_offsets: object, gradient_tensors: object) -> None:
        """Let the update read a sub-group's gradients from memory."""
        group = next(index for index, master in enumerate(self.masters()) if master is parameter)
        self._info(parameter).unswapped_gradients = {0: self._flat_gradient(group)}
