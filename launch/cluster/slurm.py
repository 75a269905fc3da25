"""A Slurm cluster, and the batch script submitted to its queue."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.cluster.container import check_container, in_container
from launch.cluster.hosts import NAME
from launch.cluster.machines import Cluster, Start, check_environment, check_least, check_plain, programs
from train.config.safe_path import safe_variables

TIME_LIMIT = re.compile(r"(\d+-)?\d+(:[0-5]\d){1,2}|\d+-\d+")
DIRECTIVE = re.compile(r"(--[a-z][a-z-]*)(=[\w.,:/%@&|*()\[\]+-]+)?")
RESERVED = {
    "--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--time", "--output", "--signal", "--open-mode",
    "--requeue", "--exclusive", "--wait-all-nodes", "--partition", "--account", "--qos",
}  # fmt: skip
"""Options that the script writes from other keys."""
SHARING = ("--array", "--ntasks", "--ntasks-per-core", "--ntasks-per-gpu", "--ntasks-per-socket", "--wrap")
"""Options with which several tasks would write the same output."""

MARGIN_S = 30
"""Seconds that the script reserves between the ranks' exit and the time limit."""

HEAD = """\
#!/usr/bin/env bash
# Written by `pdpc {verb} cluster=slurm`. NOT YET RUN ON A GPU CLUSTER: try it on {first} first.
# Submit with: sbatch {path}
{directives}

set -eo pipefail
if [[ -n ${{SLURM_ARRAY_TASK_ID-}} ]]; then
    echo "this is a task of a job array, and all of them would write the same output: submit it without --array" >&2
    exit 2
fi
cd {workdir}
export PATH={programs}:"$PATH"
{safe}{environment}set -u  # not earlier: `module` and `conda` read unset variables
absolute() {{  # an entry that is not absolute, also an empty one, would be the current folder
    local entry entries found=
    IFS=: read -ra entries <<< "$1"
    for entry in "${{entries[@]}}"; do
        [[ $entry != /* ]] || found+=${{found:+:}}$entry
    done
    printf %s "$found"
}}
PYTHONPATH=$(absolute "${{PYTHONPATH-}}")
LD_LIBRARY_PATH=$(absolute "${{LD_LIBRARY_PATH-}}")
PATH=$(absolute "$PATH")
export PYTHONPATH LD_LIBRARY_PATH PATH
"""

RANKS = """
# Network: uncomment what `ibstat` and `nvidia-smi topo -m` on a node confirm. A800 nodes are A100 nodes with NVLink
# at 400 GB/s; they need no special settings.
# export NCCL_SOCKET_IFNAME=bond0         # interface for the rendezvous
# export NCCL_IB_HCA=mlx5_0,mlx5_1        # InfiniBand or RoCE cards, as named by `ibstat`
# export NCCL_IB_GID_INDEX=3              # RoCE v2 only
# export NCCL_IB_TIMEOUT=22               # large fabrics
# export NCCL_IB_DISABLE=1                # no InfiniBand: TCP
# export NCCL_DEBUG=INFO                  # logs which network is used

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
if (( ${{#nodes[@]}} != {nodes} )); then
    echo "expected {nodes} nodes, but Slurm allocated ${{#nodes[@]}}: ${{nodes[*]}}" >&2
    exit 1
fi
for node in "${{nodes[@]}}"; do
    if [[ ! $node =~ ^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$ ]]; then
        echo "$node is not a host name" >&2
        exit 1
    fi
done
head_node=${{nodes[0]}}
export PDPC_ROLL={folder}/roll.$SLURM_JOB_ID  # where each rank writes its process id and its exit code
rm -rf "$PDPC_ROLL" && mkdir -m 700 "$PDPC_ROLL"
hostfile=$PDPC_ROLL/hostfile  # in the new folder, where nobody can have put a link
printf '%s slots={slots}\\n' "${{nodes[@]}}" > "$hostfile"
restart=${{SLURM_RESTART_COUNT:-0}}
export PDPC_SECRET=$PDPC_ROLL/secret.$restart  # without it, neither strangers nor leftovers of an attempt can join
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > "$PDPC_SECRET")
master_port=$(( 12000 + (SLURM_JOB_ID + 101 * restart) % 16000 ))  # below the ephemeral port range
echo "job $SLURM_JOB_ID, restart $restart, nodes ${{nodes[*]}}, port $master_port"

# shellcheck disable=SC2016  # the overrides must not be expanded by this shell
overrides=(
{overrides}
)

train() {{
{start}
}}
"""

TAIL = """
# {signal_s} s before the time limit, Slurm signals only this shell, which signals {whom}: {they}
# write a checkpoint and exit, and the job is requeued. The launcher gets no signal: it would orphan the ranks.
# shellcheck disable=SC2329  # called by the trap
nearly_over() {{
    echo "time limit is near: writing a checkpoint, then requeueing the job"
    if kill -USR1 {pid}; then
        for (( waited = 0; waited < {wait_s}; waited++ )); do
            kill -0 "$run" 2> /dev/null || break
            sleep 1
        done
    fi
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}}
trap nearly_over USR1

{start} &  # in the background: bash runs no trap while it waits for a foreground command
run=$!
wait "$run"
"""

BY_SRUN = """\
    # one launcher per node
    # shellcheck disable=SC2016  # the inner shell expands these
    srun --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=1 {container}bash -c '
        exec deepspeed --hostfile "$1" --no_ssh --node_rank "$SLURM_NODEID" --master_addr "$2" --master_port "$3" \\
            --no_local_rank --module train "${{@:4}}"
    ' launch "$hostfile" "$head_node" "$master_port" "${{overrides[@]}}\""""

BY_SSH = """\
    # the head node starts the others with pdsh; DeepSpeed exports the variables in this file to them
    export DS_ENV_FILE="$PDPC_ROLL/environment"
    printf '%s\\n' {exported} > "$DS_ENV_FILE"
    deepspeed --hostfile "$hostfile" --master_addr "$head_node" --master_port "$master_port" \\
        --no_local_rank --module train "${{overrides[@]}}\""""


def check_folder(key: str, folder: Path) -> None:
    """Raise ValueError for a folder of scripts, the value of the setting `key`, that sbatch would not take as it is."""
    if not re.fullmatch(r"[\w./@+-]+", str(folder)):
        raise ValueError(f"{key}={str(folder)!r} appears in an #SBATCH line: use a path without spaces or % signs")


@dataclass(frozen=True)
class Slurm(Cluster):
    """A Slurm cluster whose nodes share the file system and the Python environment."""

    nodes: int = 1
    """Number of nodes."""
    gpus_per_node: int | None = 8
    """GPUs to request on each node, each for one rank; null: request none, where the cluster has no GRES."""
    processes_per_node: int | None = None
    """Ranks to start on each node; null: gpus_per_node."""
    time_limit: str = "24:00:00"
    """hours:minutes:seconds or days-hours:minutes:seconds; the run writes a checkpoint and is requeued before it."""
    signal_s: int = 120
    """Seconds before the time limit at which the run is signaled; Slurm may send the signal up to a minute earlier."""
    job_name: str = "pdpc"
    """Name of the job and of its log."""
    partition: str | None = None
    """Partition; null: the cluster's default."""
    account: str | None = None
    """Account to charge; null: the user's default."""
    qos: str | None = None
    """Quality of service; null: the user's default."""
    options: list[str] = field(default_factory=list)
    """Additional sbatch options, such as --constraint=a100 or --mem=0."""
    setup: list[str] = field(default_factory=list)
    """Shell lines to run first, such as module load cuda/13.0."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables for the ranks."""
    ssh: bool = False
    """Start the other nodes from the first one with pdsh over ssh instead of srun."""
    container: str | None = None
    """Image in which the ranks run: a file, or for pyxis a name in a registry; null: no container."""
    container_runtime: str = "pyxis"
    """What starts it: pyxis (enroot; options of srun) or apptainer (formerly Singularity)."""
    container_mounts: list[str] = field(default_factory=list)
    """Folders of the nodes that the container sees under the same path: data and outputs. The current folder and
    `scripts` always are."""

    def __post_init__(self) -> None:
        check_least("nodes", self.nodes)
        for key in ("gpus_per_node", "processes_per_node"):
            if getattr(self, key) is not None:
                check_least(key, getattr(self, key))
        if self.gpus_per_node is None and self.processes_per_node is None:
            raise ValueError(
                "cluster.gpus_per_node=null requests no GPUs: say with cluster.processes_per_node how many ranks each "
                "node runs"
            )
        if self.signal_s <= MARGIN_S:
            raise ValueError(f"cluster.signal_s={self.signal_s} must be greater than {MARGIN_S} seconds")
        if not TIME_LIMIT.fullmatch(self.time_limit):
            raise ValueError(
                f"cluster.time_limit={self.time_limit!r} must be hours:minutes:seconds or days-hours:minutes:seconds "
                '(quoted in YAML: "24:00:00")'
            )
        for key in ("job_name", "partition", "account", "qos"):
            value = getattr(self, key)
            if value is not None and not NAME.fullmatch(value):
                raise ValueError(f"cluster.{key}={value!r} must consist of letters, digits, dots, - and _")
        for option in self.options:
            match = DIRECTIVE.fullmatch(option)
            if option.partition("=")[0] in SHARING:
                raise ValueError(
                    f"cluster.options: with {option} several tasks would write the same output: use pdpc study for "
                    "several runs, and cluster.processes_per_node for the ranks of one"
                )
            if not match or match.group(1) in RESERVED:
                raise ValueError(
                    f"cluster.options: {option!r} is not of the form --name=value, or is already set by a key of "
                    "cluster=slurm: see pdpc launch --help"
                )
        for line in self.setup:
            if not line.isprintable():
                raise ValueError(f"cluster.setup: {line!r} is not a single line: give one list item per line")
        check_environment(self.environment)
        check_container(self.container, self.container_runtime, self.container_mounts)
        if self.container is not None and self.ssh:
            raise ValueError("cluster.container needs srun: remove cluster.ssh=true")

    @property
    def processes(self) -> int:
        """Ranks on each node."""
        found = self.processes_per_node or self.gpus_per_node
        assert found is not None
        return found

    def ranks(self) -> int:
        """Return how many ranks it starts."""
        return self.nodes * self.processes

    @property
    def longest_grace_s(self) -> int:
        """Seconds that the ranks have for their checkpoint."""
        return self.signal_s - MARGIN_S

    def check_grace(self, grace_s: float) -> None:
        """Raise ValueError if grace_s allows the ranks more time than Slurm does."""
        if grace_s > self.longest_grace_s:
            raise ValueError(
                f"cluster.signal_s={self.signal_s} is too short for grace_s={grace_s:g} (time for a checkpoint) plus "
                f"{MARGIN_S} s for the script: use cluster.signal_s={math.ceil(grace_s) + MARGIN_S} or more"
            )

    def plan(self, overrides: Sequence[str], folder: Path) -> Start:
        """Return the batch script and the sbatch command that submits it."""
        check_folder("scripts", folder)
        if self.ssh:
            check_plain([*overrides, str(Path.cwd()), *self.environment.values()])
        path = folder / "train.sbatch"
        return Start(["sbatch", str(path)], {path: self.script(overrides, path)})

    def script(self, overrides: Sequence[str], path: Path) -> str:
        """Return the text of the batch script to be written to `path`."""
        directives = [
            f"--nodes={self.nodes}",
            "--ntasks-per-node=1",
            *([] if self.gpus_per_node is None else [f"--gpus-per-node={self.gpus_per_node}"]),
            "--exclusive",
            "--wait-all-nodes=1",
        ]
        exported = ['"PDPC_ROLL=$PDPC_ROLL"', '"PDPC_SECRET=$PDPC_SECRET"', '"PYTHONSAFEPATH=1"']
        exported += ['"PYTHONPATH=$PYTHONPATH"']
        exported += [shlex.quote(f"{name}={value}") for name, value in self.environment.items()]
        container = ""
        if self.container is not None:
            given = (self.container, self.container_runtime, self.container_mounts)
            container = in_container(*given, path.parent, gpus=self.gpus_per_node is not None) + " "
        ranks = RANKS.format(
            nodes=self.nodes,
            slots=self.processes,
            folder=shlex.quote(str(path.parent)),
            overrides="\n".join(f"    {shlex.quote(one)}" for one in overrides),
            start=BY_SSH.format(exported=" ".join(exported)) if self.ssh else BY_SRUN.format(container=container),
        )
        head = self._head("launch", "two nodes", self.job_name, path, directives)
        return head + ranks + self._tail('"$(cat "$PDPC_ROLL/00000.pid")"', "rank 0 on this node", "all ranks", "train")

    def job(self, command: Sequence[str], path: Path, gpus: int) -> str:
        """Return the text of a batch script, to be written to `path`, that runs a command of `pdpc study` on one node.

        The job is named after the script. `gpus`: GPUs to request; the rest of the node stays free for others.
        """
        directives = ["--nodes=1", "--ntasks=1", *([f"--gpus={gpus}"] if gpus else [])]
        head = self._head("study", "a small study", f"{self.job_name}-{path.stem}", path, directives)
        return head + self._tail('"$run"', "this command", "its ranks", shlex.join(command))

    def _head(self, verb: str, first: str, name: str, path: Path, directives: Sequence[str]) -> str:
        """Return the first part of a batch script: options for sbatch and the environment."""
        named = {"partition": self.partition, "account": self.account, "qos": self.qos}
        options = [
            f"--job-name={name}",
            *directives,
            f"--time={self.time_limit}",
            "--open-mode=append",
            f"--output={path.parent}/%x-%j.log",
            f"--signal=B:USR1@{self.signal_s}",
            "--requeue",
            *(f"--{key}={value}" for key, value in named.items() if value is not None),
            *self.options,
        ]
        exports = [f"export {key}={shlex.quote(value)}" for key, value in self.environment.items()]
        return HEAD.format(
            verb=verb,
            first=first,
            path=shlex.quote(str(path)),
            directives="\n".join(f"#SBATCH {one}" for one in options),
            workdir=shlex.quote(str(Path.cwd())),
            programs=shlex.quote(str(programs())),
            safe="".join(f"export {key}={shlex.quote(value)}\n" for key, value in safe_variables().items()),
            environment="".join(f"{line}\n" for line in [*self.setup, *exports]),
        )

    def _tail(self, pid: str, whom: str, they: str, start: str) -> str:
        """Return the last part of a batch script: run `start`, and signal `pid` before the time limit."""
        wait_s = self.longest_grace_s
        return TAIL.format(signal_s=self.signal_s, wait_s=wait_s, pid=pid, whom=whom, they=they, start=start)
