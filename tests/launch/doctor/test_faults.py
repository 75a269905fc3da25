"""Planted faults: the doctor names each, with its remedy."""

from __future__ import annotations

import errno
import http.server
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launch.doctor.check import Subject
from launch.doctor.filesystem import mount
from launch.doctor.gpus import gpus
from launch.doctor.step import compared
from tests.launch.doctor.conftest import Doctor
from tests.launch.doctor.smi import smi
from train.config.compose import compose_partly
from train.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[3]
DENIED = "user@node2: Permission denied (publickey,password)."
DOWN = "ssh: connect to host node2 port 22: No route to host"
UNKNOWN = "ssh: Could not resolve hostname node2: Name or service not known"
CHANGED = "Host key verification failed."
SSH = """\
while [ "$1" = -o ]; do shift 2; done
host=$1; shift
if [ "$host" = node2 ]; then {other}; fi
exec sh -c "$*"
"""
HOSTS = ["cluster=hostfile", "cluster.hosts=[node1,node2]", "cluster.gpus_per_node=1"]
Program = Callable[[str, str], None]


def the(lines: list[str], level: str, about: str) -> str:
    """Return the only line of a level about something."""
    found = [one for one in lines if one.startswith(f"{level:<7} {about}: ")]
    assert len(found) == 1, lines
    return found[0]


def only(name: str) -> str:
    return f"only=[{name}]"


# --- inputs and settings ---


def test_a_torn_artifact(doctor: Doctor, healthy: list[str], tmp_path: Path) -> None:
    order = Path(next(word.partition("=")[2] for word in healthy if word.startswith("data.order=")))
    torn = tmp_path / "torn"
    shutil.copytree(order, torn)
    file = max((path for path in torn.iterdir() if path.suffix == ".bin"), key=lambda path: path.stat().st_size)
    os.truncate(file, file.stat().st_size - 8)
    code, lines = doctor(only("order"), *healthy, f"data.order={torn}")
    line = the(lines, "FAILED", "order")
    assert code == 1
    assert f"{file} has {file.stat().st_size} bytes instead of {file.stat().st_size + 8}" in line
    assert f"remove {torn} and recreate it" in line


def test_one_changed_byte(doctor: Doctor, healthy: list[str], scores_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "scores"
    shutil.copytree(scores_folder, copy)
    file = next(copy.glob("**/*.parquet"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    _, lines = doctor(only("scores"), *healthy, f"data.scores={copy}")
    assert f"{file} does not match its checksum: it is damaged; recreate {copy}" in the(lines, "FAILED", "scores")


def test_a_missing_artifact(doctor: Doctor, healthy: list[str]) -> None:
    _, lines = doctor(only("tokens"), *healthy, "data.tokens=/nope")
    assert "tokens folder /nope does not exist: check the path or create it first" in the(lines, "FAILED", "tokens")


def test_another_tokenizer(doctor: Doctor, healthy: list[str], tokens_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tokens"
    shutil.copytree(tokens_folder, copy)
    file = copy / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace('"a"', '"A"', 1))
    _, lines = doctor(only("inputs"), *healthy, f"data.tokens={copy}")
    assert "tokenizer" in the(lines, "FAILED", "inputs")


def test_tokens_that_the_order_does_not_arrange(
    doctor: Doctor, healthy: list[str], order_folder: Path, tmp_path: Path, edit_manifest: Any
) -> None:
    copy = tmp_path / "order"
    shutil.copytree(order_folder, copy)
    edit_manifest(copy, lambda fields: fields["inputs"].update(tokens="0" * 32))
    _, lines = doctor(only("inputs"), *healthy, f"data.order={copy}")
    line = the(lines, "FAILED", "inputs")
    assert f"{copy} arranges other tokens ({'0' * 32})" in line
    assert "run pdpc arrange on these tokens" in line


def test_a_batch_that_does_not_divide_over_the_ranks(doctor: Doctor, healthy: list[str]) -> None:
    hosts = ["cluster=hostfile", "cluster.hosts=[n1,n2,n3]", "cluster.gpus_per_node=3"]
    code, lines = doctor(only("batch"), *hosts, *healthy)
    assert code == 1
    assert "9" in the(lines, "FAILED", "batch")


def test_settings_that_do_not_compose(doctor: Doctor, healthy: list[str]) -> None:
    code, lines = doctor("only=[composed,shm]", *healthy, "optimizer.lr=-1")
    assert code == 1
    assert "optimizer.lr=-1.0 must be above 0" in the(lines, "FAILED", "composed")
    assert the(lines, "ok", "shm"), "the machine is checked all the same"


def test_a_missing_task(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    task = {"task": "choice", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "no")}}}
    (tmp_path / "tasks" / "choice.yaml").write_text(json.dumps({**task, "test_split": "test", "doc_to_text": "q"}))
    words = ["benchmarks.tasks=[choice]", f"benchmarks.task_paths=[{tmp_path / 'tasks'}]"]
    code, lines = doctor(only("tasks"), *words)
    assert code == 1
    assert str(tmp_path / "no") in the(lines, "FAILED", "choice")


def test_an_output_that_holds_something_else(doctor: Doctor, healthy: list[str], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    _, lines = doctor(only("output"), *healthy, f"output={tmp_path / 'thesis'}")
    assert "contains other files (chapter1.tex): choose a new folder" in the(lines, "FAILED", "output")


# --- versions ---


def test_version_drift(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("deepspeed", "0.19.7"), ("safetensors", "0.7.0")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, lines = doctor("only=[packages,tested]")
    assert code == 1
    required = "0.19.7 is installed, but PDPC requires <0.19.9,>=0.19.8: pip install 'deepspeed<0.19.9,>=0.19.8'"
    assert required in the(lines, "FAILED", "deepspeed")
    assert "safetensors 0.7.0 (0.8.0)" in the(lines, "warning", "tested"), "allowed, but not what was tested"


def test_a_deepspeed_internal_that_was_renamed(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.runtime import bf16_optimizer

    renamed = bf16_optimizer.get_global_norm_of_tensors
    monkeypatch.setattr(bf16_optimizer, "global_norm_of_tensors", renamed, raising=False)
    monkeypatch.delattr(bf16_optimizer, "get_global_norm_of_tensors")
    code, lines = doctor(only("deepspeed"))
    line = the(lines, "FAILED", "deepspeed")
    assert code == 1
    assert "deepspeed.runtime.bf16_optimizer.get_global_norm_of_tensors does not exist" in line
    assert 'install "deepspeed>=0.19.8,<0.19.9"' in line


def test_an_extension_that_was_built_for_another_torch(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flash_attn-2.8.3.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.8.3\n"
    (tmp_path / "flash_attn-2.8.3.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: _ZN3c104cuda9SetDeviceEi')")
    monkeypatch.syspath_prepend(str(tmp_path))
    _, lines = doctor(only("kernels"))
    line = the(lines, "FAILED", "flash-attn")
    assert "does not load with torch" in line
    assert "reinstall it for this torch" in line


# --- GPUs ---


def test_uncorrected_ecc_errors(doctor: Doctor, program: Program) -> None:
    program("nvidia-smi", smi(ecc=["0, 0, 0, No", "1, 3, 120, No"]))
    code, lines = doctor(only("ecc"))
    assert code == 1
    assert "GPU 1 has 3 uncorrected ECC errors since its last reset: take the node out" in the(lines, "FAILED", "ecc")
    program("nvidia-smi", smi(ecc=["0, 0, 0, No", "1, 0, 0, Yes"]))
    assert "GPU 1 could not remap a damaged row" in the(doctor(only("ecc"))[1], "FAILED", "ecc")
    program("nvidia-smi", smi(ecc=["0, [N/A], [N/A], [N/A]"]))
    assert doctor(only("ecc"))[0] == 0, "a GPU without ECC is none with errors"


def test_gpus_that_torch_does_not_see(doctor: Doctor, program: Program) -> None:
    program("nvidia-smi", smi())
    _, lines = doctor(only("gpus"), "skip=[ecc,driver,interconnect]")
    assert "nvidia-smi lists 2 (NVIDIA A100-SXM4-80GB), but torch" in lines[0]
    assert lines[0].endswith("install torch's CUDA wheel")


def test_an_absent_gpu(doctor: Doctor, program: Program) -> None:
    program("nvidia-smi", smi(gpus=["0, NVIDIA A100-SXM4-80GB, 81920, 4"]))
    code, lines = doctor(only("gpus"), "skip=[ecc,driver,interconnect]", "processes=2")
    assert code == 1
    assert any("1 of the 2 GPUs that the run asks for are here: look for a GPU that fell off" in one for one in lines)


def test_a_broken_driver(doctor: Doctor, program: Program) -> None:
    error = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    program("nvidia-smi", f'echo "{error}"; exit 9')
    line = the(doctor(only("gpus"), "skip=[ecc,driver,interconnect]")[1], "FAILED", "gpus")
    assert error in line
    assert "reload or reinstall the NVIDIA driver" in line


def test_a_gpu_without_a_driver(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:3b:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    (found,) = gpus(subject(root=tmp_path))
    assert found.text == "1 NVIDIA GPU on the PCI bus, but no driver"
    assert "--gpus all" in found.remedy


def test_gpus_without_nvlink_and_gpus_in_use(doctor: Doctor, program: Program) -> None:
    program("nvidia-smi", smi(gpus=["0, NVIDIA A100, 81920, 70000", "1, NVIDIA A100, 81920, 4"], link="SYS"))
    _, lines = doctor(only("gpus"))
    assert "no NVLink between GPU0-GPU1 SYS: expect slow reductions" in the(lines, "warning", "interconnect")
    assert "GPU 0: 70,000 of 81,920 MiB are in use: end what runs there" in the(lines, "warning", "gpus")
    program("nvidia-smi", smi())
    assert "NVLink between all 2 GPUs" in the(doctor(only("interconnect"))[1], "ok", "interconnect")


# --- this machine ---


def test_a_low_limit_of_open_files(doctor: Doctor) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
    try:
        code, lines = doctor(only("open_files"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert code == 1
    assert "a process may open 500 files, a rank of 1 may need 520: ulimit -n 520" in the(lines, "FAILED", "open_files")


def in_namespace(script: str, *words: str) -> list[str]:
    """Run the doctor where `script` may mount; skip where the kernel does not let this user do that."""
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*enter, script], capture_output=True).returncode:
        pytest.skip("mounting needs a user namespace")
    python = [sys.executable, "-m", "launch.cli", "doctor", *words]
    done = subprocess.run([*enter, f'{script} && exec "$@"', "sh", *python], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return done.stdout.splitlines()


def test_small_shm_full_disk_and_read_only_output(tmp_path: Path, healthy: list[str]) -> None:
    full = tmp_path / "full"
    full.mkdir()
    script = f"mount -t tmpfs -o size=1m tmpfs /dev/shm && mount -t tmpfs -o ro,size=64k tmpfs {full}"
    lines = in_namespace(script, "only=[shm,space,output,mount]", *healthy, f"output={full}/run")
    shm = "1.05 MB of 1.05 MB are free in /dev/shm, 67.11 MB are needed for 1 rank: in a container use --ipc=host"
    assert shm in the(lines, "FAILED", "shm")
    assert "free some space, lower checkpoints.keep_last" in the(lines, "FAILED", "space")
    assert "cannot be written" in the(lines, "FAILED", "output")
    assert "is mounted read-only: remount it read-write" in the(lines, "FAILED", "mount")


def test_a_disk_that_is_too_small_for_the_checkpoints(doctor: Doctor, healthy: list[str]) -> None:
    code, lines = doctor(only("space"), *healthy, "checkpoints.keep_last=1000000000")
    assert code == 1
    assert "the run's 1000000001 checkpoints" in the(lines, "FAILED", "space")


def test_a_file_system_without_flock(doctor: Doctor, healthy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", fails)
    line = the(doctor(only("flock"), *healthy)[1], "FAILED", "flock")
    assert "cannot lock files: mount it with locks (Lustre: option flock; NFS: version 4" in line
    monkeypatch.setattr("fcntl.flock", lambda *_: None)  # local_lock, or a network file system that only pretends
    assert "two locks on one file" in the(doctor(only("flock"), *healthy)[1], "FAILED", "flock")


def test_a_rename_that_is_not_atomic(doctor: Doctor, healthy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def copy_and_delete(source: Path, target: Path) -> None:  # as object stores under FUSE do
        Path(target).unlink()
        time.sleep(0.002)
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr("os.replace", copy_and_delete)
    line = the(doctor(only("rename"), *healthy)[1], "FAILED", "rename")
    assert "while it was replaced by a rename" in line
    assert "choose an output on a POSIX file system" in line


@pytest.mark.parametrize(
    ("kind", "options", "level", "words"),
    [
        ("nfs", "rw,vers=3,nolock,local_lock=all,addr=10.0.0.1", "FAILED", "mounted with nolock"),
        ("nfs4", "rw,vers=4.2,local_lock=flock", "FAILED", "mounted with local_lock=flock"),
        ("nfs4", "rw,vers=4.2,hard,local_lock=none", "ok", "nfs4 at"),
        ("nfs4", "rw,vers=4.2,soft,local_lock=none", "warning", "mounted soft"),
        ("lustre", "rw,lazystatfs", "FAILED", "mounted without flock"),
        ("lustre", "rw,localflock", "FAILED", "with localflock"),
        ("lustre", "rw,flock,lazystatfs", "ok", "lustre at"),
        ("tmpfs", "rw,size=1024k", "warning", "is memory"),
    ],
)
def test_mount_options(kind: str, options: str, level: str, words: str, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "my data"
    (root / "proc/self").mkdir(parents=True)
    out.mkdir()
    point = str(out).replace(" ", r"\040")
    root_line = "22 1 254:1 / / rw,relatime - ext4 /dev/vda rw"
    line = f"40 22 0:41 / {point} rw,relatime shared:9 - {kind} srv:/x {options}"
    (root / "proc/self/mountinfo").write_text(f"{root_line}\n{line}\n")
    (found,) = mount(subject([f"output={out}/run"], root=root))
    assert (found.level, words in found.text) == (level, True), found
    assert found.remedy or level == "ok"


def test_a_wrong_clock(doctor: Doctor, healthy: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "train.log").touch()
    os.utime(run / "train.log", (time.time() + 7200,) * 2)
    line = the(doctor(only("clock"), *healthy)[1], "warning", "clock")
    assert f"{run / 'train.log'} is dated 7" in line
    assert "start NTP" in line


# --- network ---


def test_a_port_that_is_taken(doctor: Doctor) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1]
        words = ["as_node=true", "cluster=hostfile", "cluster.hosts=[localhost]", f"cluster.master_port={number}"]
        code, lines = doctor(only("port"), *words)
    line = the(lines, "FAILED", "port")
    assert code == 1
    assert f"port {number} is taken by " in line
    assert f"(pid {os.getpid()})" in line
    assert "give another cluster.master_port" in line
    assert doctor(only("port"), *words)[0] == 0, "it is free again"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (f"echo '{DENIED}' >&2; exit 255", f"it rejects this user's key ({DENIED}): ssh-copy-id node2"),
        (f"echo '{DOWN}' >&2; exit 255", f"it does not answer ({DOWN}): is it up"),
        (f"echo '{UNKNOWN}' >&2; exit 255", "its name is unknown here"),
        (f"echo '{CHANGED}' >&2; exit 255", "ssh-keygen -R node2"),
        ('PATH="$(dirname "$0")/late:$PATH"', "its clock is 3600 s behind: start NTP on it"),
        ('set -- "$(echo "$*" | sed s/pdpc_doctor-/elsewhere-/)"', "does not see"),
    ],
    ids=["wrong key", "host down", "unknown name", "host key", "wrong clock", "other file system"],
)
def test_a_node(other: str, words: str, doctor: Doctor, healthy: list[str], program: Program) -> None:
    program("ssh", SSH.format(other=other))
    program("late/date", "exec /bin/date -d '1 hour ago' \"$@\"")
    code, lines = doctor(only("nodes"), *HOSTS, *healthy)
    assert code == 1
    assert the(lines, "ok", "node1")
    assert words in the(lines, "FAILED", "node2")


def test_a_bad_hostfile(doctor: Doctor, capsys: pytest.CaptureFixture[str]) -> None:
    from launch.cli import main

    assert main(["doctor", "cluster=hostfile", "cluster.hosts=[gpu1,gpu1]"]) == 2
    assert "cluster.hosts lists gpu1 more than once: list each node once" in capsys.readouterr().err


def test_missing_programs(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _, lines = doctor(only("programs"), "cluster=slurm")
    assert "is not installed: sbatch submits the job" in the(lines, "FAILED", "sbatch")
    assert "salloc" in the(lines, "warning", "nodes")


# --- services ---


@contextmanager
def server(answers: dict[str, tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """Serve JSON by path on a free port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answers[self.path.partition("?")[0]]
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_STORED_TOKENS_PATH", str(tmp_path / "none"), raising=False)


def test_wandb(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, online: None) -> None:
    words = [only("wandb"), "tracker=wandb", "tracker.entity=physics"]
    monkeypatch.setenv("WANDB_MODE", "onlime")
    code, lines = doctor(*words)
    assert code == 1
    assert "WANDB_MODE=onlime is unknown: use one of online, offline" in the(lines, "FAILED", "wandb")
    monkeypatch.delenv("WANDB_MODE")
    key = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    teams = {"edges": [{"node": {"name": "chemistry"}}]}
    viewer = {"data": {"viewer": {"username": "ada", "entity": "ada", "teams": teams}}}
    with server({"/graphql": (200, viewer)}) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        _, lines = doctor(*words)
        expected = "tracker.entity=physics is not one of the key's (ada, chemistry): correct it"
        assert expected in the(lines, "FAILED", "wandb")
        assert "online at" in the(doctor(*words[:2], "tracker.entity=chemistry")[1], "ok", "wandb")
    with server({"/graphql": (401, {})}) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        line = the(doctor(*words)[1], "FAILED", "wandb")
        assert "rejects the API key (HTTP 401): wandb login --relogin" in line
        assert key not in line
    monkeypatch.setenv("WANDB_BASE_URL", f"{url}/{key}")  # nothing listens there any more
    code, lines = doctor(*words)
    assert code == 0
    assert "cannot be reached" in the(lines, "warning", "wandb")
    assert key not in "".join(lines), "no secret is printed"


def test_the_hub(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, online: None) -> None:
    words = [only("hub"), "benchmarks.tasks=[gpqa_main_zeroshot]", "benchmarks.offline=false"]
    with server({"/api/models": (200, {}), "/api/whoami-v2": (401, {})}) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert "there is no token: set HF_TOKEN" in the(doctor(*words)[1], "warning", "hub")
        monkeypatch.setenv("HF_TOKEN", token := f"hf_{'x' * 34}")
        code, lines = doctor(*words)
        assert code == 1
        assert "rejects the token (HTTP 401): set another HF_TOKEN" in the(lines, "FAILED", "hub")
        assert token not in "".join(lines)
    assert "pack the tasks" in the(doctor(*words)[1], "FAILED", "hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "but HF_HUB_OFFLINE is set: unset" in the(doctor(*words)[1], "FAILED", "hub")
    assert doctor(only("hub"))[1] == ["0 ok, 0 warnings, 0 failures"], "not asked for, not checked"


# --- the step ---


@pytest.mark.parametrize(("size", "stage", "broken"), [(2, 1, False), (1, 3, False), (1, 0, True)])
def test_a_wrong_gradient(size: int, stage: int, broken: bool, healthy: list[str], tmp_path: Path, forks: Any) -> None:
    words = [*(word for word in healthy if not word.startswith("processes=")), f"zero.stage={stage}"]
    result = tmp_path / "result"
    arguments = {"words": words, "result": str(result), "broken": broken}
    ranks = forks.start("tests.launch.doctor.ranks:stepped", arguments, size, tmp_path / "log")
    assert ranks.wait(300) == [0] * size, ranks.told()
    found = compared(json.loads(result.read_text()), "fp32", size)
    assert found.level == ("FAILED" if broken else "ok"), found
    assert found.text.startswith("wrong gradient") == broken
    assert ("execution.kernels=plain" in found.remedy) == broken


def subject(words: list[str] | None = None, **more: Any) -> Subject:
    settings, missing = compose_partly("train", TrainSettings, ["tracker=none", *(words or [])], DEFAULTS)
    return Subject(settings, words or [], frozenset(missing), **more)


DEFAULTS = {"data.tokens": "TOKENS", "data.order": "ORDER", "output": "run", "arm": "a"}
