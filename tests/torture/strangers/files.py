"""Files that others write, plant or hold: data under a run, links in its folder, drafts and locks."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np

from curriculum.artifact.blocks import BlockArray, hash_blocks
from curriculum.artifact.drafts import draft_of, machine, remove_abandoned
from curriculum.artifact.files import write_text
from curriculum.artifact.lock import Held, Lock
from tests.torture.careless import let_the_clock_tick
from tests.torture.strangers.variant import Ground, Variant

GONE = 2**22 - 1
"""A process id that no process has."""


def data_in_place(keep_times: bool, ground: Ground) -> str | None:
    """Others write other numbers into a file that is open, of the same size and perhaps with the old times."""
    path, values = ground.work / "ids.bin", np.arange(4000, dtype=np.uint16)
    values.tofile(path)
    before = os.stat(path)
    array = BlockArray(path, "<u2", len(values), np.array(hash_blocks(path).digests, dtype="<u8"))
    if array[0:9].tolist() != list(range(9)):
        return "whole data was not read"
    let_the_clock_tick(path)
    with open(path, "r+b") as file:
        file.write(np.zeros(4000, np.uint16).tobytes())
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    try:
        found = array[100:109].tolist()
    except ValueError as error:
        return None if str(path) in str(error) else f"not named: {error}"
    except OSError as error:
        return None if str(path) in str(error) else f"not named: {error}"
    return f"read {found}"


def planted_link(name: str, ground: Ground) -> str | None:
    """A link lies where a file, or a draft of it, will be written: what it leads to stays as it is."""
    outside, path = ground.work / "outside", ground.here / "run.json"
    outside.write_text("theirs")
    (ground.here / name.format(pid=os.getpid())).symlink_to(outside)
    write_text(path, "ours")
    if outside.read_text() != "theirs":
        return "the file behind the link was written"
    return None if not path.is_symlink() and path.read_text() == "ours" else "the file is a link"


def draft_of_another_machine(ground: Ground) -> str | None:
    """A draft of another node has a process id that nobody has here: its writer may be alive there."""
    name = draft_of(ground.here / "order").name.replace(machine(), "other.0123abcd")
    theirs = ground.here / name.replace(f"-{os.getpid()}-", f"-{GONE}-")
    ours = ground.here / draft_of(ground.here / "order").name.replace(f"-{os.getpid()}-", f"-{GONE}-")
    for folder in (theirs, ours):
        folder.mkdir()
        (folder / "part").write_text("x")
    remove_abandoned(ground.here, "order")
    if not (theirs / "part").exists():
        return "the draft of another node was removed"
    return None if not ours.exists() else "an abandoned draft of this machine was kept"


def lock_of_others(ground: Ground) -> str | None:
    """Somebody who may only read a folder wants its lock, and another process wants to know who holds it."""
    path = ground.here / ".lock"
    lock = Lock(path, "run x")
    try:
        mode = path.stat().st_mode & 0o777
        if mode != 0o600:
            return f"others can open the lock: {mode:o}"
        return _refused(path)
    finally:
        lock.release()


def _refused(path: Path) -> str | None:
    try:
        Lock(path, "run x").release()
    except Held as error:
        return None if f"{os.getpid()}" in str(error) else f"the holder is not named: {error}"
    return "it was taken twice"


FILES: dict[str, Variant] = {
    "data rewritten in place": partial(data_in_place, False),
    "data rewritten with its old times": partial(data_in_place, True),
    "a link instead of a file": partial(planted_link, "run.json"),
    "a link instead of a draft": partial(planted_link, ".run.json.tmp-{pid}"),
    "a draft of another node": draft_of_another_machine,
    "a lock of others": lock_of_others,
}
