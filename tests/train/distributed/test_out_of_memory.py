"""Out-of-memory errors, and the supervisor's message about ranks that ended without an exit code."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from launch import train
from tests.torture.runs import Material
from train import faults
from train.config.compose import compose
from train.distributed.exit_codes import FAILED, OUT_OF_MEMORY, UNREADABLE
from train.distributed.out_of_memory import OutOfMemory, needing, says_no_memory
from train.distributed.world import code_of
from train.settings import TrainSettings


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_out_of_memory_errors_are_recognized_and_say_what_for(error):
    assert says_no_memory(error)
    assert code_of(error) == OUT_OF_MEMORY
    with (
        pytest.raises(OutOfMemory, match=r"^out of memory for the step \(") as caught,
        needing("step"),
        needing("the step"),
    ):
        raise error
    assert code_of(caught.value) == OUT_OF_MEMORY


def test_torch_says_so_on_the_cpu():
    with pytest.raises(OutOfMemory, match=r"for a tensor \(.*allocate memory"), needing("a tensor"):
        torch.empty(1 << 55)


@pytest.mark.parametrize(
    "error", [RuntimeError("Connection closed by peer"), ValueError("memory"), OSError(28, "full")]
)
def test_other_errors_pass(error):
    assert not says_no_memory(error)
    with pytest.raises(type(error)) as caught, needing("anything"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(("action", "kind"), [("memory", MemoryError), ("device_memory", torch.OutOfMemoryError)])
def test_drills_raise_what_the_host_and_the_device_raise(action, kind):
    faults.arm(f"loop.before_step:{action}")
    try:
        with pytest.raises(kind):
            faults.fault("loop.before_step")
    finally:
        faults.arm("")


def test_the_supervisor_names_the_truncated_file(tmp_path, capsys):
    material = Material.make(tmp_path, stages=1, samples=40)
    settings = compose("train", TrainSettings, [*material.words, "output=unused"])
    assert train._explained(settings, killed=False) == FAILED
    assert train._explained(settings, killed=True) == OUT_OF_MEMORY
    assert "ended a process of this cgroup: lower micro_batch_size=3" in capsys.readouterr().err
    os.truncate(tmp_path / "tokens" / "train.ids.bin", 10)
    assert train._explained(settings, killed=True) == UNREADABLE
    assert "train.ids.bin has 10 bytes instead of" in capsys.readouterr().err
