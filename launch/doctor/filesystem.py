"""Does the file system of the outputs do what a run relies on: locks, atomic renames, coherent maps, space, time?

Everything is tried in a temporary folder in the nearest folder above the output that exists, and removed again.
"""

from __future__ import annotations

import errno
import fcntl
import mmap as memory_map
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from curriculum.artifact.lock import CannotLock, Lock
from launch.doctor.check import Finding, Subject, failure, ok, refused, warning
from train.checkpoint.space import free_bytes
from train.memory.footprint import size_of

NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cephfs", "ceph", "fuse", "smb3", "cifs", "9p", "wekafs")
RENAMES = 200
PROBE_BYTES = 32 << 20
SKEW_S = 2.0
"""Seconds by which clocks may differ. Leftovers of other machines are judged by their age, 15 s at least."""
FUTURE_S = 60.0
BYTES_PER_PARAMETER = 12
"""In a checkpoint: a float32 weight and two moments."""


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo."""

    point: str
    kind: str
    source: str
    options: tuple[str, ...]


def output(subject: Subject) -> Iterator[Finding]:
    """Check the output folder as a run does, and write a file there."""
    from train.resume.output import check_output

    if subject.has("output"):
        try:
            check_output(subject.output)
        except ValueError as error:
            yield refused(error)
            return
    try:
        with _trial(subject) as folder:
            (folder / "file").write_bytes(b"?")
    except OSError as error:
        yield failure(
            f"{subject.folder} cannot be written ({error.strerror})",
            "choose an output on a file system with room that this user can write to",
        )
        return
    yield ok(f"{subject.output if subject.has('output') else subject.folder} can be written")


def mount(subject: Subject) -> Iterator[Finding]:
    """Read type and options of the mount that holds the output."""
    found = mount_of(subject.folder, subject.root)
    if found is None:
        return
    what, options = f"{found.kind} at {found.point}", set(found.options)
    words = {one.partition("=")[0]: one.partition("=")[2] for one in options}
    if "ro" in options:
        yield failure(f"{what} is mounted read-only", "remount it read-write, or choose another output")
    if found.kind.startswith("nfs") and ("nolock" in options or words.get("local_lock") in ("all", "flock")):
        how = "nolock" if "nolock" in options else f"local_lock={words['local_lock']}"
        yield failure(
            f"{what} is mounted with {how}: other nodes do not see this one's locks",
            "mount it without that option (NFS version 4, or version 3 with a running lockd), or choose another output",
        )
    elif found.kind.startswith("nfs") and "soft" in options:
        yield warning(f"{what} is mounted soft: a slow server becomes an I/O error", "mount it hard")
    elif found.kind == "lustre" and not {"flock"} & options:
        how = "with localflock: other nodes do not see this one's locks" if "localflock" in options else "without flock"
        yield failure(f"{what} is mounted {how}", "mount it with the option flock, or choose another output")
    elif found.kind in ("tmpfs", "ramfs"):
        yield warning(f"{what} is memory", "choose an output on a disk, or the run is lost when the machine restarts")
    elif found.kind in ("overlay", "aufs"):
        yield warning(
            f"{what} belongs to a container", "mount a volume for outputs, or they are lost with the container"
        )
    elif subject.hosts and not found.kind.startswith(NETWORK):
        yield warning(f"{what} looks local to this machine", "choose an output on a file system that all nodes share")
    elif "ro" not in options:
        yield ok(what)


def flock(subject: Subject) -> Iterator[Finding]:
    """Take our folder lock, and see that a second one is refused."""
    with _trial(subject) as folder:
        path = folder / "lock"
        try:
            lock = Lock(path, str(folder), local=True)
        except CannotLock:
            yield failure(
                f"{subject.folder} is on a file system that cannot lock files",
                "mount it with locks (Lustre: option flock; NFS: version 4, or version 3 with a running lockd), or "
                "choose another output",
            )
            return
        with lock, open(path, "rb") as second:
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield ok("a second lock on a file is refused")
                return
        yield failure(
            f"two locks on one file of {subject.folder} were granted",
            "two runs could write to one folder: mount the file system with locks, or choose another output",
        )


def rename(subject: Subject) -> Iterator[Finding]:
    """Replace a file many times while a thread reads it: it must always be there, and always complete."""
    texts = (b"a" * 4096, b"b" * 4096)
    wrong: list[str] = []
    over = threading.Event()
    with _trial(subject) as folder:
        target, draft = folder / "file", folder / "draft"
        target.write_bytes(texts[0])

        def look() -> None:
            while not over.is_set() and not wrong:
                try:
                    if target.read_bytes() not in texts:
                        wrong.append("a reader saw half of a file")
                except FileNotFoundError:
                    wrong.append("a reader found no file")
                except OSError as error:
                    if error.errno != errno.ESTALE:  # NFS: the file that was open is gone, as it should be
                        wrong.append(f"a reader failed ({error.strerror})")

        reader = threading.Thread(target=look, daemon=True)
        reader.start()
        try:
            for number in range(RENAMES):
                draft.write_bytes(texts[number % 2])
                os.replace(draft, target)
            (folder / "new").mkdir()
            os.rename(folder / "new", folder / "renamed")
        except OSError as error:
            wrong.append(f"rename fails ({error.strerror})")
        finally:
            over.set()
            reader.join(5.0)
    if wrong:
        yield failure(
            f"{wrong[0]} while it was replaced by a rename on {subject.folder}",
            "an interrupted run could leave half a checkpoint: choose an output on a POSIX file system, not an object "
            "store",
        )
    else:
        yield ok(f"{RENAMES} renames over a file while it was read: always complete")


def mmap(subject: Subject) -> Iterator[Finding]:
    """Write to a mapped file through its descriptor, and read the change in the map."""
    with _trial(subject) as folder, open(folder / "file", "w+b", buffering=0) as file:
        file.write(bytes(1 << 16))
        try:
            with memory_map.mmap(file.fileno(), 1 << 16, access=memory_map.ACCESS_READ) as mapped:
                os.pwrite(file.fileno(), b"written", 4096)
                same = mapped[4096:4103] == b"written"
        except OSError as error:
            yield failure(f"files cannot be mapped there ({error.strerror})", "choose another file system for outputs")
            return
    if same:
        yield ok("a mapped file shows what is written to it")
    else:
        yield failure(
            "a mapped file does not show what is written to it",
            "keep TOKENS and ORDER on a local disk or another file system",
        )


def space(subject: Subject) -> Iterator[Finding]:
    """Compare the free space with the checkpoints that the run keeps, and the next one."""
    free, inputs, keep = free_bytes(subject.folder), subject.inputs, subject.settings.checkpoints
    there = os.statvfs(subject.folder)
    if there.f_files and not there.f_favail:
        yield failure(f"{subject.folder} has no free inodes", "remove small files, or choose another output")
    if inputs is None:
        yield ok(f"{size_of(free)} are free at {subject.folder}")
        return
    each = BYTES_PER_PARAMETER * inputs.decoder.parameter_count()
    count = keep.keep_last + 1
    if keep.keep_stages:
        count += int(inputs.order.stage[len(inputs.order) - 1]) + 1
    needed = count * each
    if free < needed:
        yield failure(
            f"{size_of(free)} are free at {subject.folder}, the run's {count} checkpoints of {size_of(each)} need "
            f"{size_of(needed)}",
            "free some space, lower checkpoints.keep_last, or choose an output on another disk",
        )
    else:
        yield ok(f"{size_of(free)} are free, {count} checkpoints of {size_of(each)} take {size_of(needed)}")


def speed(subject: Subject) -> Iterator[Finding]:
    """Write and sync a file, drop it from the page cache, and read it."""
    data = os.urandom(1 << 20)
    with _trial(subject) as folder, open(folder / "file", "w+b", buffering=0) as file:
        began = time.perf_counter()
        try:
            for _ in range(PROBE_BYTES // len(data)):
                file.write(data)
            os.fsync(file.fileno())
        except OSError as error:
            yield failure(f"{size_of(PROBE_BYTES)} cannot be written there ({error.strerror})", "free some space")
            return
        written = PROBE_BYTES / (time.perf_counter() - began)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        file.seek(0)
        while file.read(len(data)):
            pass
        read = PROBE_BYTES / (time.perf_counter() - began)
    text = f"{size_of(int(written))}/s written and synced, {size_of(int(read))}/s read ({size_of(PROBE_BYTES)})"
    grace_s, inputs = subject.settings.grace_s, subject.inputs
    if inputs is not None:
        took_s = BYTES_PER_PARAMETER * inputs.decoder.parameter_count() / written
        if took_s > grace_s:
            yield warning(
                f"{text}: a checkpoint would take {took_s:.0f} s, longer than grace_s={grace_s:g} after a signal",
                f"raise grace_s to {2 * took_s:.0f} (and Slurm's cluster.signal_s with it), or use a faster disk",
            )
            return
    yield ok(text)


def clock(subject: Subject) -> Iterator[Finding]:
    """Compare the time of a new file with this machine's, and look for files from the future."""
    with _trial(subject) as folder:
        before = time.time()
        (folder / "file").write_bytes(b"?")
        stamp = (folder / "file").stat().st_mtime
        after = time.time()
    skew = max(before - stamp, stamp - after, 0.0)
    if skew > SKEW_S:
        yield failure(
            f"a file written now on {subject.folder} is dated {stamp - after:+.0f} s off this machine's clock",
            "start NTP (chronyc tracking) on this machine and on the file server",
        )
        return
    places = [subject.output, *subject.output.glob("*")] if subject.output.is_dir() else []
    ahead = {path: path.stat().st_mtime - after for path in places if not path.is_symlink() and path.exists()}
    if ahead and (most := max(ahead, key=lambda path: ahead[path])) and ahead[most] > FUTURE_S:
        yield warning(
            f"{most} is dated {ahead[most]:.0f} s in the future",
            "a clock was wrong when it was written, or this machine's is now: compare date with another machine, and "
            "start NTP",
        )
        return
    yield ok("this machine and the file system agree on the time")


def mount_of(folder: Path, root: Path = Path("/")) -> Mount | None:
    """Return the mount that holds a folder, as /proc/self/mountinfo says (proc(5)); None if that cannot be read."""
    try:
        lines = (root / "proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    best: Mount | None = None
    real = os.path.realpath(folder)
    for one in lines:
        left, _, right = one.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 6 or len(kind) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best.point)):
            best = Mount(point, kind[0], kind[1], (*fields[5].split(","), *kind[2].split(",")))
    return best


@contextmanager
def _trial(subject: Subject) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".pdpc_doctor-", dir=subject.folder) as name:
        yield Path(name)
