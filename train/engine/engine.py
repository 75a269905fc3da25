"""A decoder and its AdamW under DeepSpeed: forward, backward, then one update of the weights or none."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.attention import Documents
from models.decoder import Decoder
from train.engine.config import deepspeed_config
from train.engine.replicated import replicated_engine
from train.engine.state import FlatState, Fragment, PartitionedState, ReplicatedState, SplitState, State, WholeState
from train.faults import fault
from train.memory import keep_freed_memory
from train.settings import OptimizerSettings, TrainSettings
from train.world import World


def parameter_groups(decoder: Decoder, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices with decay, norms without."""
    parameters = list(decoder.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


class Engine:
    """A decoder and its AdamW under DeepSpeed ZeRO 0, 1, 2 or 3.

    `engine(ids_BS)` runs the model and `backward` follows every micro-batch. After the last one of a step `step` moves
    the weights, or `skip` leaves weights and moments as they are, to the bit; every rank must choose alike. A `step`
    before that does nothing, so it may also be called after every micro-batch.
    """

    def __init__(self, decoder: Decoder, settings: TrainSettings, batch_size: int, world: World) -> None:
        self.config = deepspeed_config(settings, batch_size, world.size)
        self.micro_batches: int = self.config["gradient_accumulation_steps"]
        self.world = world
        self.decoder = decoder
        fault("engine.states")
        self._adamw = torch.optim.AdamW(
            parameter_groups(decoder, settings.optimizer),
            lr=settings.optimizer.lr,
            fused=True,
            betas=(settings.optimizer.beta1, settings.optimizer.beta2),
            eps=settings.optimizer.eps,
        )
        with redirect_stdout(io.StringIO()):  # it prints memory figures that nobody asked for
            self._deepspeed = self._initialize(settings)
        self._bound_reduction()
        self._state = self._state_of(settings)
        self._state.prepare(0)
        self._average: dict[str, Tensor] | None = None
        if settings.averaging.decay:
            self._average = {part.name: torch.zeros_like(part.tensors["param"]) for part in self._state.fragments()}
        if world.device.type == "cpu":
            keep_freed_memory()
        self._done = 0
        self._norm: Tensor | float | None = None

    def _initialize(self, settings: TrainSettings) -> Any:
        import deepspeed

        if settings.zero.stage == 0 and settings.precision == "bf16":
            return replicated_engine(self.decoder, self._adamw, self.config, self.world)
        made, *_ = deepspeed.initialize(
            model=self.decoder, optimizer=self._adamw, config=self.config, dist_init_required=False
        )
        if settings.zero.stage == 3:
            # The loss takes the head's weight without calling the head, whose hook would gather it.
            deepspeed.zero.register_external_parameter(self.decoder, self.decoder.head.weight)
        return made

    def _bound_reduction(self) -> None:
        """Reduce BF16_Optimizer's gradients bucket by bucket, and not at all where there is one rank.

        DeepSpeed 0.19.8 takes 500M elements at once for them, whatever the configuration says, and copies the whole
        float32 gradient into a buffer and back even for a single rank.
        """
        from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

        made = self._deepspeed
        if not isinstance(made.optimizer, BF16_Optimizer):
            return
        made.enable_backward_allreduce = self.world.size > 1
        bucket = self.config["zero_optimization"]["reduce_bucket_size"]
        made.allreduce_gradients = partial(made.allreduce_gradients, bucket_size=bucket)

    def _state_of(self, settings: TrainSettings) -> State:
        from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

        kind: type[State] = SplitState
        if settings.zero.stage == 0:
            kind = ReplicatedState if settings.precision == "bf16" else WholeState
        elif settings.zero.stage == 3:
            kind = PartitionedState
        elif isinstance(self._deepspeed.optimizer, BF16_Optimizer):
            kind = FlatState
        return kind(self._deepspeed, self._adamw, self.decoder, self.world)

    def __call__(self, ids_BS: Tensor, documents: Documents | None = None) -> Any:
        """Return the TokenLosses of a batch; `documents` as in `Decoder.forward`."""
        return self._deepspeed(ids_BS, documents)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's share of the step's mean loss."""
        assert self._done < self.micro_batches, "a step's gradients are complete: step or skip"
        self._done += 1
        self._norm = None
        self._deepspeed.set_gradient_accumulation_boundary(self._done == self.micro_batches)
        # DeepSpeed averages over ranks; the loss is a share of a mean already, so it is scaled to be summed.
        self._deepspeed.backward(loss * self.world.size, scale_wrt_gas=False)

    def step(self) -> None:
        """Move the weights, if the step's last micro-batch has gone backward."""
        if self._done < self.micro_batches:
            return
        if isinstance(self._state, WholeState) and self._norm is None:
            self._norm = self._global_norm()  # DeepSpeed has none there
        self._deepspeed.step()
        self._done = 0
        norm = self._deepspeed.get_global_grad_norm()
        self._norm = self._norm if norm is None else norm

    def skip(self) -> None:
        """Drop the step's gradients: weights, moments and the update count stay as they are, to the bit."""
        assert self._done == self.micro_batches, (
            f"{self._done} of {self.micro_batches} micro-batches have gone backward"
        )
        self._state.drop()
        self._done = 0

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of the next weight update."""
        for group in self._adamw.param_groups:
            group["lr"] = value

    def gradients(self) -> list[Tensor]:
        """Return the gradients that this rank holds after a step's last backward pass: views, before clipping."""
        return self._state.gradients()

    def gradient_norm(self) -> float:
        """Return the global gradient norm before clipping: of the coming update after the last backward, else the last.

        Before the update it is computed when first asked for, and every rank must ask; it is not finite if any
        gradient on any rank is not.
        """
        if self._norm is None:
            assert self._done == self.micro_batches, "the gradient is complete after a step's last backward"
            self._norm = self._global_norm()
        return float(self._norm)

    @torch.no_grad()
    def _global_norm(self) -> Tensor:
        squares = torch.zeros((), dtype=torch.float32, device=self.world.device)
        for gradient in self._state.gradients():
            squares += torch.linalg.vector_norm(gradient, dtype=torch.float32).square().to(squares.device)
        if not self._state.shared_gradients:
            self.world.all_sum(squares)
        return squares.sqrt()

    def updates(self) -> int:
        """Return how often the weights have moved."""
        return int(next(iter(self._adamw.state.values()))["step"].item())

    def fragments(self) -> Iterator[Fragment]:
        """Yield the float32 weights and moments that this rank owns, by parameter; every element has one owner.

        Where the settings keep a running average of the weights, that is "ema" beside them; a hook moves it.
        """
        for fragment in self._state.fragments():
            if self._average is not None:
                fragment.tensors["ema"] = self._average[fragment.name]
            yield fragment

    def prepare_state(self, updates: int) -> None:
        """Set the moments to zero and the update count, so that `fragments` can be filled from a checkpoint."""
        self._state.prepare(updates)

    def filled(self) -> None:
        """Bring the working weights in line after `fragments` were filled. Every rank calls this."""
        self._state.filled()

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Have whole parameters in `decoder` on every rank, to read them or to run it; at ZeRO 3 they are gathered.

        Every rank enters. What `decoder` was before must not be used inside: at ZeRO 3 it stands for another module,
        without DeepSpeed's hooks, that shares the gathered weights.
        """
        if not isinstance(self._state, PartitionedState):
            yield
            return
        import deepspeed

        partitioned = self.decoder
        with deepspeed.zero.GatheredParameters(list(partitioned.parameters())):
            with torch.device("meta"):
                whole = Decoder(partitioned.config, partitioned.execution)
            whole.load_state_dict(
                {name: p.data for name, p in partitioned.state_dict(keep_vars=True).items()}, assign=True
            )
            if partitioned.config.tie_embeddings:
                whole.head.weight = whole.embedding.weight
            self.decoder = whole.train(partitioned.training)
            try:
                yield
            finally:
                self.decoder = partitioned

    def destroy(self) -> None:
        """Release DeepSpeed's hooks and buffers."""
        self._deepspeed.destroy()
