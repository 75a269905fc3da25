"""LoRA (Hu et al., arXiv 2106.09685): a frozen matrix plus a trained product of two small ones, in peft's file format.

    y = x W^T + (alpha / rank) * x A^T B^T

A starts random and B at zero, so that the model starts unchanged. Only A and B have gradients and optimizer state.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import LORA_TARGETS as TARGETS
from models.config import DecoderConfig, Lora
from models.decoder import Decoder
from models.huggingface.names import tensor_names

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = ("lora_A", "lora_B")


def shapes(config: DecoderConfig, lora: Lora) -> dict[str, torch.Size]:
    """Return the shape of every trained parameter by name."""
    with torch.device("meta"):
        return trained(adapted(Decoder(config), lora, None))


class LoraLinear(nn.Linear):
    """A linear layer without bias whose `weight` is frozen."""

    def __init__(self, base: nn.Linear, lora: Lora) -> None:
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight = base.weight
        self.weight.requires_grad_(False)
        self.scale = lora.scale
        device, dtype = base.weight.device, base.weight.dtype
        self.lora_A = nn.Parameter(torch.zeros(lora.rank, base.in_features, device=device, dtype=dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, lora.rank, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the adapted matrix."""
        return F.linear(x, self.weight) + F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale


def adapted(decoder: Decoder, lora: Lora, seed: int | None) -> Decoder:
    """Freeze a decoder and add adapters to it, in place; `seed` draws A as peft does (None: A is zero)."""
    decoder.requires_grad_(False)
    decoder.lora = lora
    for module in decoder.layers.modules():
        for name, child in list(module.named_children()):
            if name in lora.targets and isinstance(child, nn.Linear):
                setattr(module, name, LoraLinear(child, lora))
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in decoder.named_parameters():
            if name.endswith("lora_A"):
                bound = 1 / math.sqrt(parameter.shape[1])  # kaiming_uniform_ with a = sqrt(5)
                with torch.no_grad():
                    parameter.uniform_(-bound, bound, generator=generator)
    return decoder


def trained(decoder: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of the parameters that are trained, by name, also where ZeRO 3 has partitioned them."""
    return {
        name: torch.Size(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in decoder.named_parameters()
        if parameter.requires_grad
    }


def merged(base: Mapping[str, Tensor], adapter: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """Return the weights of the plain decoder: W + scale * B A."""
    state = dict(base)
    for name in adapter:
        if name.endswith(".lora_A"):
            stem = name.removesuffix(".lora_A")
            product = adapter[f"{stem}.lora_B"].float() @ adapter[name].float()
            state[f"{stem}.weight"] = state[f"{stem}.weight"].float() + lora.scale * product
    return state


def write_adapter(
    folder: Path, config: DecoderConfig, lora: Lora, adapter: Mapping[str, Tensor], base: str | None
) -> None:
    """Write an adapter as peft does; `base` is the folder or name of the model that it belongs to."""
    from safetensors.torch import save_file

    theirs = _peft_names(config, lora)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {theirs[name]: tensor.detach().float().cpu().contiguous() for name, tensor in adapter.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    modules = sorted({name.split(".")[-3] for name in theirs.values()})
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def read_adapter(folder: Path, config: DecoderConfig) -> tuple[Lora, dict[str, Tensor]]:
    """Return an adapter that peft or `write_adapter` wrote, by the decoder's names.

    Raises ValueError, naming the file and the field, for one that computes something else than LoRA on our targets.
    """
    from safetensors.torch import load_file

    path = folder / CONFIG
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} is not an adapter: it needs {CONFIG} and {WEIGHTS}, as peft's save_pretrained writes"
        )
    raw: dict[str, Any] = json.loads(path.read_text("utf-8"))
    plain = {"peft_type": "LORA", "bias": "none", "use_rslora": False, "use_dora": False, "fan_in_fan_out": False}
    plain |= {"modules_to_save": None, "layers_to_transform": None, "rank_pattern": {}, "alpha_pattern": {}}
    for key, value in plain.items():
        if raw.get(key, value) not in (value, None) and not (raw[key] in ([], {}) and value in (None, {})):
            raise ValueError(f"{path}: {key}={raw[key]!r} is not supported, only {value!r}: train another adapter")
    every = _peft_names(config, Lora(int(raw["r"]), float(raw["lora_alpha"]), TARGETS))
    stored = load_file(folder / WEIGHTS)
    ours = {theirs: name for name, theirs in every.items() if theirs in stored}
    if unknown := sorted(set(stored) - set(ours)):
        raise ValueError(f"{folder / WEIGHTS}: {unknown[0]} is not an adapter of a matrix in {', '.join(TARGETS)}")
    found = {name.split(".")[-2] for name in ours.values()}
    lora = Lora(int(raw["r"]), float(raw["lora_alpha"]), tuple(name for name in TARGETS if name in found))
    adapter = {ours[theirs]: tensor.float() for theirs, tensor in stored.items()}
    for name, shape in shapes(config, lora).items():
        if name not in adapter or adapter[name].shape != shape:
            there = "missing" if name not in adapter else f"of shape {tuple(adapter[name].shape)}, not {tuple(shape)}"
            raise ValueError(f"{folder / WEIGHTS}: {_peft_names(config, lora)[name]} is {there}: it is another model's")
    return lora, adapter


def facts_of(lora: Lora | None) -> dict[str, Any] | None:
    """Return what a checkpoint records of the adapters."""
    return None if lora is None else asdict(lora)


def of_facts(facts: Mapping[str, Any] | None) -> Lora | None:
    """Return the adapters that a checkpoint records."""
    return None if facts is None else Lora(int(facts["rank"]), float(facts["alpha"]), tuple(facts["targets"]))


def _peft_names(config: DecoderConfig, lora: Lora) -> dict[str, str]:
    """Return peft's name of every trained parameter by ours."""
    names = tensor_names(config)
    found = {}
    for name in names:
        stem, _, last = name.rpartition(".")
        if last == "weight" and stem.startswith("layers.") and stem.split(".")[-1] in lora.targets:
            for part in PARTS:
                found[f"{stem}.{part}"] = f"{PREFIX}{names[name][0].removesuffix('weight')}{part}.weight"
    return found
