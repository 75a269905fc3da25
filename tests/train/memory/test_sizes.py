"""The supported model sizes: they compose, have the right size, and DeepSpeed accepts their configuration."""

import pytest
import torch

from models.decoder import Decoder
from train.config.compose import compose
from train.engine import deepspeed_config
from train.settings import TrainSettings

GPT2_VOCABULARY = 50_257
PARAMETERS = {"1.3b": 1_420_396_544, "3b": 2_795_276_800}
GPU_TOKENS_S = {"1.3b": 20_513, "3b": 10_811}
"""llm-foundry's published figures for MPT 1b and 3b on 8 A100 with 80 GB, in samples of 2048 tokens, per GPU."""


def settings_of(experiment):
    return compose("train", TrainSettings, [f"experiment={experiment}", "data.tokens=t", "data.order=o"])


@pytest.mark.parametrize("size", PARAMETERS)
@pytest.mark.parametrize("arm", ["pdpc", "shuffled"])
def test_experiments_build_on_the_meta_device(size, arm):
    settings = settings_of(f"{arm}_{size}")
    assert settings.arm == arm
    assert settings.output == f"runs/{arm}_{size}"
    config = settings.model.decoder_config(GPT2_VOCABULARY, 2048, end_of_text=50_256)
    with torch.device("meta"):
        built = sum(parameter.numel() for parameter in Decoder(config).parameters())
    assert built == config.parameter_count() == PARAMETERS[size]


@pytest.mark.parametrize("size", PARAMETERS)
def test_the_arms_differ_only_in_name_and_folder(size):
    from dataclasses import asdict

    one, other = (asdict(settings_of(f"{arm}_{size}")) for arm in ("pdpc", "shuffled"))
    assert {key for key in one if one[key] != other[key]} == {"arm", "output"}


@pytest.mark.parametrize("size", PARAMETERS)
@pytest.mark.parametrize(("gpus", "least", "most"), [(8, 3.0, 4.0), (64, 0.4, 0.5)])
def test_hours_between_checkpoints(size, gpus, least, most):
    tokens = settings_of(f"pdpc_{size}").checkpoints.save_every * 1024 * 2048
    assert least < tokens / (gpus * GPU_TOKENS_S[size]) / 3600 < most


@pytest.mark.parametrize("size", PARAMETERS)
@pytest.mark.parametrize("world_size", [8, 64])
def test_deepspeed_accepts_the_configuration(size, world_size, monkeypatch):
    from deepspeed.runtime.config import DeepSpeedConfig

    monkeypatch.setattr("deepspeed.comm.get_world_size", lambda *_: world_size)
    monkeypatch.setattr("deepspeed.comm.get_rank", lambda *_: 0)
    made = deepspeed_config(settings_of(f"pdpc_{size}"), 1024, world_size)
    read = DeepSpeedConfig(made)
    assert read.train_batch_size == 1024
    assert read.gradient_accumulation_steps * read.train_micro_batch_size_per_gpu * world_size == 1024
    assert read.zero_optimization_stage == 1
    assert read.bfloat16_config.enabled
    assert read.gradient_clipping == 1.0
    assert read.zero_config.reduce_bucket_size == 250_000_000  # elements: 500 MB in bf16


@pytest.mark.parametrize(
    ("batch", "world", "message"), [(100, 8, "world_size=8"), (48, 4, r"micro_batch_size=\[1, 2, 3, 4, 6, 12\]")]
)
def test_a_batch_that_cannot_be_split_is_rejected(batch, world, message):
    with pytest.raises(ValueError, match=message):
        deepspeed_config(settings_of("pdpc_1.3b"), batch, world)
