"""The checks of a machine on every node, the lines prefixed by the node's name."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launch.cluster.machines import Hostfile
from launch.cluster.slurm import Slurm
from launch.doctor.check import FAILURE, OK, WARNING, Finding, Subject, failure
from launch.doctor.network import AT_ONCE, reach, unreachable
from launch.doctor.programs import Said, said
from train.config.safe_path import safe_variables

NODE_S = 1500.0
"""How long the doctor on a node may take, seconds."""


def every_node(subject: Subject) -> Iterator[Finding]:
    """Run the checks of a node on all of them at the same time; yield what they find, node by node."""
    if not subject.hosts:
        return
    command = _command(subject)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(lambda host: said(reach(host, command), NODE_S), subject.hosts)
        for host, answer in zip(subject.hosts, answers, strict=True):
            yield from _findings(host, answer)


def _command(subject: Subject) -> list[str]:
    """Return the words that start the doctor on a node, in the same folder, with the same Python and settings."""
    assert isinstance(subject.cluster, Hostfile | Slurm)
    variables = safe_variables() | subject.cluster.environment
    where = ["cluster=hostfile", f"cluster.hosts=[{','.join(subject.hosts)}]"]
    where += [f"cluster.gpus_per_node={subject.cluster.gpus_per_node}"]
    if isinstance(subject.cluster, Hostfile):
        where += [f"cluster.master_port={subject.cluster.master_port}"]
    chosen = f"only=[{','.join(subject.node_checks)}]"
    doctor = [sys.executable, "-m", "launch.cli", "doctor", "as_node=true", chosen, *where, *subject.overrides]
    exported = [f"{name}={value}" for name, value in variables.items() if name not in ("PATH", "LD_LIBRARY_PATH")]
    return ["sh", "-c", f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(['env', *exported, *doctor])}"]


def _findings(host: str, answer: Said) -> Iterator[Finding]:
    lines = [one for one in answer.out.splitlines() if one[:7].strip() in (OK, WARNING, FAILURE)]
    for one in lines:
        about, _, text = one[8:].partition(": ")
        yield Finding(
            one[:7].strip(), text, "" if ": " in text or one.startswith(OK) else "see above", f"{host}: {about}"
        )
    if not lines:
        yield unreachable(host, answer)
    elif answer.code not in (os.EX_OK, 1):
        yield failure(f"the doctor there ended early ({answer.last})", f"run pdpc doctor on {host}", f"{host}: doctor")
