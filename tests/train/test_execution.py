"""Execution settings under DeepSpeed and from the command line: the same steps, and errors before training starts."""

import re

import pytest
import torch

from models import DecoderConfig
from models.decoder import build
from models.kernels import choose
from tests.composed import train_settings
from train.backends import chosen_backends
from train.config.compose import compose
from train.distributed.exit_codes import Refused
from train.engine import Engine
from train.resume.identity import identity
from train.run import train
from train.settings import TrainSettings

CONFIG = DecoderConfig(vocab_size=64, layers=3, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=16, end_of_text=0)
WORDS = ["output=o", "arm=a", "data.tokens=t", "data.order=o", "micro_batch_size=2"]


def losses(world, *words):
    settings = train_settings(*WORDS, *words)
    engine = Engine(build(CONFIG, 0, settings.execution), settings, 4, world)
    found = []
    for _ in range(4):
        engine.set_learning_rate(1e-2)
        for micro in range(engine.micro_batches):
            out = engine(torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(micro)))
            engine.backward(out.total / 64)
            engine.step()
            found.append(out.total.item())
    engine.destroy()
    return found


MODES = ("selective", "every", "full")


@pytest.mark.parametrize(
    ("stage", "precision", "modes"),
    [
        (0, "fp32", MODES),
        (1, "bf16", ("selective",)),
        (2, "fp32", ("full",)),
        (3, "fp32", MODES),
        (3, "bf16", ("every",)),
    ],
)
def test_recomputation_under_zero_is_bitwise_equal(world, stage, precision, modes):
    words = [f"zero.stage={stage}", f"precision={precision}"]
    kept = losses(world, *words)
    assert kept[-1] < kept[0]
    for mode in modes:
        assert losses(world, *words, f"execution.checkpointing={mode}") == kept


def test_execution_settings_are_not_part_of_a_runs_identity():
    plain = compose("train", TrainSettings, WORDS)
    other = compose("train", TrainSettings, [*WORDS, "execution.checkpointing=full", "execution.compile=true"])
    assert identity(plain) == identity(other)
    assert identity(plain) != identity(compose("train", TrainSettings, [*WORDS, "model.z_loss=1e-4"]))


def test_kernels_that_cannot_run_are_rejected_before_training_starts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match=r"execution.kernels=liger needs a CUDA device"):
        train(compose("train", TrainSettings, [*WORDS, "execution.kernels=liger"]))


def test_what_auto_chose_is_said_with_what_it_could_not_take(monkeypatch):
    settings = compose("train", TrainSettings, [*WORDS, "model=demo"])
    assert chosen_backends(settings) == ["attention: blocks (cpu, bf16)", "kernels: plain (cpu, bf16)"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("models.attention.flash.import_problem", lambda *_: "needs what is missing")
    monkeypatch.setattr("models.kernels.choice.import_problem", lambda *_: "needs what is missing too")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    choose.cache_clear()
    attention, kernels = chosen_backends(settings)
    assert re.fullmatch(r"attention: \w+ \(cuda, bf16; flash needs what is missing\)", attention)
    assert kernels == "kernels: plain (cuda, bf16; liger needs what is missing too)"
    named = compose("train", TrainSettings, [*WORDS, "model=demo", "model.attention=sdpa", "execution.kernels=plain"])
    assert chosen_backends(named) == ["attention: sdpa (cuda, bf16)", "kernels: plain (cuda, bf16)"]


def test_the_loop_reports_the_cross_entropy_without_the_z_loss():
    config = DecoderConfig(**{**CONFIG.__dict__, "z_loss": 0.1})
    ids = torch.randint(0, 64, (2, 17))
    plain, penalised = build(CONFIG, 0)(ids), build(config, 0)(ids)
    assert torch.equal(plain.losses_BT, penalised.losses_BT)
    assert penalised.total > plain.total
