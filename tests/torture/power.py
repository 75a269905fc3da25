"""Power loss in the middle of a save: the disk always holds the old or the new checkpoint.

One save of two ranks, and the removal of the expired checkpoint after it, is recorded. A state of the disk is a prefix
of the recorded calls, without any of the calls that are not yet synced: data until the file is synced, names until the
folder is. Lost data leaves a file of zeros, or no file.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.torture.calls import Call, watched
from tests.torture.campaign import Tally, case_seeds
from tests.torture.ranks import MadeUpEngine, on_ranks, quiet, same_state, save_step
from train import checkpoint
from train.settings import CheckpointSettings

FULL = 2500
RANKS = 2
OLD, NEW = (2, 4), 6
"""Steps of the existing checkpoints, and of the one being saved; the oldest is removed after it."""


@dataclass
class Recorded:
    """The disk before a save, the calls of the save, and the disk after it."""

    files: dict[str, bytes]
    calls: list[Call]
    after: dict[str, bytes]


def contents(root: Path) -> dict[str, bytes]:
    """Return every file under a folder by its relative path; folders end with a slash."""
    return {
        path.relative_to(root).as_posix() + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


@cache
def record(first: bool = False) -> Recorded:
    """Save once under the shim. `first`: into an empty RUN folder."""
    with TemporaryDirectory() as folder, quiet():
        root = Path(folder) / "run"
        root.mkdir()
        for step in () if first else OLD:
            results = on_ranks(RANKS, lambda world, step=step: save_step(root / "checkpoints", world, step))
            assert all(isinstance(result, Path) for result in results), results
        files = contents(root)
        with watched(root) as seen:
            results = on_ranks(RANKS, lambda world: save_step(root / "checkpoints", world, NEW))
            assert all(isinstance(result, Path) for result in results), results
            checkpoint.prune(root / "checkpoints", CheckpointSettings(keep_last=2))
        return Recorded(files, seen.calls, contents(root))


def interleaved(recorded: Recorded, rng: np.random.Generator) -> Recorded:
    """Return the calls in one of the possible orders, since the ranks write concurrently."""
    ends = [n for n, call in enumerate(recorded.calls) if call.name == "fsync" and call.path.endswith(".safetensors")]
    start = next(n for n, call in enumerate(recorded.calls) if call.path.endswith(".safetensors"))
    stop = ends[RANKS - 1] + 1  # each file is synced once by its rank, and again before the manifest
    own = [[c for c in recorded.calls[start:stop] if c.path.endswith(f"{rank}.safetensors")] for rank in range(RANKS)]
    assert sum(map(len, own)) == stop - start, "the ranks made other calls in between"
    mixed = []
    while any(own):
        mixed.append(own[rng.choice([rank for rank in range(RANKS) if own[rank]])].pop(0))
    removed = sorted((c for c in recorded.calls if c.name == "unlink"), key=lambda call: call.path)
    rest = [removed.pop(0) if c.name == "unlink" else c for c in recorded.calls[stop:]]
    return Recorded(recorded.files, [*recorded.calls[:start], *mixed, *rest], recorded.after)


@dataclass
class Disk:
    """Names and files separately, as in a file system: a name refers to a numbered file or folder."""

    names: dict[str, int] = field(default_factory=dict)
    data: dict[int, bytearray | None] = field(default_factory=dict)
    """None: a folder."""

    @classmethod
    def holding(cls, files: dict[str, bytes]) -> Disk:
        """Return a disk with these files on it."""
        disk = cls()
        for name, data in files.items():
            disk._add(name.rstrip("/"), None if name.endswith("/") else bytearray(data))
        return disk

    def _add(self, name: str, data: bytearray | None) -> int:
        number = len(self.data)
        self.names[name], self.data[number] = number, data
        return number

    def write_out(self, root: Path) -> None:
        """Write the disk to a folder; the contents of a lost folder are lost."""
        root.mkdir()
        for name, number in sorted(self.names.items(), key=lambda item: (item[0].count("/"), item[0])):
            path, data = root / name, self.data[number]
            if path.parent.is_dir():
                if data is None:
                    path.mkdir(exist_ok=True)
                else:
                    path.write_bytes(data)


def crash(recorded: Recorded, made: int, lost: set[int]) -> Disk:
    """Return the disk after the first `made` calls, without those in `lost`."""
    disk = Disk.holding(recorded.files)
    known = dict(disk.names)  # the program's view, in which every call has happened
    for number, call in enumerate(recorded.calls[:made]):
        dropped = number in lost
        if call.name in ("create", "mkdir"):
            known[call.path] = disk._add(call.path, None if call.name == "mkdir" else bytearray())
            if dropped:
                del disk.names[call.path]
        elif call.name in ("write", "ftruncate"):
            data = disk.data[known[call.path]]
            assert data is not None
            end = call.offset + len(call.data)
            if call.name == "ftruncate":
                if not dropped:
                    del data[end:]
                continue
            data.extend(bytes(max(0, end - len(data))))
            if not dropped:
                data[call.offset : end] = call.data
        elif call.name == "rename":
            moved = {name: n for name, n in known.items() if name == call.path or name.startswith(call.path + "/")}
            for name, entry in moved.items():
                target = call.target + name[len(call.path) :]
                known[target] = known.pop(name)
                if not dropped and (name == call.path or disk.names.pop(name, None) is not None):
                    disk.names.pop(name, None)
                    disk.names[target] = entry
        elif call.name in ("unlink", "rmdir"):
            known.pop(call.path)
            if not dropped:
                disk.names.pop(call.path, None)
    return disk


def unsynced(calls: Sequence[Call]) -> list[int]:
    """Return the numbers of the calls that a power loss after `calls` may undo."""
    pending: list[int] = []
    for number, call in enumerate(calls):
        if call.name == "fsync":
            pending = [n for n in pending if not _settled(calls, n, number)]
        else:
            pending.append(number)
    return pending


def _settled(calls: Sequence[Call], number: int, sync: int) -> bool:
    """Return whether a sync of a file or folder makes an earlier call durable."""
    call, synced = calls[number], calls[sync].path
    path = call.path if call.name in ("write", "ftruncate") else str(Path(call.target or call.path).parent)
    for later in calls[number + 1 : sync]:  # follow renames up to the sync
        if later.name == "rename" and (path == later.path or path.startswith(later.path + "/")):
            path = later.target + path[len(later.path) :]
    return path == synced


def problem_of(recorded: Recorded, made: int, lost: set[int], work: Path) -> str | None:
    """Return what is wrong after a power loss, None if the old or the new checkpoint is found intact."""
    root = work / "disk"
    shutil.rmtree(root, ignore_errors=True)
    crash(recorded, made, lost).write_out(root)
    before = max((int(name[17:25]) for name in recorded.files if name.endswith("manifest.json")), default=0)
    try:
        found = checkpoint.newest(root / "checkpoints")
        step = 0 if found is None else checkpoint.step_of(found)
        if step not in ({NEW} if made == len(recorded.calls) else {before, NEW}):
            return f"step {step} is found, neither {before} nor {NEW}"
        checkpoint.clean(root / "checkpoints", step)
        if found is None:
            return None

        def loaded(world: object) -> bool:
            engine = MadeUpEngine(world, 99)  # type: ignore[arg-type]
            checkpoint.load(found, engine)  # type: ignore[arg-type]
            return same_state(engine, MadeUpEngine(world, step))  # type: ignore[arg-type]

        results = on_ranks(RANKS, loaded)
        return None if results == [True] * RANKS else f"step {step} reads as {results}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def run(count: int, seed: int, work: Path) -> Tally:
    """Check `count` states of the disk."""
    tally = Tally("power", seed=seed)
    with quiet():
        for case in case_seeds(seed, count):
            rng = np.random.default_rng(case)
            recorded = interleaved(record(bool(rng.random() < 0.2)), rng)
            made = int(rng.integers(0, len(recorded.calls) + 1))
            open_calls = unsynced(recorded.calls[:made])
            lost = (
                {n for n in open_calls if rng.random() < rng.choice([0.1, 0.5, 0.9])} if rng.random() < 0.8 else set()
            )
            problem = problem_of(recorded, made, lost, work)
            tally.add(case, problem and f"after {made} calls, without {sorted(lost)}: {problem}")
    return tally


def every_prefix(work: Path) -> Tally:
    """Check every prefix of both recorded saves, with no call, all calls, or any single call lost that may be lost."""
    tally = Tally("power, every prefix")
    with quiet():
        for first in (False, True):
            recorded = interleaved(record(first), np.random.default_rng(0))
            for made in range(len(recorded.calls) + 1):
                open_calls = unsynced(recorded.calls[:made])
                for lost in (set(), set(open_calls), *({n} for n in open_calls)):
                    problem = problem_of(recorded, made, lost, work)
                    tally.add(made, problem and f"first={first}, without {sorted(lost)}: {problem}")
    return tally
