"""AdamW's state by parameter name: which elements this rank owns, wherever a ZeRO stage keeps them.

Every element of every parameter has exactly one owner. Stages 1 to 3 split the float32 master weights and the moments
over the ranks, and padding has no owner; at stage 0 every rank holds all of them and owns an equal share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.distributed.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """The part of a parameter whose float32 master weights and moments this rank owns; views, all of equal length."""

    name: str
    start: int
    """Offset in the flattened parameter."""
    tensors: dict[str, Tensor]
    """"param", "exp_avg" and "exp_avg_sq"; also "ema" if a running average is kept."""


@dataclass(frozen=True)
class Piece:
    """The position of a fragment in a master tensor."""

    name: str
    start: int
    """Offset in the flattened parameter."""
    master: Tensor
    """A key of AdamW's state."""
    offset: int
    """Offset in the flattened master tensor."""
    length: int


class State(ABC):
    """The master weights, moments and gradients of one ZeRO stage."""

    shared_gradients: bool
    """Does every rank hold the step's full gradient, rather than its own part?"""

    def __init__(self, deepspeed_engine: Any, adamw: torch.optim.Optimizer, decoder: nn.Module, world: World) -> None:
        self.engine = deepspeed_engine
        self.optimizer = deepspeed_engine.optimizer
        self.adamw = adamw
        self.decoder = decoder
        self.world = world

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that are not frozen, with their names."""
        return ((name, parameter) for name, parameter in self.decoder.named_parameters() if parameter.requires_grad)

    @abstractmethod
    def masters(self) -> list[Tensor]:
        """Return the master tensors: the keys of AdamW's state."""

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """Yield what this rank owns, parameter by parameter."""

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """Return the gradients this rank holds after a step's last backward pass, before clipping."""

    def open(self) -> None:  # noqa: B027  # most stages need nothing
        """Prepare to add the gradient of another backward pass to the step's sum."""

    @abstractmethod
    def filled(self) -> None:
        """Refresh the working weights from the master weights that the owners hold. Every rank calls this."""

    def fragments(self, changed: bool = False) -> Iterator[Fragment]:
        """Yield what this rank owns, parameter by parameter; each fragment is valid until the next one is requested.

        `changed`: writes to it persist.
        """
        for piece in self.pieces():
            yield self._views(piece)

    def _views(self, piece: Piece) -> Fragment:
        moments = self.adamw.state[piece.master]
        whole = {"param": piece.master, **{moment: moments[moment] for moment in MOMENTS}}
        views = {kind: tensor.detach().view(-1).narrow(0, piece.offset, piece.length) for kind, tensor in whole.items()}
        return Fragment(piece.name, piece.start, views)

    def prepare(self, updates: int) -> None:
        """Zero the moments and set the update count, which every master tensor has separately."""
        for master in self.masters():
            self.prepare_master(master, updates)

    def prepare_master(self, master: Tensor, updates: int) -> None:
        """Zero the moments of one master tensor and set its update count."""
        state = self.adamw.state[master]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
            state |= {moment: torch.zeros_like(master, requires_grad=False) for moment in MOMENTS}
        for tensor in state.values():
            tensor.zero_()
        state["step"].fill_(updates)


class WholeState(State):
    """Stage 0 in fp32: DeepSpeed uses AdamW unchanged, and its parameters are the master weights."""

    shared_gradients = True

    def masters(self) -> list[Tensor]:
        """Return the parameters."""
        return [parameter for _, parameter in self.trained()]

    def pieces(self) -> Iterator[Piece]:
        """Yield this rank's equal share of every parameter."""
        for name, parameter in self.trained():
            yield from _share(Piece(name, 0, parameter, 0, parameter.numel()), self.world)

    def gradients(self) -> list[Tensor]:
        """Return the parameters' gradients."""
        return [p.grad for _, p in self.trained() if p.grad is not None]

    def filled(self) -> None:
        """Copy the owners' values to every rank."""
        _spread(self)


class FlatState(State):
    """Stages 0 and 1 in bf16 (DeepSpeed's BF16_Optimizer): one flat master tensor per parameter group."""

    shared_gradients = True

    def masters(self) -> list[Tensor]:
        """Return the flat tensors."""
        return [group["params"][0] for group in self.adamw.param_groups]

    def pieces(self) -> Iterator[Piece]:
        """Yield the parameters in this rank's part of the flat tensors."""
        masters = self.masters()
        for name, parameter in self.trained():
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed's: which part of it is here
            if mapping is not None:
                where, start = mapping.hp_fragment_address, mapping.lp_fragment_address.start
                yield Piece(name, start, masters[mapping.param_group_index], where.start, where.numel)

    def gradients(self) -> list[Tensor]:
        """Return the float32 sums, reduced over the ranks."""
        return list(self.optimizer.fp32_groups_gradients_flat)

    def filled(self) -> None:
        """Cast and gather, as after an update."""
        self.optimizer.update_lp_params()


class ReplicatedState(FlatState):
    """Stage 0 in bf16: every rank holds the full flat tensors and owns an equal share of each parameter."""

    def pieces(self) -> Iterator[Piece]:
        """Yield this rank's share."""
        for piece in super().pieces():
            yield from _share(piece, self.world)

    def filled(self) -> None:
        """Copy the owners' values to every rank, then cast."""
        _spread(self)
        super().filled()


class SplitState(FlatState):
    """Stages 1 and 2 in DeepSpeed's ZeRO optimizer: a rank has the gradients of its own part only."""

    shared_gradients = False

    def gradients(self) -> list[Tensor]:
        """Return the gradients of this rank's part of the flat tensors."""
        if self.optimizer.cpu_offload:
            self.optimizer._wait_for_offload_copies()
            return [master.grad for master in self.masters() if master.grad is not None]
        return [gradient for group in self.optimizer.averaged_gradients.values() for gradient in group]


class PartitionedState(State):
    """Stage 3: each parameter has one equal part per rank, the last ones padded; sub-groups of parts are flat."""

    shared_gradients = False

    def masters(self) -> list[Tensor]:
        """Return the flat tensors, one per sub-group."""
        return list(self.optimizer.fp32_partitioned_groups_flat)

    def pieces(self) -> Iterator[Piece]:
        """Yield this rank's part of every parameter, without padding."""
        masters = self.masters()
        for name, parameter in self.trained():
            group, offset, length = self.optimizer.grad_position[self.optimizer.get_param_id(parameter)]
            start = length * self.world.rank
            owned = min(length, parameter.ds_numel - start)  # type: ignore[attr-defined]
            if owned > 0:
                yield Piece(name, start, masters[group], offset, owned)

    def open(self) -> None:
        """Make DeepSpeed accumulate instead of overwrite.

        DeepSpeed 0.19.8 starts a new sum with each backward pass until a forward pass has counted the previous one:
        after two forward passes, the second of two backward passes would silently replace the first.
        """
        self.optimizer.clear_backward_seen_flag()

    def gradients(self) -> list[Tensor]:
        """Return the gradients of this rank's parts."""
        if self.optimizer.offload_optimizer:
            return [master.grad for master in self.masters() if master.grad is not None]
        return [gradient for group in self.optimizer.averaged_gradients.values() for gradient in group]

    @torch.no_grad()
    def filled(self) -> None:
        """Cast the parts to the working weights, as after an update; forward passes gather them."""
        optimizer = self.optimizer
        optimizer._partition_all_parameters()
        for group in range(len(optimizer.fp16_groups)):
            self.cast(group)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def cast(self, group: int) -> None:
        """Cast the parts of a sub-group."""
        self.optimizer._reassign_or_swap_out_partitioned_parameters(group)


def _share(piece: Piece, world: World) -> Iterator[Piece]:
    """Yield this rank's equal share of a piece that all ranks hold; nothing if the share is empty."""
    first, last = (piece.length * rank // world.size for rank in (world.rank, world.rank + 1))
    if first < last:
        yield Piece(piece.name, piece.start + first, piece.master, piece.offset + first, last - first)


@torch.no_grad()
def _spread(state: State) -> None:
    """Copy every owner's fragments to all ranks, bit for bit: integer sums in which all terms but one are zero."""
    if state.world.size == 1:
        return
    pieces = list(state.pieces())
    for master in state.masters():
        for tensor in (master, *(state.adamw.state[master][moment] for moment in MOMENTS)):
            bits = tensor.detach().view(-1).view(torch.int32)
            sent = torch.zeros_like(bits)
            for piece in pieces:
                if piece.master is master:
                    part = slice(piece.offset, piece.offset + piece.length)
                    sent[part] = bits[part]
            bits.copy_(state.world.all_sum(sent))
