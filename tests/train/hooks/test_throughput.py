import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models.config import DecoderConfig
from train.distributed.world import World
from train.hooks.throughput import Throughput, peak_gib, peak_of, peak_tflops
from train.settings import ThroughputSettings

CPU = torch.device("cpu")
CONFIG = DecoderConfig(vocab_size=64, layers=2, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=16)
PHASES = ("forward", "backward", "optimizer")


def loop_of(peak=None, precision="fp32"):
    settings = SimpleNamespace(throughput=ThroughputSettings(peak), precision=precision)
    decoder = torch.nn.Identity()
    inputs = SimpleNamespace(decoder=CONFIG, tokens=SimpleNamespace(seq_len=32))
    loop = SimpleNamespace(
        world=World(0, 1, 0, 1, CPU),
        engine=SimpleNamespace(decoder=decoder),
        inputs=inputs,
        progress=SimpleNamespace(tokens=0),
        window=SimpleNamespace(waited_s=0.0),
    )
    hook = Throughput(settings)
    hook.pre_train(loop)
    return hook, loop, decoder


@pytest.fixture(autouse=True)
def _own_clock(monkeypatch):
    """Time passes only in sleeps, so that no number depends on the machine."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))


def step(hook, loop, decoder, tokens=1000, micro_batches=2, wait_s=0.0, passes=1):
    time.sleep(wait_s)
    loop.window.waited_s += wait_s
    batch = SimpleNamespace(global_tokens=tokens)
    hook.pre_step(loop, batch)
    for index in range(micro_batches):
        for _ in range(passes):
            decoder(torch.zeros(1))
            time.sleep(0.004)
        hook.post_forward(loop, batch, index, None)
        time.sleep(0.008)
    assert hook.pre_optim_step(loop) is None
    time.sleep(0.002)
    loop.progress.tokens += tokens
    hook.post_step(loop, batch)


def test_the_time_of_a_step_is_split_and_checkpoints_are_excluded():
    hook, loop, decoder = loop_of()
    for _ in range(3):
        step(hook, loop, decoder, wait_s=0.005)
        time.sleep(0.2)
        hook.post_checkpoint(loop, Path("step"))
    step(hook, loop, decoder)
    record = hook.metrics(loop)
    assert record["time/step_s"] == pytest.approx(0.026 + 0.015 / 4)
    assert record["time/forward_s"] == pytest.approx(0.008)
    assert record["time/backward_s"] == pytest.approx(0.016)
    assert record["time/optimizer_s"] == pytest.approx(0.002)
    assert record["data/wait_s"] == pytest.approx(0.015 / 4)
    parts = sum(record[f"time/{name}_s"] for name in (*PHASES, "other")) + record["data/wait_s"]
    assert parts == pytest.approx(record["time/step_s"], rel=1e-6)
    assert record["throughput/tokens_per_s"] == pytest.approx(1000 / record["time/step_s"])
    assert record["throughput/tokens_total"] == 4000
    assert record["memory/peak_gib"] > 0.05
    assert "throughput/mfu" not in record


def test_all_forward_passes_of_an_objective_are_forward_time():
    hook, loop, decoder = loop_of()
    step(hook, loop, decoder, passes=5)
    record = hook.metrics(loop)
    assert record["time/forward_s"] == pytest.approx(2 * 5 * 0.004)
    assert record["time/backward_s"] == pytest.approx(0.016)


def test_time_of_the_loop_between_two_steps_counts_as_step_time():
    hook, loop, decoder = loop_of()
    step(hook, loop, decoder)
    time.sleep(0.2)  # ranks ask each other for signals
    step(hook, loop, decoder)
    record = hook.metrics(loop)
    assert record["time/step_s"] == pytest.approx(0.026 + 0.1)
    assert record["time/other_s"] == pytest.approx(0.1)


def test_the_next_window_starts_from_zero():
    hook, loop, decoder = loop_of()
    step(hook, loop, decoder, wait_s=0.1)
    hook.metrics(loop)
    loop.window.waited_s = 0.0
    step(hook, loop, decoder, micro_batches=1)
    record = hook.metrics(loop)
    assert record["data/wait_s"] == 0.0
    assert record["time/step_s"] == pytest.approx(0.014)


def test_mfu_is_operations_over_the_peak_in_both_conventions():
    hook, loop, decoder = loop_of(peak=0.001)
    step(hook, loop, decoder)
    record = hook.metrics(loop)
    a_second = record["throughput/tokens_per_s_device"]
    products = 2 * (2 * 16 * (16 + 8) + 3 * 16 * 24) + 64 * 16
    attention = 12 * 2 * 16 * 32
    assert record["throughput/mfu"] == pytest.approx((6 * products + attention) * a_second / 1e9)
    assert record["throughput/mfu_causal"] == pytest.approx((6 * products + attention / 2) * a_second / 1e9)
    assert record["throughput/tflops_device"] == pytest.approx(record["throughput/mfu"] * 0.001)


def test_an_evaluation_is_not_a_step():
    hook, loop, decoder = loop_of()
    step(hook, loop, decoder)
    decoder(torch.zeros(1))
    assert len(hook._spans) == 5
    hook.close(loop)
    assert not decoder._forward_pre_hooks


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA A800-SXM4-80GB", 312.0),
        ("NVIDIA A800 80GB PCIe", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H800", 989.0),
        ("NVIDIA H800 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA H200 NVL", 835.0),
        ("NVIDIA H20", 148.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L40", None),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_peaks_are_known_by_the_device_name(name, peak):
    assert peak_of(name) == peak


def test_a_cpu_has_no_peak_unless_the_settings_give_one(monkeypatch):
    def settings(peak, precision="bf16"):
        return SimpleNamespace(throughput=ThroughputSettings(peak), precision=precision)

    assert peak_tflops(settings(None), CPU) is None
    assert peak_tflops(settings(0.2), CPU) == 0.2
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    cuda = torch.device("cuda", 0)
    assert peak_tflops(settings(None), cuda) == 312.0
    assert peak_tflops(settings(None, "fp32"), cuda) is None
    with pytest.raises(ValueError, match=r"throughput\.peak_tflops=0\.0 must be above 0"):
        ThroughputSettings(0.0)


def test_the_peak_of_memory_never_falls():
    before = peak_gib(CPU)
    block = bytearray(64 << 20)
    assert peak_gib(CPU) >= before > 0.0
    del block
