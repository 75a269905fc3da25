"""The least memory of a run: its parts, what is rejected for lack of it, and that no run uses less."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from models.execution import ExecutionSettings
from train.config.compose import compose
from train.evaluation.heldout import HeldoutSettings
from train.memory.available import AvailableMemory, available_memory, oom_kills
from train.memory.footprint import advice, check_fits, footprint, remedies
from train.settings import TrainSettings, ZeroSettings

ROOT = Path(__file__).parents[3]
GB = 10**9
WORDS = ["model=1.3b", "output=o", "arm=a", "data.tokens=t", "data.order=o", "micro_batch_size=8"]
SETTINGS = compose("train", TrainSettings, WORDS)
DECODER = SETTINGS.model.decoder_config(50_257, 2048, None)
PARAMETERS = 1_420_396_544
PARAMETERS_OF_A_BLOCK = 4 * 2048 * 2048 + 3 * 2048 * 5504 + 2 * 2048


def of(ranks: int = 8, cuda: bool = True, **changes):
    return footprint(replace(SETTINGS, **changes), DECODER, 512, ranks, cuda=cuda)


def check(available: AvailableMemory, ranks: int = 8, local_ranks: int = 8, **changes) -> str | None:
    return check_fits(replace(SETTINGS, **changes), DECODER, 512, ranks, local_ranks, available)


@pytest.mark.parametrize(
    ("stage", "precision", "weights", "gradients", "optimizer"),
    [
        (0, "bf16", 2, 4, 12),
        (1, "bf16", 2, 4, 12 / 8),
        (2, "bf16", 2, 4 / 8, 12 / 8),
        (3, "bf16", 2 / 8, 4 / 8, 12 / 8),
        (0, "fp32", 4, 4, 8),
        (1, "fp32", 4, 4, 12 / 8),
        (3, "fp32", 4 / 8, 4 / 8, 12 / 8),
    ],
)
def test_bytes_per_parameter(stage, precision, weights, gradients, optimizer):
    need = of(zero=ZeroSettings(stage), precision=precision)
    assert (need.weights, need.gradients, need.optimizer) == (
        weights * PARAMETERS,
        gradients * PARAMETERS,
        optimizer * PARAMETERS,
    )


def test_activations_match_the_docs():
    """docs/models.md: 1.58 MB per token for the 1.3b in bf16, plus the output of the last block."""
    need = of()
    assert need.activations == 8 * 2048 * (24 * 2 * (4 * 2048 + 4 * 2048 + 3 * 5504) + 2 * 2048)
    assert need.activations / (8 * 2048) == pytest.approx(1.58e6, rel=0.01)
    modes = {mode: of(execution=ExecutionSettings(checkpointing=mode)).activations for mode in ("selective", "full")}
    assert modes["full"] < modes["selective"] < need.activations


def test_gathered_weights_and_a_held_out_batch_are_counted():
    for stage, gathered, head in ((2, 0, 0), (3, 2 * 50_304 * 2048 + PARAMETERS_OF_A_BLOCK + 2048, 50_304 * 2048)):
        need = of(zero=ZeroSettings(stage))
        heldout = 16 * 2048 * (2048 + 3 * 5504)
        assert need.evaluation == 2 * (gathered + heldout)
        assert need.evaluating == need.weights + need.optimizer + need.evaluation
        step = need.activations + need.logits + 2 * head
        assert need.training == need.weights + need.optimizer + need.gradients + step
    few = replace(SETTINGS.heldout, max_samples=4)
    assert of(heldout=few).evaluation == of().evaluation // 4


def test_a_smaller_held_out_batch_is_named_where_the_evaluation_needs_most():
    small = {"micro_batch_size": 1, "execution": ExecutionSettings(checkpointing="full")}
    need = of(**small, heldout=replace(SETTINGS.heldout, batch_size=512))
    assert need.evaluating > need.training
    with pytest.raises(ValueError, match=r"evaluation 38.\d+ GB.*Closest that may fit: heldout.batch_size=64$"):
        check(AvailableMemory(device=18 * GB, host=1000 * GB), **small, heldout=HeldoutSettings(batch_size=512))


def test_offloading_moves_states_to_the_host():
    zero = ZeroSettings(stage=3, offload_optimizer="cpu", offload_param="cpu")
    need = of(zero=zero)
    assert (need.weights, need.gradients, need.optimizer) == (0, 0, 0)
    assert need.host == max(4, 12 / 8) * PARAMETERS


def test_a_run_that_fits_passes_and_one_that_cannot_is_rejected_with_its_parts():
    need = of()
    assert check(AvailableMemory(device=80 * GB, host=1000 * GB)) is None
    assert check(AvailableMemory(device=need.total, host=1000 * GB)) is None
    assert check(AvailableMemory()) is None
    with pytest.raises(ValueError, match="the run cannot fit: a rank needs at least") as caught:
        check(AvailableMemory(device=need.total - 1, host=1000 * GB))
    for words in ("weights 2.84 GB", "gradients 5.68 GB", "optimizer 2.13 GB", "activations", "micro_batch_size=4"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("gigabytes", "words"),
    [
        (20, r"micro_batch_size=2$"),
        (12.0, r"micro_batch_size=1 execution\.checkpointing="),
        (8, r"zero\.stage=2$"),
        (3.6, r"zero\.offload_optimizer=cpu"),
        (0.5, r"No setting needs less on these ranks"),
    ],
)
def test_the_closest_setting_that_may_fit_is_named(gigabytes, words):
    with pytest.raises(ValueError, match=words):
        check(AvailableMemory(device=int(gigabytes * GB), host=1000 * GB))


def test_the_ranks_of_a_machine_share_its_memory():
    settings = replace(SETTINGS, precision="fp32")
    one = footprint(settings, DECODER, 512, 2, cuda=False).total
    assert check_fits(settings, DECODER, 512, 2, 1, AvailableMemory(host=one)) is None
    with pytest.raises(ValueError, match="of host memory for 2 ranks"):
        check_fits(settings, DECODER, 512, 2, 2, AvailableMemory(host=2 * one - 1))
    with pytest.raises(ValueError, match="ulimit -v"):
        check_fits(settings, DECODER, 512, 2, 1, AvailableMemory(host=9 * one, process=one - 1))
    assert "are free now" in str(check_fits(settings, DECODER, 512, 2, 2, AvailableMemory(host=9 * one, free=one)))


def test_no_remedy_needs_more_and_all_keep_the_global_batch():
    needs = [footprint(changed, DECODER, 512, 8, cuda=True) for _, changed in remedies(SETTINGS, 512, 8, cuda=True)]
    totals = [need.total for need in (of(), *needs)]
    assert totals == sorted(totals, reverse=True)
    assert [words for words, _ in remedies(SETTINGS, 512, 8, cuda=True)][:3] == [
        "micro_batch_size=4",
        "micro_batch_size=2",
        "micro_batch_size=1",
    ]


def test_a_smaller_micro_batch_is_not_advised_where_it_changes_nothing():
    available = AvailableMemory(device=80 * GB, free=3 * GB)
    in_a_step = advice(SETTINGS, DECODER, 512, 8, available, states=False)
    assert "its GPU has 80.00 GB, 3.00 GB are free now. Run again with micro_batch_size=4 " in in_a_step
    assert "Run again with zero.stage=2 " in advice(SETTINGS, DECODER, 512, 8, available, states=True)
    assert "No setting" in advice(SETTINGS, DECODER, 512, 1, AvailableMemory(free=GB), states=True)


@pytest.mark.parametrize(
    ("line", "limit", "kills"),
    [
        ("0::/a/b", {"sys/fs/cgroup/a/memory.max": "3000000\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 3_000_000),
        ("4:memory:/job", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000"}, 2_000_000),
        ("4:memory:/job", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 5000 * 1024),
        ("2:cpu:/", {"sys/fs/cgroup/cpu/memory.max": "1"}, 5000 * 1024),
    ],
)
def test_the_least_limit_of_machine_and_control_groups_counts(tmp_path, line, limit, kills):
    files = {
        "proc/meminfo": "MemTotal: 4000 kB\nMemAvailable: 1500 kB\nSwapTotal: 1000 kB\nHugePages_Total: 0\n",
        "proc/self/cgroup": f"{line}\n",
        "sys/fs/cgroup/a/b/memory.events": "oom 3\noom_kill 2\n",
        "sys/fs/cgroup/memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
        **limit,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    available = available_memory(cuda_device=None, root=tmp_path)
    assert (available.host, available.free) == (kills, 1500 * 1024)
    assert oom_kills(tmp_path) == {"0": 2, "4": 5}.get(line[0], 0)


def test_a_machine_with_unknown_memory_rejects_nothing(tmp_path):
    available = available_memory(cuda_device=None, root=tmp_path)
    assert (available.host, available.free, oom_kills(tmp_path)) == (None, None, 0)


def test_no_run_uses_less_than_estimated():
    names = ["fp32, stage 1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.memory.peak_memory", "--small", *names],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    assert [name for name, _, _ in rows] == names
    for name, least, peak in rows:
        assert 0.1 < least / peak <= 1.0, (name, least, peak)
