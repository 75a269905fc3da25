"""A single rank on this machine: started without DeepSpeed's launcher, by a process without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.cluster import supervisor

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("visible", "count", "given"), [(None, 0, None), (None, 2, "0"), ("3,1", 2, "3"), ("GPU-5a", 1, "GPU-5a")]
)
def test_one_rank_is_started_directly(
    visible: str | None, count: int, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def supervise(command, environment, hang_timeout_s=None, *, reports_codes=False):
        seen.update(command=command, environment=environment, given=(hang_timeout_s, reports_codes))
        return 7

    monkeypatch.setattr(supervisor, "supervise", supervise)
    monkeypatch.setattr(supervisor, "gpus", lambda: count)
    monkeypatch.setenv("WORLD_SIZE", "4")  # left over from another program
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert supervisor.start_ranks("train", 1, ["seed=1"], 2, 60.0, reports_codes=True) == 7
    assert seen["command"] == [sys.executable, "-m", "train", "seed=1"]
    assert seen["given"] == (60.0, True)
    place = {name: seen["environment"].get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE")}
    assert place == {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    assert seen["environment"].get("CUDA_VISIBLE_DEVICES") == given
    supervisor.start_ranks("train", 2, [], 2)
    assert seen["command"][:3] == [sys.executable, "-m", "deepspeed.launcher.runner"]


def test_pdpc_train_checks_its_inputs_without_torch() -> None:
    modules = "launch.train train.inputs train.engine.config train.resume.runfolder train.resume.identity"
    code = f"""
import importlib, sys
for name in {modules.split()}:
    importlib.import_module(name)
from launch.cluster.supervisor import launcher_environment
from train.distributed.heartbeat import STORE
print([name for name in ("torch", "deepspeed", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
