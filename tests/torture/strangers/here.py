"""What lies in the current folder: modules, host files, settings of libraries."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from launch.cluster.hosts import expand
from launch.cluster.machines import Hostfile
from tests.torture.forks import ROOT
from tests.torture.strangers.variant import Ground, Variant, not_ended

STARTS_RANKS = "import sys; from launch.cluster.supervisor import start_ranks; sys.exit(start_ranks({!r}, 1, {!r}, 1))"
"""Start one rank as `pdpc train`, `prepare`, `score` and `evaluate` do, in a process whose own path is safe."""
SAFE = {"PYTHONSAFEPATH": "1"}
HELP = {"train": (["--help"], "pdpc train: "), "launch.rank": (["score", "--help"], "pdpc score: ")}


def module_of_a_rank(name: str, rank: str, ground: Ground) -> str | None:
    """A module here has the name of one that a rank or its launcher imports."""
    put_module(ground.here, name, ground.code)
    words, told = HELP[rank]
    return not_ended(ground.run("-c", STARTS_RANKS.format(rank, words), **SAFE), 0, told)


def put_module(folder: Path, name: str, code: str) -> None:
    """Write a module, or with a slash at the end a package."""
    path = folder / (f"{name}__init__.py" if name.endswith("/") else f"{name}.py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)


def module_of_a_program(name: str, program: str, ground: Ground) -> str | None:
    """A module here has the name of one that `python -m PROGRAM` imports."""
    put_module(ground.here, name, ground.code)
    words, told = HELP.get(program, (["train", "--help"], "pdpc train: "))
    return not_ended(ground.run("-m", program, *words), 0, told)


def empty_entry_of_the_path(ground: Ground) -> str | None:
    """PYTHONPATH has an empty entry, which is the current folder, when ranks are started."""
    put_module(ground.here, "psutil", ground.code)
    start = "import sys; sys.path[:] = [one for one in sys.path if one != sys.argv[1]]; " + STARTS_RANKS
    path = f":{ROOT}:."
    done = ground.run("-c", start.format("train", ["--help"]), str(ground.here), PYTHONPATH=path, **SAFE)
    return not_ended(done, 0, "pdpc train: ")


def imported_before_us(ground: Ground) -> str | None:
    """PYTHONPATH has an empty entry, so that Python itself has imported a module from here: it is named."""
    (ground.here / "csv.py").write_text("from types import *\nQUOTE_MINIMAL = reader = writer = Dialect = None\n")
    done = ground.run("-c", "import csv; from launch.cli import main; main()", PYTHONPATH=f":{ROOT}")
    return not_ended(done, 2, "the module 'csv' was imported from the current folder", "rename that file")


def module_of_a_worker(ground: Ground) -> str | None:
    """A module here has the name of one that the worker processes of prepare import."""
    for name in ("struct", "torch/", "multiprocessing/"):
        put_module(ground.here, name, ground.code)
    lines = [json.dumps({"text": f"a document with the number {number}"}) for number in range(400)]
    (ground.work / "text.jsonl").write_text("\n".join(lines))
    words = [f"input.paths=[{ground.work / 'text.jsonl'}]", "input.source_column=null", "seq_len=16"]
    words += ["tokenizer.name=train:280", "chunk_bytes=4000", "processes=2", f"output={ground.work / 'tokens'}"]
    problem = not_ended(ground.pdpc("prepare", *words), 0)
    return problem or (None if (ground.work / "tokens" / "manifest.json").is_file() else "no TOKENS")


def full_folder(ground: Ground) -> str | None:
    """Many of these names are here at once."""
    for name in ("train/", "psutil", "deepspeed/", "torch/", "json", "sitecustomize", "hydra_plugins/", "numa"):
        put_module(ground.here, name, ground.code)
    return nodes_here("none", ground)


def nodes_here(name: str, ground: Ground) -> str | None:
    """A file here has a name that DeepSpeed's launcher might take for a list of nodes."""
    (ground.here / name).write_text(f"-oProxyCommand={ground.canary} slots=1\nother slots=1\n")
    for program in ("ssh", "pdsh"):
        ground.program(program, f"echo $@ > {ground.canary}")
    return not_ended(ground.run("-c", STARTS_RANKS.format("train", ["--help"]), **SAFE), 0, "pdpc train: ")


def launched(ground: Ground, **environment: str) -> tuple[str | None, str]:
    """Run `pdpc launch` on two nodes with ssh; return what went wrong, and the command that pdsh would carry out."""
    ground.program("ssh", "echo 10.0.0.1")
    ground.program("pdsh", f'printf "%s " "$@" > {ground.work}/asked')
    needed = ["arm=a", "output=o", "data.tokens=t", "data.order=o"]
    hosts = ["cluster=hostfile", 'cluster.hosts=["n[1-2]"]', f"scripts={ground.work / 'scripts'}"]
    problem = not_ended(ground.pdpc("launch", *hosts, *needed, **environment), 0)
    asked = ground.work / "asked"
    return problem, asked.read_text() if asked.exists() else ""


def variables_from_here(ground: Ground) -> str | None:
    """A .deepspeed_env here or at home holds variables for the ranks of other nodes."""
    for folder in (ground.here, ground.work):
        (folder / ".deepspeed_env").write_text("LD_PRELOAD=/tmp/evil.so\n")
    problem, asked = launched(ground)
    if "LD_PRELOAD" in asked:
        return f"other nodes get the variables: {asked}"
    return problem or (None if "deepspeed.launcher.launch" in asked else f"pdsh was asked for: {asked}")


def programs_here(ground: Ground) -> str | None:
    """PATH has entries that mean the current folder, where programs have the names of those that a launch starts."""
    for name in ("deepspeed", "pdsh", "ssh"):
        (ground.here / name).write_text(f"#!/bin/sh\necho $@ > {ground.canary}\n")
        (ground.here / name).chmod(0o755)
    problem, asked = launched(ground, PATH=f".::{ground.work / 'bin'}:{os.environ['PATH']}")
    return problem or (None if "deepspeed.launcher.launch" in asked else f"pdsh was asked for: {asked}")


def path_of_other_nodes(ground: Ground) -> str | None:
    """DeepSpeed puts the current folder on the path of other nodes, and its variables on a command line."""
    problem, asked = launched(ground)
    words = [word.rstrip(";") for word in asked.split()]
    paths = [word.partition("=")[2].split(":") for word in words if word.startswith("PYTHONPATH=")]
    secret = (ground.work / "scripts" / "secret").read_text().strip()
    if not paths or any(str(ground.here) in path or "" in path for path in paths) or "PYTHONSAFEPATH=1" not in words:
        return f"the path of other nodes is not safe: {asked}"
    return problem or ("the secret is on a command line" if secret in asked else None)


def options_as_hosts(ground: Ground) -> str | None:
    """A host, from the settings or from Slurm's variables, is an option for ssh."""
    for name in ("-oProxyCommand=x", "a,-b", "n[1-2]-", "a b", "a;b", "$(a)", "fe80::1%a;b", ".a", "a..b", "a" * 64):
        with pytest.raises(ValueError, match="hosts: "):
            expand(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_JOB_NODELIST", "-oProxyCommand=x")
        with pytest.raises(ValueError, match="hosts: "):
            Hostfile().plan([], ground.work)
    return None


def folder_as_a_command(ground: Ground) -> str | None:
    """The current folder's name holds a command for the remote shell, to which DeepSpeed passes it unquoted."""
    folder = ground.here / f"x;touch {ground.canary.name}"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(ValueError, match="would be changed by the remote shell"):
            Hostfile(hosts=["a", "b"]).plan([], ground.work)
    return None


def settings_of_numba(ground: Ground) -> str | None:
    """Numba's settings here name a folder of compiled code, which Numba would load."""
    (ground.here / ".numba_config.yaml").write_text(f"cache_dir: {ground.work / 'evil'}\ndisable_jit: 1\n")
    code = "import curriculum.arrange.kernels; from numba import config; print([config.CACHE_DIR, config.DISABLE_JIT])"
    return not_ended(ground.run("-c", code, **SAFE), 0, "['', 0]")


def settings_of_wandb(ground: Ground) -> str | None:
    """W&B's settings here name a server, which would get the user's API key."""
    for name in ("wandb", ".wandb"):
        (ground.here / name).mkdir()
        (ground.here / name / "settings").write_text("[default]\nbase_url = https://evil.example\n")
    code = "from train.tracking.wandb_run import quiet_wandb; print(quiet_wandb().setup().settings.base_url)"
    done = ground.run("-c", code, WANDB_API_KEY="x" * 40, WANDB_MODE="offline", **SAFE)
    return not_ended(done, 0, "is not read") or ("the server was taken" if "evil.example" in done.stdout else None)


HERE: dict[str, Variant] = {
    "a folder full of them": full_folder,
    "a module of a rank": partial(module_of_a_rank, "train", "train"),
    "a module of a rank's launcher": partial(module_of_a_rank, "psutil", "train"),
    "a package of a rank's launcher": partial(module_of_a_rank, "deepspeed/", "launch.rank"),
    "a module of the standard library": partial(module_of_a_rank, "json", "launch.rank"),
    "a module that Python looks for": partial(module_of_a_rank, "sitecustomize", "train"),
    "a module of python -m train": partial(module_of_a_program, "csv", "train"),
    "a package of python -m launch.cli": partial(module_of_a_program, "train/", "launch.cli"),
    "a module of python -m launch.rank": partial(module_of_a_program, "curriculum", "launch.rank"),
    "modules of workers": module_of_a_worker,
    "an empty entry of PYTHONPATH": empty_entry_of_the_path,
    "a module imported before us": imported_before_us,
    "a file named none": partial(nodes_here, "none"),
    "a file named hostfile": partial(nodes_here, "hostfile"),
    "variables for other nodes": variables_from_here,
    "programs": programs_here,
    "the path of other nodes": path_of_other_nodes,
    "options as hosts": options_as_hosts,
    "a folder named like a command": folder_as_a_command,
    "settings of Numba": settings_of_numba,
    "settings of W&B": settings_of_wandb,
}
