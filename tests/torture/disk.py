"""The disk is full: at a size, at a call, on one rank. All ranks report it, and the previous checkpoint stays.

A case is one of: a limit on the file size (RLIMIT_FSIZE, in a separate process), a system call of the save that fails
with one of ERRORS, a small file system (if one can be mounted), or a disk that reports too little free space.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.torture.calls import watched
from tests.torture.campaign import Tally, case_seeds
from tests.torture.ranks import MadeUpEngine, on_ranks, quiet, same_state, save_step
from train import checkpoint
from train.checkpoint import commit

FULL = 100
RANKS = 2
OLD, NEW = 2, 4
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def run(count: int, seed: int, work: Path) -> Tally:
    """Fill the disk `count` times, in random ways."""
    tally = Tally("disk", seed=seed)
    template = work / "template"
    with quiet():
        saved = on_ranks(RANKS, lambda world: save_step(template / "checkpoints", world, OLD))
        assert all(isinstance(result, Path) for result in saved), saved
        calls = calls_of_a_save(template, work / "counted")
        mountable = can_mount(work)
        if not mountable:
            tally.notes.append("no file system can be mounted here: file size limits are used instead")
        for case in case_seeds(seed, count):
            rng = np.random.default_rng(case)
            way = int(rng.integers(4))
            if way == 0:
                tally.add(case, at_a_call(template, work / "run", int(rng.integers(calls)), int(rng.choice(ERRORS))))
            elif way == 1:
                tally.add(case, announced(template, work / "run", int(rng.integers(1 << 20))))
            elif way == 2 and mountable:
                tally.add(case, on_a_small_disk(template, work / "small", int(rng.integers(0, 16)) * 4096))
            else:
                tally.add(case, under_a_limit(template, work / "run", int(rng.integers(1, 22_048))))
    return tally


def calls_of_a_save(template: Path, root: Path) -> int:
    """Return the number of calls of a save that may fail."""
    shutil.copytree(template, root)
    with watched(root) as seen:
        on_ranks(RANKS, lambda world: save_step(root / "checkpoints", world, NEW))
    return len(seen.calls)


def problem_of(root: Path, results: list[Any]) -> str | None:
    """Return what is wrong after a save that may have failed, None if all promises hold."""
    if len({type(result) for result in results}) > 1 or len({str(result) for result in results}) > 1:
        return f"the ranks end differently: {results}"
    if not isinstance(results[0], (OSError, Path)):
        return f"the save ended with {results[0]!r}"
    if isinstance(results[0], OSError) and not results[0].errno:
        return f"no errno: {results[0]}"
    found = checkpoint.newest(root / "checkpoints")
    step = checkpoint.step_of(found) if found else 0
    allowed = (NEW,) if isinstance(results[0], Path) else (OLD, NEW)  # NEW: only the sync of its folder's name failed
    if step not in allowed:
        return f"step {step} is found after {results[0]!r}"
    there = sorted(os.listdir(root / "checkpoints"))
    if there != [checkpoint.folder_of(root, kept).name for kept in (OLD, NEW) if kept <= step]:
        return f"left behind: {there}"

    def loaded(world: Any) -> bool:
        engine: Any = MadeUpEngine(world, 99)
        checkpoint.load(found, engine)  # type: ignore[arg-type]
        return same_state(engine, MadeUpEngine(world, step))

    read = on_ranks(RANKS, loaded)
    if read != [True] * RANKS:
        return f"step {step} reads as {read}"
    again = on_ranks(RANKS, lambda world: save_step(root / "checkpoints", world, NEW))
    return None if all(isinstance(result, Path) for result in again) else f"with free space again: {again}"


def at_a_call(template: Path, root: Path, number: int, code: int) -> str | None:
    """Make one call of a save fail."""
    fresh(template, root)
    with watched(root, number, lambda: OSError(code, os.strerror(code))) as seen:
        results = on_ranks(RANKS, lambda world: save_step(root / "checkpoints", world, NEW))
    problem = problem_of(root, results)
    if problem is None and seen.failed is not None and isinstance(results[0], Path):
        problem = "the failure was not reported"
    return problem and f"{seen.failed and (seen.failed.name, seen.failed.path)} failed with {code}: {problem}"


def announced(template: Path, root: Path, free: int) -> str | None:
    """Make the disk report less free space than needed: nothing must be written."""
    fresh(template, root)
    before, commit.free_bytes = commit.free_bytes, lambda _folder: free
    try:
        with watched(root) as seen:
            results = on_ranks(RANKS, lambda world: save_step(root / "checkpoints", world, NEW))
    finally:
        commit.free_bytes = before
    if any(call.name == "write" for call in seen.calls) or f"{free:,} are free" not in str(results[0]):
        return f"{free} bytes free: {results[0]!r}"
    return problem_of(root, results)


def on_a_small_disk(template: Path, root: Path, free: int) -> str | None:
    """Save to a file system with `free` bytes of free space, with the check of free space disabled."""
    with mounted(root):
        fresh(template, root / "run")
        there = os.statvfs(root)
        used = (there.f_blocks - there.f_bfree) * there.f_frsize
        resized(root, used + free)
        before, commit.free_bytes = commit.free_bytes, lambda _folder: 1 << 40
        try:
            results = on_ranks(RANKS, lambda world: save_step(root / "run" / "checkpoints", world, NEW))
        finally:
            commit.free_bytes = before
        resized(root, 8 << 20)
        problem = problem_of(root / "run", results)
    return problem and f"a disk with {free} bytes free: {problem}"


def under_a_limit(template: Path, root: Path, limit: int) -> str | None:
    """Save in a process with a limit on the file size."""
    fresh(template, root)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_limited, args=(root, limit, sender))
    child.start()
    results = receiver.recv() if receiver.poll(60) else ["no answer"]
    child.join(60)
    errors = [OSError(code, text) if code is not None else text for code, text in results]
    problem = problem_of(root, errors)
    if problem is None and isinstance(errors[0], OSError) and errors[0].errno != errno.EFBIG:
        problem = f"errno {errors[0].errno}"
    return problem and f"files of at most {limit} bytes: {problem}"


def _limited(root: Path, limit: int, sender: Any) -> None:
    torch.set_num_threads(1)  # recreates torch's pool, broken by the fork, before two ranks do so at once
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    results = on_ranks(RANKS, lambda world: save_step(root / "checkpoints", world, NEW))
    sender.send([(error.errno, str(error)) if isinstance(error, OSError) else (None, repr(error)) for error in results])
    os._exit(0)


def fresh(template: Path, root: Path) -> None:
    """Create a RUN folder with one checkpoint."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)


def can_mount(work: Path) -> bool:
    """Return whether this user can mount a file system in memory."""
    try:
        with mounted(work / "probe"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount a file system in memory."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    subprocess.run(words, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def resized(folder: Path, size: int) -> None:
    """Resize a mounted file system, in bytes."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True, capture_output=True)
