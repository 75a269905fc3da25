"""State on NVMe: reads and writes, the folders, a full disk, and folders rejected before training starts."""

import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from models import DecoderConfig
from models.decoder import build
from tests.composed import train_settings
from tests.train.engine.test_engine import steps
from train import checkpoint
from train.distributed.exit_codes import DISK_FULL
from train.distributed.world import code_of
from train.engine import Engine, check_swap, config
from train.engine.nvme import handle as disk
from train.engine.nvme.folder import SwapFolder
from train.engine.nvme.handle import DiskHandle, reserve
from train.settings import ZeroSettings

CONFIG = DecoderConfig(vocab_size=64, layers=2, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=16, end_of_text=0)
WORDS = ["output=o", "arm=a", "data.tokens=t", "data.order=o", "micro_batch_size=2", "zero.stage=3", "precision=bf16"]
WORDS += ["zero.sub_group_size=1000"]  # the clipped norm is a sum over sub-groups, whose last bit depends on them


def settings_of(path, *words):
    swapped = ["zero.offload_optimizer=nvme", f"zero.nvme_path={path}"] if path else []
    return train_settings(*WORDS, *swapped, *words)


@pytest.fixture
def small(monkeypatch):
    """Let DeepSpeed swap tensors below 1 MiB."""
    from deepspeed.runtime.swap_tensor import optimizer_utils

    monkeypatch.setattr(optimizer_utils, "MIN_AIO_BYTES", 512)
    monkeypatch.setattr(config, "BLOCK_BYTES", 512)


def make(world, path, *words, seed=0):
    return Engine(build(CONFIG, seed), settings_of(path, *words), 4, world)


def save(engine, world, folder):
    return checkpoint.save(
        *(folder, engine, world), step=3, cursor=12, consumed_hash="0", tokens=0, config={}, inputs={}
    )


@contextmanager
def files_of_at_most(size):
    """Let no file of this process grow beyond `size` bytes: to a writer that is a full disk."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("length", [0, 1, 128, 1000, 4096, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_written_is_read_at_any_length_and_place(tmp_path, length, dtype):
    handle = DiskHandle(1024, 3)
    written = handle.new_cpu_locked_tensor(length, torch.zeros(1, dtype=dtype)).copy_(torch.randn(length))
    assert handle.async_pwrite(written, str(tmp_path / "a"), 0) == 0
    assert handle.async_pwrite(written[: length // 2].clone(), str(tmp_path / "b"), 6) == 0
    assert handle.wait() == 2
    whole, part = (handle.new_cpu_locked_tensor(size, written) for size in (length, length // 2))
    handle.async_pread(whole, str(tmp_path / "a"))
    handle.async_pread(part, str(tmp_path / "b"), 6)
    assert handle.wait() == 2
    assert torch.equal(whole, written)
    assert torch.equal(part, written[: length // 2])


def test_a_buffer_is_recognized_by_its_memory_and_forgotten_with_it():
    handle = DiskHandle()
    made = handle.new_cpu_locked_tensor(5000, torch.zeros(1))
    assert DiskHandle().is_pinned(made.narrow(0, 256, 100))
    assert not handle.is_pinned(torch.zeros(5000))
    assert not handle.is_pinned(torch.empty(0))
    address = made.data_ptr()
    assert address in disk._buffers
    del made
    assert address not in disk._buffers


def test_a_disk_without_direct_access_is_used_through_the_cache(tmp_path, monkeypatch):
    refused = []
    real = os.pwrite

    def pwrite(descriptor, memory, offset):
        if not refused:
            refused.append(offset)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, memory, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    handle = DiskHandle(1024, 1)
    written = handle.new_cpu_locked_tensor(1024, torch.zeros(1)).fill_(3.0)
    handle.async_pwrite(written, str(tmp_path / "a"))
    handle.wait()
    assert refused
    assert torch.equal(torch.from_file(str(tmp_path / "a"), size=1024), written)


def test_io_errors_are_raised_with_the_files_name(tmp_path, monkeypatch):
    handle = DiskHandle(1024, 2)
    tensor = handle.new_cpu_locked_tensor(1024, torch.zeros(1)).zero_()
    reserve(str(tmp_path / "short"), 512)
    handle.async_pread(tensor, str(tmp_path / "short"))
    with pytest.raises(OSError, match=r"the file ends at byte 512, but more was written to it.*short"):
        handle.wait()
    with files_of_at_most(1024), pytest.raises(OSError, match=r"full needs 4,096 bytes and .* are free"):
        handle.async_pwrite(tensor, str(tmp_path / "full"))

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    handle.async_pwrite(tensor, str(tmp_path / "broken"))
    with pytest.raises(OSError, match=r"Input/output error: .*broken"):
        handle.wait()


@pytest.mark.skipif(
    not Path(os.environ.get("TORCH_EXTENSIONS_DIR", "/nowhere"), "async_io", "async_io.so").is_file(),
    reason="DeepSpeed's async_io is not built: TORCH_EXTENSIONS_DIR has no async_io/async_io.so (see docs/engine.md)",
)
def test_deepspeeds_own_writer_ignores_a_full_disk_and_writes_what_ours_reads(tmp_path):
    """The red control, and the same bytes; once DeepSpeed checks the kernel's return values, ours can be removed."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    theirs = AsyncIOBuilder().load(verbose=False).aio_handle(1 << 20, 8, False, True, 1)
    ours = DiskHandle()
    written = theirs.new_cpu_locked_tensor(1 << 19, torch.zeros(1)).copy_(torch.randn(1 << 19))
    read = ours.new_cpu_locked_tensor(1 << 19, torch.zeros(1))
    theirs.async_pwrite(written, str(tmp_path / "a"), 0)
    assert theirs.wait() == 1
    ours.async_pread(read, str(tmp_path / "a"))
    ours.wait()
    assert torch.equal(read, written)
    ours.async_pwrite(read, str(tmp_path / "b"))
    ours.wait()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with files_of_at_most(1 << 20):
        theirs.async_pwrite(written, str(tmp_path / "c"), 0)
        assert theirs.wait() == 1, "DeepSpeed has been mended: train/engine/nvme/handle.py may go"
    assert (tmp_path / "c").stat().st_size < 1 << 21


def test_each_rank_has_its_own_folder_and_that_of_a_killed_one_is_removed(tmp_path):
    first, second = SwapFolder(tmp_path), SwapFolder(tmp_path)
    assert first.path != second.path
    program = f"from train.engine.nvme.folder import SwapFolder, Path; SwapFolder(Path({str(tmp_path)!r}))"
    killed = subprocess.run([sys.executable, "-c", f"{program}; import os; os.kill(os.getpid(), 9)"], check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 3
    third = SwapFolder(tmp_path)
    assert set(tmp_path.iterdir()) == {first.path, second.path, third.path}
    for folder in (first, second, third):
        folder.remove()
        folder.remove()
    assert not list(tmp_path.iterdir())


def test_an_unusable_folder_is_rejected_by_name(tmp_path, monkeypatch):
    def asks(path):
        return ZeroSettings(stage=3, offload_optimizer="nvme", nvme_path=str(path))

    check_swap(asks(tmp_path))
    check_swap(ZeroSettings(nvme_path="/nowhere"))
    with pytest.raises(ValueError, match=r"zero.nvme_path=.*/missing is not a folder: create it"):
        check_swap(asks(tmp_path / "missing"))

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(ValueError, match=r"zero.nvme_path=.* cannot be written \(Read-only file system\): use"):
        check_swap(asks(tmp_path))


def test_losses_are_those_of_an_optimizer_in_memory_and_nothing_stays_behind(world, small, tmp_path):
    swapped, kept = make(world, tmp_path), make(world, None, "zero.offload_optimizer=cpu")
    assert [swapped._state._info(master) is not None for master in swapped._state.masters()].count(True) >= 3
    assert steps(swapped, 0, 4) == steps(kept, 0, 4)
    state = {f.name: {kind: t.clone() for kind, t in f.tensors.items()} for f in swapped.fragments()}
    for fragment in kept.fragments():
        for kind, tensor in fragment.tensors.items():
            assert torch.equal(state[fragment.name][kind], tensor)
    assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.rglob("*exp_avg_sq*"))
    assert not list(tmp_path.rglob("*gradient*")), "they are in memory already"
    swapped.destroy()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_byte_for_byte_the_one_of_an_optimizer_in_memory(world, small, tmp_path):
    """The running average too; and each resumes from the other's."""
    words = ["averaging.decay=0.9"]
    engines = make(world, tmp_path, *words), make(world, None, "zero.offload_optimizer=cpu", *words)
    saved = []
    for engine, name in zip(engines, ("swapped", "kept"), strict=True):
        steps(engine, 0, 3)
        for fragment in engine.fragments():
            fragment.tensors["ema"].copy_(fragment.tensors["param"])
        saved.append(save(engine, world, tmp_path / name))
    one, other = ((folder / "rank_00000.safetensors").read_bytes() for folder in saved)
    assert one == other
    expected = steps(engines[0], 3, 6)
    for path, there in ((tmp_path, saved[1]), (None, saved[0])):
        words_here = words if path else [*words, "zero.offload_optimizer=cpu"]
        engine = make(world, path, *words_here, seed=5)
        checkpoint.load(there, engine)
        assert engine.updates() == 3
        assert steps(engine, 3, 6) == expected
        engine.destroy()


def test_a_full_disk_ends_the_run_with_its_code_before_training_starts(world, small, tmp_path):
    with files_of_at_most(2048), pytest.raises(OSError, match=r"free space at zero\.nvme_path") as raised:
        make(world, tmp_path)
    assert code_of(raised.value) == DISK_FULL
    assert not list(tmp_path.iterdir())
