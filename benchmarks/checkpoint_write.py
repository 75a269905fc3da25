"""Speed of writing a checkpoint, with checksums, compared with raw writes of as many bytes to the same file system.

    python -m benchmarks.checkpoint_write --bytes 1e9 --work FOLDER

Sides: `save` is `train.checkpoint.save` on one rank, from the tensors to the fsynced rename; `disk` writes as many
bytes sequentially past the page cache and fsyncs (`dd oflag=direct conv=fsync bs=8M`); `cached` does the same through
the page cache (`dd conv=fsync bs=8M`); `torch.save` pickles the same tensors and fsyncs, without checksums.
"""

from __future__ import annotations

import mmap
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.options import chosen, parser, say, size, work_folder
from benchmarks.processes import Facts, Settings, forget_peak, measure, peak_bytes, resident_bytes
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread
from models.config import DecoderConfig
from models.decoder import Decoder
from train import checkpoint
from train.checkpoint.layout import KINDS
from train.distributed.world import World
from train.engine import Engine, Fragment

BLOCK_BYTES = 8 << 20
TARGET = 0.8
VOCABULARY = 1024
WIDTH = 512


class _State:
    """The state of an engine without the engine: random weights and moments of a decoder, about `total` bytes."""

    def __init__(self, total: int, seed: int) -> None:
        layers = max(1, round((total / 12 - 2 * VOCABULARY * WIDTH) / (12 * WIDTH**2)))
        made = DecoderConfig(
            vocab_size=VOCABULARY, layers=layers, width=WIDTH, heads=8, kv_heads=8, ffn=WIDTH * 8 // 3, max_seq_len=128
        )
        self.config = {"zero_optimization": {"stage": 1}}
        with torch.device("meta"):
            self.decoder = Decoder(made)
        generator = torch.Generator().manual_seed(seed)
        self.made = [
            Fragment(name, 0, {kind: torch.randn(p.numel(), generator=generator) for kind in KINDS})
            for name, p in self.decoder.named_parameters()
        ]
        self.bytes = sum(4 * t.numel() for f in self.made for t in f.tensors.values())

    def updates(self) -> int:
        return 1

    def fragments(self) -> Iterator[Fragment]:
        yield from self.made

    def outline(self) -> Iterator[Fragment]:
        for fragment in self.made:
            yield Fragment(fragment.name, fragment.start, {k: t.to("meta") for k, t in fragment.tensors.items()})


def _timed(settings: Settings, write: Any) -> Facts:
    """Create the state, write it once into an empty folder, and return the seconds and the memory on top of it."""
    torch.set_num_threads(1)
    folder = Path(settings["work"]) / "written"
    shutil.rmtree(folder, ignore_errors=True)
    state = _State(settings["bytes"], settings["seed"])
    os.sync()  # flush what other sides left to write
    forget_peak()
    before = resident_bytes()
    started = time.perf_counter()
    write(folder, state)
    seconds = time.perf_counter() - started
    grown = peak_bytes() - before
    shutil.rmtree(folder)
    return {"seconds": seconds, "bytes": state.bytes, "beside_bytes": grown}


def _save(folder: Path, state: _State) -> None:
    single = World(0, 1, 0, 1, torch.device("cpu"))
    read: dict[str, Any] = {"config": {}, "inputs": {}, "consumed_hash": "0" * 16}
    checkpoint.save(folder, cast(Engine, state), single, step=1, cursor=1, tokens=1, **read)


def _sequential(flags: int) -> Any:
    def write(folder: Path, state: _State) -> None:
        folder.mkdir()
        block = mmap.mmap(-1, BLOCK_BYTES)
        block[:] = os.urandom(BLOCK_BYTES)
        descriptor = os.open(folder / "file", os.O_WRONLY | os.O_CREAT | flags)
        for place in range(0, state.bytes, BLOCK_BYTES):
            os.pwrite(descriptor, block, place)
        os.ftruncate(descriptor, state.bytes)
        os.fsync(descriptor)
        os.close(descriptor)

    return write


def _torch_save(folder: Path, state: _State) -> None:
    folder.mkdir()
    with open(folder / "file.pt", "wb") as file:
        torch.save({fragment.name: fragment.tensors for fragment in state.made}, file)
        file.flush()
        os.fsync(file.fileno())


SIDES = {
    "save": lambda settings: _timed(settings, _save),
    "disk": lambda settings: _timed(settings, _sequential(getattr(os, "O_DIRECT", 0))),
    "cached": lambda settings: _timed(settings, _sequential(0)),
    "torch.save": lambda settings: _timed(settings, _torch_save),
}


def main() -> None:
    """Measure, print the table, write the result."""
    options = parser(__doc__)
    options.add_argument("--bytes", type=size, default=1_000_000_000, help="bytes of weights and moments (default 1e9)")
    parsed = options.parse_args()
    with work_folder(parsed.work) as work:
        settings = {"work": str(work), "bytes": parsed.bytes, "seed": parsed.seed}
        measured = interleave(
            list(SIDES), parsed.rounds, lambda side: measure("checkpoint_write", side, settings, work), say
        )
    seconds = {side: column(measured, side, "seconds") for side in SIDES}
    shares = {f"rate of save over {side}": ratios(seconds[side], seconds["save"]) for side in SIDES if side != "save"}
    extra_bytes = max(column(measured, "save", "beside_bytes"))
    checks = [
        Check("rate over the disk's", spread(shares["rate of save over disk"]).median, TARGET, "at least"),
        Check("memory on top of the state", extra_bytes / (1 << 20), 64.0, "at most", "MiB"),
    ]
    result = Result("checkpoint_write", chosen(parsed), ("torch", "xxhash"), measured, shares, checks)
    finish(result, keep=parsed.keep)


if __name__ == "__main__":
    main()
