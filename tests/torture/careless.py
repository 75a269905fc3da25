"""What careless colleagues and strangers do to files on a shared file system, as small variants.

A variant gets an empty folder, plants something there, does what PDPC does, and returns what went wrong: "" if nothing
was lost and nothing foreign was written to. `VARIANTS` holds all of them by name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np

from curriculum.artifact import drafts, lock
from curriculum.artifact.blocks import BlockArray, hash_blocks
from curriculum.artifact.create import create, reusable
from curriculum.artifact.drafts import draft_of
from curriculum.artifact.files import ArtifactError, copy_file, no_links, replacing, write_text
from curriculum.artifact.guard import WholeFile
from curriculum.artifact.lock import CannotLock, Held, Lock
from curriculum.artifact.manifest import open_manifest, verify
from curriculum.artifact.mapped import UnreadableError
from curriculum.tokens.ids import NumberFile, TokenIds

VALUES = np.arange(300_000, dtype="<u2")
STARTS = np.array([5, 100_000, 290_000])
LENGTH = 65
ELSEWHERE = 4_000_007
"""A process id on another node."""


@contextmanager
def another_node(host: str = "node7", boot: str = "0b1c") -> Iterator[None]:
    """Be a process of another machine in the block, which knows no process of this one."""
    with (
        patch.object(socket, "gethostname", lambda: host),
        patch.object(os, "getpid", lambda: ELSEWHERE),
        patch.object(drafts, "boot_id", lambda: boot),
        patch.object(drafts, "process_alive", lambda pid: pid == ELSEWHERE),
    ):
        yield


def write_thing(folder: Path, text: str = "whole", between: Callable[[], None] = lambda: None) -> None:
    """Write an artifact with one file; `between` runs while it is a draft."""
    with create(folder, "thing", config={"text": text}, inputs={}) as draft:
        (draft.path / "data").write_text(text)
        between()


def draft_on_another_node(folder: Path) -> str:
    """A second node writes the same output while the first one does."""

    def second() -> None:
        with another_node():
            write_thing(folder / "thing", "second")

    try:
        write_thing(folder / "thing", "first", second)
    except ArtifactError as error:
        if "was created by another process" not in str(error):
            return str(error)
    verify(folder / "thing")
    left = sorted(path.name for path in folder.iterdir())
    return "" if left == ["thing"] and (folder / "thing" / "data").read_text() == "second" else f"{left} are left"


def draft_after_a_reboot(folder: Path) -> str:
    """A draft of this host before it was booted again has a process id that is in use now."""
    with patch.object(drafts, "boot_id", lambda: "another boot"):
        old = draft_of(folder / "thing")
    old.mkdir()
    os.utime(old, (1e9, 1e9))
    write_thing(folder / "thing")
    return "" if not old.exists() else f"{old} is still there"


def planted_link(folder: Path) -> str:
    """A link to a colleague's file lies where a file is written: at its name, and at every name that can be guessed."""
    victim = folder / "victim"
    victim.write_text("precious")
    for name in ("run.json", ".run.json.tmp", f".run.json.tmp-{os.getpid()}", "run.json.tmp"):
        (folder / name).symlink_to(victim)
    write_text(folder / "run.json", "ours")
    if (folder / "run.json").is_symlink() or (folder / "run.json").read_text() != "ours":
        return "run.json is not ours"
    return "" if victim.read_text() == "precious" else "the link was followed"


def planted_link_to_append(folder: Path) -> str:
    """Records are appended to a link."""
    (folder / "victim").write_text("precious")
    (folder / "metrics.jsonl").symlink_to(folder / "victim")
    with suppress(OSError), open(folder / "metrics.jsonl", "a", opener=no_links) as file:
        file.write("ours")
    return "" if (folder / "victim").read_text() == "precious" else "the link was followed"


def planted_link_to_copy(folder: Path) -> str:
    """A damaged record is set aside under a name that is a link."""
    (folder / "victim").write_text("precious")
    (folder / "metrics.jsonl").write_text("ours")
    (folder / "metrics.jsonl.damaged").symlink_to(folder / "victim")
    copy_file(folder / "metrics.jsonl", folder / "metrics.jsonl.damaged")
    return "" if (folder / "victim").read_text() == "precious" else "the link was followed"


def planted_lock(folder: Path) -> str:
    """The lock file is a link to a colleague's file, a pipe, or a folder."""
    (folder / "victim").write_text("precious")
    (folder / "link").symlink_to(folder / "victim")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with suppress(OSError):
            Lock(folder / name, "run r").release()
            return f"a {name} was locked"
    return "" if (folder / "victim").read_text() == "precious" else "the link was followed"


def lock_of_a_reader(folder: Path) -> str:
    """Somebody who may only read the folder tries to hold its lock."""
    with Lock(folder / ".lock", "run r"):
        mode = (folder / ".lock").stat().st_mode & 0o777
    return "" if not mode & 0o044 else f"the lock file has mode {mode:o}: any reader can hold it"


def lock_on_another_node(folder: Path) -> str:
    """Another node holds the lock, but this one does not see that: the file system does not forward locks."""
    beating, over = threading.Event(), threading.Event()

    def holder() -> None:
        while not over.wait(0.01):
            os.utime(folder / ".lock")
            beating.set()

    with another_node():
        first = Lock(folder / ".lock", "run r")
        note = (folder / ".lock").read_text()
        first.release()
    (folder / ".lock").write_text(note)
    thread = threading.Thread(target=holder)
    thread.start()
    beating.wait()
    try:
        with patch.object(lock, "SILENT_S", 5.0), patch.object(lock, "POLL_S", 0.01):
            Lock(folder / ".lock", "run r").release()
    except Held as error:
        return "" if f"(pid {ELSEWHERE} on node7" in str(error) else str(error)
    finally:
        over.set()
        thread.join()
    return "two nodes hold the lock"


def no_locks(folder: Path) -> str:
    """The file system cannot lock files."""
    for code in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
        with patch.object(fcntl, "flock", side_effect=OSError(code, os.strerror(code))):
            try:
                Lock(folder / ".lock", "run r").release()
            except CannotLock as error:
                if "cannot lock files (flock: " not in str(error):
                    return str(error)
            else:
                return "it was locked"
    return ""


def let_the_clock_tick(path: Path) -> None:
    """Wait until a change of the file gets another time: file systems count in ticks of some milliseconds."""
    scratch = path.with_name("tick")
    while not scratch.exists() or scratch.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        scratch.touch()
    scratch.unlink()


def _readers(folder: Path) -> list[tuple[str, Callable[[], bool]]]:
    """Write a file; return functions that read it and tell whether what they read is intact."""
    path = folder / "ids.bin"
    VALUES.tofile(path)
    digests = np.array(hash_blocks(path).digests, dtype="<u8")
    ids = TokenIds([NumberFile(path, "<u2", len(VALUES), digests=digests)], LENGTH)
    array = BlockArray(path, "<u2", len(VALUES), digests)
    whole = WholeFile(path, hash_blocks(path).entry)

    def read_whole() -> bool:
        whole.begin()
        same = path.exists() and path.read_bytes() == VALUES.tobytes()
        whole.check()
        return same

    expected = np.stack([VALUES[start : start + LENGTH] for start in STARTS])
    return [
        ("tokens", lambda: np.array_equal(ids.rows(STARTS), expected)),
        ("order", lambda: np.array_equal([array[s : s + LENGTH] for s in STARTS.tolist()], expected)),
        ("scores", read_whole),
    ]


def _under_readers(change: Callable[[Path], None]) -> Callable[[Path], str]:
    """Return the variant that changes a file under those who read it: they read what was there, or say so."""

    def variant(folder: Path) -> str:
        for name, read in (readers := _readers(folder)):
            if not read():
                return f"{name} cannot be read"
        let_the_clock_tick(folder / "ids.bin")
        change(folder / "ids.bin")
        wrong = []
        for name, read in readers:
            with suppress(UnreadableError, FileNotFoundError):
                wrong += [] if read() else [name]
        return f"other {', '.join(wrong)} were read without a word" if wrong else ""

    return variant


def _overwrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(VALUES[::-1].tobytes())


def _overwrite_and_keep_times(path: Path) -> None:
    before = path.stat()
    _overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _one_bit(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(2 * int(STARTS[1]) + 4)
        file.write(b"\xff")


def cut_at_the_end(path: Path) -> None:
    """Cut the last byte of a file."""
    os.truncate(path, path.stat().st_size - 1)


def full_disk(folder: Path) -> str:
    """The disk fills at each of the writes of a file."""
    write_text(folder / "run.json", "old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for name in ("fsync", "replace"):
        with patch.object(os, name, side_effect=full):
            try:
                write_text(folder / "run.json", "new")
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    return str(error)
            else:
                return f"a full disk at {name} went unnoticed"
    try:
        with replacing(folder / "run.json") as file:
            file.write(b"half")
            raise full
    except OSError:
        pass
    left = sorted(path.name for path in folder.iterdir())
    return "" if left == ["run.json"] and (folder / "run.json").read_text() == "old" else f"{left} are left"


def removed_under_its_writer(folder: Path) -> str:
    """The draft of an artifact is removed while it is written (rm -rf of everything that looks temporary)."""

    def remove() -> None:
        for draft in folder.glob(".thing.tmp-*"):
            for path in draft.iterdir():
                path.unlink()
            draft.rmdir()

    try:
        write_thing(folder / "thing", between=remove)
    except OSError:
        return "" if not (folder / "thing").exists() else "a partial artifact was published"
    return "its removal went unnoticed"


def moved_while_it_is_written(folder: Path) -> str:
    """The folder that an artifact is written to is moved away (mv) in the meantime."""
    (folder / "out").mkdir()
    try:
        write_thing(folder / "out" / "thing", between=lambda: (folder / "out").rename(folder / "moved") and None)
    except OSError:
        return "" if not (folder / "out").exists() else "a partial artifact was published"
    return "the move went unnoticed"


def copied_over(folder: Path) -> str:
    """Another artifact is copied over one (cp -r)."""
    write_thing(folder / "a", "first")
    write_thing(folder / "b", "other")
    (folder / "a" / "data").write_bytes((folder / "b" / "data").read_bytes())
    try:
        verify(folder / "a")
    except ArtifactError:
        (folder / "a" / "manifest.json").write_bytes((folder / "b" / "manifest.json").read_bytes())
        with suppress(ArtifactError):
            return "it was reused" if reusable(folder / "a", "thing", config={"text": "first"}, inputs={}) else ""
        return ""
    return "a mixture of two artifacts passed"


def linked_output(folder: Path) -> str:
    """The output is a link to a colleague's empty folder, or dangles."""
    (folder / "theirs").mkdir()
    for name, target in (("out", folder / "theirs"), ("dangling", folder / "nowhere")):
        (folder / name).symlink_to(target)
        with suppress(ValueError, OSError):
            write_thing(folder / name)
            open_manifest(folder / name, "thing")
    return "" if not any((folder / "theirs").iterdir()) else "a colleague's folder was written to"


VARIANTS: dict[str, Callable[[Path], str]] = {
    "draft on another node": draft_on_another_node,
    "draft after a reboot": draft_after_a_reboot,
    "planted link": planted_link,
    "planted link to append": planted_link_to_append,
    "planted link to copy": planted_link_to_copy,
    "planted lock": planted_lock,
    "lock of a reader": lock_of_a_reader,
    "lock on another node": lock_on_another_node,
    "no locks": no_locks,
    "overwritten": _under_readers(_overwrite),
    "overwritten by cp -p": _under_readers(_overwrite_and_keep_times),
    "one bit": _under_readers(_one_bit),
    "truncated": _under_readers(cut_at_the_end),
    "emptied": _under_readers(lambda path: os.truncate(path, 0)),
    "removed": _under_readers(lambda path: path.unlink()),
    "chmod": _under_readers(lambda path: path.chmod(0o400)),
    "full disk": full_disk,
    "removed under its writer": removed_under_its_writer,
    "moved while it is written": moved_while_it_is_written,
    "copied over": copied_over,
    "linked output": linked_output,
}
