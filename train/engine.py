"""The engine: a decoder under DeepSpeed, its configuration, and its state by parameter name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curriculum.split import Split
from models.attention import Documents
from models.decoder import Decoder
from train.settings import OptimizerSettings, TrainSettings
from train.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")


def deepspeed_config(settings: TrainSettings, batch_size: int, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's JSON for a run: the one place where it is made.

    Raises ValueError when the global batch cannot be split into micro-batches over the ranks.
    """
    split = Split(batch_size, world_size, settings.micro_batch_size)
    element_bytes = 2 if settings.precision == "bf16" else 4
    bucket = settings.zero.bucket_mb * 1_000_000 // element_bytes  # DeepSpeed counts elements
    return {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": split.accumulation,
        "gradient_clipping": settings.optimizer.clip_norm,
        "bf16": {"enabled": settings.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": settings.zero.stage,
            "overlap_comm": settings.zero.overlap_comm,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def parameter_groups(decoder: Decoder, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices with decay, norms without."""
    parameters = list(decoder.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


@dataclass(frozen=True)
class Fragment:
    """The part of a parameter whose float32 master weights and moments this rank holds; views, all of equal length."""

    name: str
    start: int
    """Offset in the flattened parameter."""
    tensors: dict[str, Tensor]
    """"param", "exp_avg" and "exp_avg_sq"."""


class Engine:
    """A decoder and its AdamW under DeepSpeed ZeRO 1 or 2.

    `engine(ids_BS)` runs the model; `backward` and `step` follow every micro-batch; the weights move after the last one
    of a step.
    """

    def __init__(self, decoder: Decoder, settings: TrainSettings, batch_size: int, world: World) -> None:
        import deepspeed

        self.config = deepspeed_config(settings, batch_size, world.size)
        self.micro_batches: int = self.config["gradient_accumulation_steps"]
        self.world = world
        self.decoder = decoder
        adamw = torch.optim.AdamW(
            parameter_groups(decoder, settings.optimizer),
            lr=settings.optimizer.lr,
            fused=True,
            betas=(settings.optimizer.beta1, settings.optimizer.beta2),
            eps=settings.optimizer.eps,
        )
        decoder.to(world.device)
        with redirect_stdout(io.StringIO()):  # it prints memory figures that nobody asked for
            self._deepspeed, *_ = deepspeed.initialize(
                model=decoder, optimizer=adamw, config=self.config, dist_init_required=False
            )
        self._adamw: torch.optim.Optimizer = self._deepspeed.optimizer.optimizer

    def __call__(self, ids_BS: Tensor, documents: Documents | None = None) -> Any:
        """Return the TokenLosses of a batch; `documents` as in `Decoder.forward`."""
        return self._deepspeed(ids_BS, documents)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's share of the step's mean loss."""
        # DeepSpeed averages over ranks; the loss is a share of a mean already, so it is scaled to be summed.
        self._deepspeed.backward(loss * self.world.size, scale_wrt_gas=False)

    def step(self) -> None:
        """Count a micro-batch; after the last one of a step move the weights."""
        self._deepspeed.step()

    def skip(self) -> None:
        """Drop the gradients of this step: neither weights nor moments move."""
        raise NotImplementedError

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of the next weight update."""
        for group in self._adamw.param_groups:
            group["lr"] = value

    def gradient_norm(self) -> float:
        """Return the global gradient norm, before clipping, of the last weight update."""
        return float(self._deepspeed.get_global_grad_norm())

    def updates(self) -> int:
        """Return how often the weights have moved."""
        states = list(self._adamw.state.values())
        return int(states[0]["step"].item()) if states else 0

    def fragments(self) -> Iterator[Fragment]:
        """Yield this rank's part of the optimizer's state, parameter by parameter."""
        flats = [group["params"][0] for group in self._adamw.param_groups]
        for name, parameter in self.decoder.named_parameters():
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed's: which part of it lies on this rank
            if mapping is None:
                continue
            flat = flats[mapping.param_group_index]
            where = mapping.hp_fragment_address
            tensors = {"param": mapping.hp_fragment}
            tensors |= {
                moment: self._adamw.state[flat][moment].narrow(0, where.start, where.numel) for moment in MOMENTS
            }
            yield Fragment(name, mapping.lp_fragment_address.start, tensors)

    def prepare_state(self, updates: int) -> None:
        """Create zero moments and set the update count, so that `fragments` can be filled from a checkpoint."""
        for group in self._adamw.param_groups:
            flat = group["params"][0]
            self._adamw.state[flat] = {
                "step": torch.tensor(float(updates), dtype=torch.float32, device=flat.device),
                **{moment: torch.zeros_like(flat) for moment in MOMENTS},
            }

    def destroy(self) -> None:
        """Release DeepSpeed's hooks and buffers."""
        self._deepspeed.destroy()
