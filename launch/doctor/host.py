"""Does this machine have what its ranks need besides GPUs: shared memory, open files, CPUs, memory?"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from curriculum.work.cpus import own_threads, usable_cpus
from launch.doctor.check import Finding, Subject, failure, ok, warning
from train.memory.footprint import check_fits, size_of

SHM_PER_RANK = 64 << 20
"""Bytes of /dev/shm per rank. NCCL keeps its buffers between the GPUs of a node there; Docker gives 64 MiB in all."""
FILES_BASE, FILES_PER_RANK = 512, 8
"""Open files of a process: for libraries and data, and for its connections to every other rank."""


def shm(subject: Subject) -> Iterator[Finding]:
    """Compare the free space in /dev/shm with what the ranks of this machine use."""
    path = subject.root / "dev/shm"
    if not path.is_dir():
        yield warning("there is no /dev/shm", "mount a tmpfs there: NCCL uses it between the GPUs of a node")
        return
    there = os.statvfs(path)
    free, needed = there.f_bavail * there.f_frsize, subject.local_ranks * SHM_PER_RANK
    if free < needed:
        ranks = f"{subject.local_ranks} rank{'s' if subject.local_ranks > 1 else ''}"
        yield failure(
            f"{size_of(free)} of {size_of(there.f_blocks * there.f_frsize)} are free in /dev/shm, {size_of(needed)} "
            f"are needed for {ranks}",
            "in a container use --ipc=host or --shm-size=16g; else remove what is left there, or enlarge it (mount "
            "-o remount,size=16g /dev/shm)",
        )
    else:
        yield ok(f"{size_of(free)} are free in /dev/shm")


def open_files(subject: Subject) -> Iterator[Finding]:
    """Compare the limit of open files with a rank's connections and files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FILES_BASE + FILES_PER_RANK * subject.ranks
    if soft != resource.RLIM_INFINITY and soft < needed:
        how = f"ulimit -n {needed} in the shell (the hard limit is {hard})"
        if hard != resource.RLIM_INFINITY and hard < needed:
            how = f"have the hard limit of {hard} raised (/etc/security/limits.conf, LimitNOFILE= of sshd or slurmd)"
        yield failure(f"a process may open {soft} files, a rank of {subject.ranks} may need {needed}", how)
    else:
        yield ok(f"a process may open {'any number of' if soft == resource.RLIM_INFINITY else soft} files")


def cpus(subject: Subject) -> Iterator[Finding]:
    """Compare the CPUs that may be used with the ranks and their threads."""
    count, ranks = usable_cpus(subject.root), subject.local_ranks
    threads = subject.settings.threads or own_threads() or 1
    if ranks * threads > count:
        yield warning(
            f"{ranks} ranks with {threads} thread{'s' if threads > 1 else ''} each share {count} CPUs",
            "request more CPUs (Slurm: --cpus-per-task), start fewer ranks, or lower threads",
        )
    else:
        yield ok(f"{count} CPUs for {ranks} rank{'s' if ranks > 1 else ''}")


def memory(subject: Subject) -> Iterator[Finding]:
    """Estimate the run's memory as `train` does before it starts."""
    import torch

    from train.memory.available import available_memory

    cuda = torch.cuda.is_available()
    room = available_memory(cuda_device=0 if cuda else None, root=subject.root)
    have = f"{size_of(room.host)} of host memory" if room.host else "host memory without a known limit"
    if room.device is not None:
        have += f", {size_of(room.device)} on a GPU"
    inputs = subject.inputs
    if inputs is None:
        yield ok(have)
        return
    batch = inputs.order.batch_size
    try:
        note = check_fits(subject.settings, inputs.decoder, batch, subject.ranks, subject.local_ranks, room)
    except ValueError as error:
        if cuda or inputs.decoder.parameter_count() < SMALL:
            yield failure(*_parts(str(error)))
        else:
            what, how = _parts(str(error))
            yield warning(
                f"on this machine, which has no GPU, {what}", f"run pdpc doctor on a node with GPUs; or {how}"
            )
        return
    if note:
        yield warning(note, "end other programs first, or lower micro_batch_size")
    else:
        yield ok(f"{have}: the run fits")


SMALL = 100_000_000
"""Parameters up to which a model may be meant for a CPU."""


def _parts(text: str) -> tuple[str, str]:
    """Return what an error says and its remedy, its last sentence."""
    what, _, remedy = text.rpartition(". ")
    return (what, remedy) if what else (text, "use more ranks, or a smaller model")
