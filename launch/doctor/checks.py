"""The table of checks, in the order in which they run. docs/doctor.md lists the same rows."""

from __future__ import annotations

from collections.abc import Sequence

from launch.doctor.check import Check

CHECKS: tuple[Check, ...] = (
    Check("config", "composed", "the run's settings compose, and no required key is missing", once=True),
    Check("versions", "packages", "installed packages satisfy the requirements of PDPC"),
    Check("versions", "tested", "they are the versions that PDPC was tested with (constraints.txt)"),
    Check("versions", "torch", "torch, CUDA, NCCL and triton fit each other", 60),
    Check("versions", "deepspeed", "DeepSpeed has every internal that the run uses or replaces", 120),
    Check("versions", "kernels", "attention backend and kernels that the run takes; optional ones load", 120),
    Check("gpus", "gpus", "GPUs: as many as asked for, seen by torch, alike, with free memory", 60),
    Check("gpus", "ecc", "no uncorrected ECC errors, no failed row remapping", 60),
    Check("gpus", "driver", "the driver supports torch's CUDA", 60),
    Check("gpus", "interconnect", "the GPUs of a node are connected by NVLink", 60),
    Check("host", "shm", "size of /dev/shm"),
    Check("host", "open_files", "limit of open files"),
    Check("host", "cpus", "CPUs for the ranks"),
    Check("host", "memory", "memory for the run's weights, states and activations", 60),
    Check("filesystem", "output", "the output folder can be written and holds nothing else", 60),
    Check("filesystem", "mount", "type and mount options of its file system"),
    Check("filesystem", "flock", "flock works there"),
    Check("filesystem", "rename", "rename is atomic there", 60),
    Check("filesystem", "mmap", "a mapped file shows what is written to it"),
    Check("filesystem", "space", "space for the run's checkpoints"),
    Check("filesystem", "speed", "speed of writing and reading", 120),
    Check("filesystem", "clock", "this machine's clock against the file system's"),
    Check("network", "hostname", "this machine's name resolves to an address that other nodes can reach"),
    Check("network", "port", "the rendezvous port is free on the first node"),
    Check("network", "programs", "the programs that start the nodes are installed", once=True),
    Check("network", "nodes", "every node answers, has a right clock and the same output folder", 120, once=True),
    Check("services", "wandb", "W&B mode, key, server and entity, if the run logs to W&B", 60),
    Check("services", "hub", "access to the Hugging Face hub, if the run may use the network", 60),
    Check("artifacts", "tokens", "manifest, sizes and checksums of TOKENS", 600),
    Check("artifacts", "order", "the same of ORDER", 600),
    Check("artifacts", "scores", "the same of SCORES", 600),
    Check(
        "artifacts", "inputs", "they fit each other, the tokenizer, the model and the initial weights", 300, once=True
    ),
    Check("config", "batch", "the batch of the order divides over ranks and micro-batches", once=True),
    Check("config", "resumes", "what is in the output folder is this run, or nothing", 60, once=True),
    Check("benchmarks", "packs", "checksums of task packs", 600, once=True),
    Check("benchmarks", "tasks", "every task loads, and its first question is built", 3600, once=True),
    Check("step", "step", "one step at the run's micro-batch; its gradient norm against plain torch in fp32", 600),
    Check("cluster", "every_node", "the checks of a machine, on every node", 1800, once=True),
)
"""A check is a function of its name in `launch/doctor/GROUP.py`."""

EVERY_NODE = CHECKS[-1]
GROUPS = tuple(dict.fromkeys(check.group for check in CHECKS))


def selected(only: Sequence[str], skip: Sequence[str]) -> list[Check]:
    """Return the checks whose group or name is in `only` (all if that is empty) and not in `skip`.

    Raises ValueError for an unknown name.
    """
    known = {*GROUPS, *(check.name for check in CHECKS)}
    for key, names in (("only", only), ("skip", skip)):
        if unknown := sorted(set(names) - known):
            raise ValueError(
                f"{key}: there is no check {unknown[0]!r}: use groups ({', '.join(GROUPS)}) or their checks"
            )

    def named(check: Check, names: Sequence[str]) -> bool:
        return check.group in names or check.name in names

    return [check for check in CHECKS if (not only or named(check, only)) and not named(check, skip)]
