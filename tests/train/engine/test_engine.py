"""The engine on one rank: its JSON, the DeepSpeed problems it avoids, and the settings it rejects."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import DecoderConfig
from models.decoder import build
from tests.composed import train_settings
from train.engine import MOMENTS, Engine, deepspeed_config
from train.settings import ZeroSettings

ROOT = Path(__file__).parents[3]
CONFIG = DecoderConfig(vocab_size=64, layers=2, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=16, end_of_text=0)
WORDS = ["output=o", "arm=a", "data.tokens=t", "data.order=o", "micro_batch_size=2"]
STAGES = pytest.mark.parametrize("stage", [0, 1, 2, 3])
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def settings_of(*words):
    return train_settings(*WORDS, *words)


def make(world, *words, config=CONFIG, seed=0):
    settings = settings_of(*words)
    return Engine(build(config, seed, settings.execution), settings, 4, world)


def steps(engine, first, last):
    losses = []
    for step in range(first, last):
        engine.set_learning_rate(1e-2)
        ids = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(step))
        for part in ids.split(2):
            out = engine(part)
            engine.backward(out.total / 64)
            losses.append(out.total.item())
        engine.step()
    return losses


def test_the_json_follows_the_settings():
    made = deepspeed_config(settings_of("zero.stage=2", "precision=bf16", "optimizer.clip_norm=0.5"), 16, 2)
    assert made["train_batch_size"] == 16
    assert made["gradient_accumulation_steps"] == 4
    assert made["gradient_clipping"] == 0.5
    assert made["bf16"] == {"enabled": True, "check_grad_overflow": False}
    assert made["communication_data_type"] == "fp32"
    assert made["zero_optimization"]["stage"] == 2
    assert "offload_optimizer" not in made["zero_optimization"]


def test_offloading_is_passed_on(monkeypatch):
    from deepspeed.runtime.config import DeepSpeedConfig

    monkeypatch.setattr("deepspeed.comm.get_world_size", lambda *_: 8)
    monkeypatch.setattr("deepspeed.comm.get_rank", lambda *_: 0)
    words = ["zero.stage=3", "zero.offload_optimizer=cpu", "zero.offload_param=nvme", "zero.nvme_path=/fast"]
    made = deepspeed_config(settings_of(*words, "zero.nvme_requests=32", "zero.sub_group_size=1000"), 16, 8)
    on_nvme = {"device": "nvme", "pin_memory": True, "nvme_path": "/fast"}
    assert made["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert made["zero_optimization"]["offload_param"] == {**on_nvme, "max_in_cpu": 0}
    assert made["zero_optimization"]["sub_group_size"] == 1000
    assert made["aio"] == {"block_size": 1 << 20, "queue_depth": 32}
    read = DeepSpeedConfig(made)
    assert read.zero_config.offload_param.device == "nvme"
    assert str(read.zero_config.offload_param.nvme_path) == "/fast"
    assert read.zero_force_ds_cpu_optimizer is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stage": 4}, "zero.stage=4 is not supported: use 0, 1, 2 or 3"),
        ({"reduce_in": "fp16"}, "zero.reduce_in='fp16' is unknown"),
        ({"stage": 0, "offload_optimizer": "cpu"}, "zero.offload_optimizer=cpu needs zero.stage=1 or higher"),
        ({"stage": 2, "offload_param": "cpu"}, "zero.offload_param=cpu needs zero.stage=3"),
        ({"stage": 3, "offload_param": "nvme"}, "zero.offload_param=nvme needs zero.nvme_path"),
        (
            {"stage": 2, "offload_optimizer": "nvme", "nvme_path": "/n"},
            "zero.offload_optimizer=nvme needs zero.stage=3",
        ),
        ({"stage": 3, "offload_optimizer": "nvme"}, "zero.offload_optimizer=nvme needs zero.nvme_path"),
        ({"sub_group_size": 0}, "zero.sub_group_size=0 must be at least 1"),
        ({"stage": 3, "offload_optimizer": "disk"}, "zero.offload_optimizer='disk' is unknown"),
    ],
)
def test_invalid_settings_are_rejected(values, message):
    with pytest.raises(ValueError, match=message):
        ZeroSettings(**values)


@pytest.mark.parametrize(
    "words",
    [
        ["zero.stage=1", "zero.offload_optimizer=cpu", "precision=bf16"],
        ["zero.stage=2", "zero.offload_optimizer=cpu", "precision=fp32"],
        ["zero.stage=3", "zero.offload_optimizer=cpu", "zero.offload_param=cpu", "precision=bf16"],
    ],
)
def test_an_offloaded_optimizer_trains_skips_and_resumes_like_one_on_the_device(world, words):
    """With DeepSpeed's own way of skipping it, a skipped step leaks into the next one."""
    plain = make(world, words[0], words[-1])
    offloaded = make(world, *words)
    assert steps(offloaded, 0, 3) == pytest.approx(steps(plain, 0, 3), rel=1e-5)
    for part in torch.randint(0, 64, (4, 17)).split(2):
        offloaded.backward(offloaded(part).total / 64)
    assert offloaded.gradient_norm() > 0
    offloaded.step(torch.ones(()))
    assert steps(offloaded, 3, 5) == pytest.approx(steps(plain, 3, 5), rel=1e-3)
    assert offloaded.updates() == 5


def test_deepspeeds_own_bf16_without_zero_starts_with_a_step_and_ours_does_not(world):
    """The red control: DeepSpeed's own optimizer has counted an update before training starts."""
    import deepspeed

    decoder = build(CONFIG, 0)
    config = deepspeed_config(settings_of("zero.stage=0", "precision=bf16"), 4, 1)
    adamw = torch.optim.AdamW(decoder.parameters(), lr=1e-2, weight_decay=0.1)
    config["data_types"] = {"grad_accum_dtype": "bf16"}  # fp32 is not implemented there
    theirs, *_ = deepspeed.initialize(model=decoder, optimizer=adamw, config=config, dist_init_required=False)
    counts = {int(state["step"]) for state in theirs.optimizer.optimizer.state.values()}
    theirs.destroy()
    assert counts == {1}, "DeepSpeed has been mended: train/engine/zero0.py may go"

    ours = make(world, "zero.stage=0", "precision=bf16")
    fresh = build(CONFIG, 0).state_dict()
    assert ours.updates() == 0
    for fragment in ours.fragments():
        assert torch.equal(fragment.tensors["param"], fresh[fragment.name].bfloat16().float().flatten())
        assert not any(fragment.tensors[moment].any() for moment in MOMENTS)


@STAGES
@PRECISIONS
def test_every_master_tensor_counts_its_own_updates(world, stage, precision):
    """Sub-groups of stage 3 that share one count advance it once each."""
    engine = make(world, f"zero.stage={stage}", f"precision={precision}")
    engine.prepare_state(10)
    steps(engine, 0, 3)
    counts = [state["step"] for state in engine._adamw.state.values()]
    assert len({count.data_ptr() for count in counts}) == len(counts) > 1
    assert {int(count) for count in counts} == {13}
    assert engine.updates() == 13


@STAGES
def test_the_gradient_norm_is_that_of_plain_torch(world, stage):
    """DeepSpeed's is None in fp32 without ZeRO."""
    engine = make(world, f"zero.stage={stage}", "precision=fp32")
    steps(engine, 0, 1)
    plain = build(CONFIG, 0)
    (plain(torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(0))).total / 64).backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()])
    assert engine.gradient_norm() == pytest.approx(float(expected), rel=1e-5)


def test_a_start_is_quiet_and_loads_no_compiler():
    program = (
        "import sys\n"
        "from tests.train.engine.test_engine import make, steps\n"
        "from train.engine.communication import start\n"
        "steps(make(start(threads=1), 'zero.stage=1', 'precision=bf16'), 0, 1)\n"
        "print('compiler', 'torch._inductor.compile_fx' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout == "compiler False\n", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("stage", "offload"), [*((stage, "none") for stage in range(4)), *((stage, "cpu") for stage in (1, 2, 3))]
)
@PRECISIONS
def test_the_update_clips_by_the_norm_that_the_guards_saw(world, stage, precision, offload):
    """DeepSpeed computes no norm itself: a gradient whose norm is reported as twice the limit is halved."""
    made = [f"zero.stage={stage}", f"precision={precision}", f"zero.offload_optimizer={offload}"]
    first_moments = []
    for factor in (1.0, 2.0):
        engine = make(world, *made, "optimizer.clip_norm=0.01")
        for part in torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(0)).split(2):
            engine.backward(engine(part).total / 64)
        engine._norm = factor * engine.gradient_norm()
        engine.step()
        first_moments.append(torch.cat([fragment.tensors["exp_avg"].clone() for fragment in engine.fragments()]))
    assert first_moments[0].norm() == pytest.approx(0.1 * 0.01, rel=1e-3)  # 1 - beta1 of a gradient as long as allowed
    assert torch.allclose(first_moments[1], first_moments[0] / 2, rtol=1e-3, atol=0)


TIED = DecoderConfig(**{**CONFIG.__dict__, "tie_embeddings": True})


@pytest.fixture(scope="module")
def tied_losses(world):
    """Losses of a model with tied embeddings at stage 1, by precision."""
    found = {}
    for precision in ("fp32", "bf16"):
        engine = make(world, "zero.stage=1", f"precision={precision}", config=TIED)
        found[precision] = steps(engine, 0, 4)
        engine.destroy()
    return found


@pytest.mark.parametrize("stage", [0, 2, 3])
@PRECISIONS
def test_tied_embeddings_train_the_same_at_every_stage(world, tied_losses, stage, precision):
    """Stage 3 too: built whole, then partitioned; under zero.Init the first loss would be far from log(vocabulary)."""
    engine = make(world, f"zero.stage={stage}", f"precision={precision}", config=TIED)
    losses = steps(engine, 0, 4)
    assert losses[0] / 32 == pytest.approx(torch.tensor(64.0).log().item(), rel=0.1)
    assert losses == pytest.approx(tied_losses[precision], rel=1e-5 if precision == "fp32" else 2e-3)
    with engine.whole_weights():
        assert engine.decoder.head.weight is engine.decoder.embedding.weight
        assert engine.decoder.head.weight.shape == (64, 16)


@pytest.mark.parametrize("at_once", [True, False])
def test_gathered_weights_are_given_back(world, at_once):
    engine = make(world, "zero.stage=3", "precision=bf16")
    before = steps(engine, 0, 2)
    other = make(world, "zero.stage=3", "precision=bf16")
    assert steps(other, 0, 2) == before
    decoder = engine.decoder
    with pytest.raises(IndexError), engine.whole_weights(at_once=at_once):
        engine.decoder.losses(torch.full((1, 17), 999))  # no such token: an evaluation that fails
    assert engine.decoder is decoder
    assert steps(engine, 2, 4) == steps(other, 2, 4)


def test_a_step_needs_all_its_micro_batches(world):
    engine = make(world, "zero.stage=1")
    ids = torch.zeros(2, 17, dtype=torch.int64)
    engine.backward(engine(ids).total / 64)
    engine.step()
    assert engine.updates() == 0
    engine.backward(engine(ids).total / 64)
    with pytest.raises(AssertionError, match="went backward: call step"):
        engine.backward(engine(ids).total / 64)
    engine.step()
    assert engine.updates() == 1
