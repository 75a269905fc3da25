"""Stage 0 in bf16, which DeepSpeed gets wrong: here with its stage-1 optimizer, over process groups of one rank.

For bf16 without ZeRO, DeepSpeed 0.19.8 starts with an AdamW step on zero gradients (the master weights decay and the
update count is off by one) and sums micro-batches in bfloat16: there `grad_accum_dtype: fp32` is NotImplemented.
BF16_Optimizer, its choice at stage 1, does neither. With a process group of one rank it splits nothing, while the
engine reduces its float32 gradient sums over all ranks: losses are bit-identical to stage 1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from train.distributed.world import World


def replicated_engine(decoder: nn.Module, adamw: torch.optim.Optimizer, config: dict[str, Any], world: World) -> Any:
    """Return a DeepSpeedEngine in which every rank holds all master weights and moments."""
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.engine import DeepSpeedEngine

    own_group = dist.new_group([world.rank], use_local_synchronization=True)

    class ReplicatedEngine(DeepSpeedEngine):  # type: ignore[misc]  # DeepSpeed has no types here
        """DeepSpeed's engine with BF16_Optimizer and without ZeRO."""

        def _configure_optimizer(self, client_optimizer: torch.optim.Optimizer, model_parameters: object) -> None:
            self.basic_optimizer = client_optimizer
            self.optimizer = BF16_Optimizer(
                client_optimizer,
                self.param_names,
                bfloat16_config=self._config.bfloat16_config,
                clip_grad=self.gradient_clipping(),
                dp_process_group=own_group,
                timers=self.timers,
                grad_acc_dtype=torch.float32,
            )

    return ReplicatedEngine(
        args=None, model=decoder, optimizer=adamw, config=config, config_class=DeepSpeedConfig(config)
    )
