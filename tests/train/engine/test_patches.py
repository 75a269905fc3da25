"""The table of DeepSpeed internals: a missing or changed one is an error when an engine starts."""

import ast
import inspect
import pkgutil
import tomllib
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from models import DecoderConfig
from models.decoder import build
from train.config.compose import compose
from train.engine import Engine, communication, config, engine, patches
from train.settings import TrainSettings

ROOT = Path(__file__).parents[3]
CONFIG = DecoderConfig(vocab_size=64, layers=1, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=16, end_of_text=0)
RUNS = [
    "zero.stage=0 precision=fp32",
    "zero.stage=0 precision=bf16",
    "zero.stage=2 precision=bf16",
    "zero.stage=3 precision=bf16 zero.offload_optimizer=nvme zero.offload_param=nvme zero.nvme_path=",
]
"""Together they use every row."""


@cache
def settings_of(run: str, folder: Path) -> TrainSettings:
    words = [word + str(folder) if word.endswith("=") else word for word in run.split()]
    return compose("train", TrainSettings, [*words, "output=o", "arm=a", "data.tokens=t", "data.order=o"])


def start(run: str, folder: Path, world) -> Engine:
    return Engine(build(CONFIG, 0), settings_of(run, folder), 8, world)


def named(rows) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.path} {row.where.words}") for row in rows])


def owners(row: patches.Row) -> list:
    """Return the module, or the class and those of its bases, that have it."""
    owner = pkgutil.resolve_name(row.owner)
    return [place for place in (owner.__mro__ if inspect.isclass(owner) else [owner]) if row.name in vars(place)]


def refused(row: patches.Row, problem: str, begin) -> None:
    with pytest.raises(patches.UnknownDeepSpeed) as raised:
        begin()
    said = str(raised.value)
    assert said.startswith(f"DeepSpeed {version('deepspeed')}: {row.path} {problem}"), said
    assert said.endswith(f'install "deepspeed{patches.TESTED}"')


STATIC = [row for row in patches.TABLE if not row.held]


@named(row for row in STATIC if row.name != "__init__")
def test_a_missing_internal_is_an_error(row, world, monkeypatch):
    patches.check([row])
    for owner in owners(row):
        monkeypatch.delattr(owner, row.name)
        monkeypatch.delattr(owner, "__getattr__", raising=False)  # which would create it again
    refused(row, "does not exist", lambda: patches.check([row]))


@named(row for row in STATIC if row.parameters is not None and (row.replaced or row.parameters))
def test_other_parameters_are_an_error(row, world, monkeypatch):
    monkeypatch.setattr(owners(row)[0], row.name, lambda surprise: None)
    refused(row, "takes (surprise), not (", lambda: patches.check([row]))


def test_ranks_do_not_meet_under_an_unknown_deepspeed(world, monkeypatch):
    from deepspeed.utils import groups

    monkeypatch.delattr(groups, "_clone_world_group")
    row = next(row for row in patches.TABLE if row.name == "_clone_world_group")
    refused(row, "does not exist", communication.load)


@pytest.mark.parametrize("name", ["see_memory_usage", "_get_norm_groups", "AsyncIOBuilder"])
def test_no_engine_starts_under_an_unknown_deepspeed(name, world, tmp_path, monkeypatch):
    row = next(row for row in patches.TABLE if row.name == name)
    monkeypatch.delattr(owners(row)[0], name)
    refused(row, "does not exist", lambda: start(RUNS[-1], tmp_path, world))
    assert list(tmp_path.iterdir()) == [], "swap files are left"


def test_the_runs_of_these_tests_use_every_row(tmp_path):
    used = {row for run in RUNS for row in patches.applying(settings_of(run, tmp_path))}
    assert used == {row for row in patches.TABLE if row.where is not patches.JOIN}


@cache
def built(run: str, folder: Path, world):
    """Return DeepSpeed's engine of a run, with small tensors in files where it uses a disk."""
    from deepspeed.runtime.swap_tensor import optimizer_utils

    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer_utils, "MIN_AIO_BYTES", 512)
        patch.setattr(config, "BLOCK_BYTES", 512)
        patch.setattr(engine, "check_built", lambda rows, deepspeed: made.append(deepspeed))
        start(run, folder, world)
    return made[0]


@named(row for row in patches.TABLE if row.held)
def test_an_instance_without_an_attribute_is_an_error(row, world, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    run = next(run for run in RUNS if row.where.holds(settings_of(run, folder)))
    deepspeed = built(run, folder, world)
    patches.check_built([row], deepspeed)
    renamed = replace(row, name=f"{row.name}_renamed")
    refused(renamed, "does not exist", lambda: patches.check_built([renamed], deepspeed))


def test_an_engine_checks_its_instances_when_it_starts(world, tmp_path, monkeypatch):
    renamed = replace(next(row for row in patches.TABLE if row.name == "grad_position"), name="gradient_position")
    monkeypatch.setattr(patches, "TABLE", (*patches.TABLE, renamed))
    refused(renamed, "does not exist", lambda: start("zero.stage=3 precision=fp32", tmp_path, world))
    start("zero.stage=1 precision=fp32", tmp_path, world).destroy()


def test_the_project_requires_the_versions_of_the_table():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = next(wanted for wanted in map(Requirement, project["dependencies"]) if wanted.name == "deepspeed")
    assert asked.specifier == Requirement(f"deepspeed{patches.TESTED}").specifier
    assert asked.specifier.contains(version("deepspeed"))


def test_attributes_of_deepspeeds_objects_are_in_the_table():
    """Found by the names that these objects have in the code."""
    objects = {"self.optimizer", "optimizer", "self._swapper", "info", "engine.optimizer", "self._info(parameter)"}
    taken = {
        node.attr
        for name in ("state.py", "nvme/state.py", "engine.py")
        for node in ast.walk(ast.parse((ROOT / "train" / "engine" / name).read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in objects
    }
    assert len(taken) > 15
    assert taken <= {row.name for row in patches.TABLE}, "used by name without a row in the table"


def test_only_the_engine_imports_deepspeed():
    importing = set()
    for package in ("models", "curriculum", "train", "launch"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                if any(name.split(".")[0] == "deepspeed" for name in names):
                    importing.add(path.parent.relative_to(ROOT).as_posix())
    assert importing == {"train/engine", "train/engine/nvme"}
