"""Task packs: tasks of lm-evaluation-harness with their data and code in one folder, for machines without internet.

    FOLDER/manifest.json                      kind "task_pack"; size and xxh3-128 of every file
    FOLDER/tasks/<task>/<task>.yaml           the task, with its includes resolved; a group as the harness describes it
    FOLDER/tasks/<task>/<module>.py           the code that it refers to with !function, unchanged
    FOLDER/tasks/<task>/<split>-<hash>.parquet    its data, with paths relative to FOLDER, so that a pack can be moved

Use it with `benchmarks.task_paths=[FOLDER]`. A pack is published only after every task in it, loaded offline, gave the
same documents and the same first requests as the original, and therefore the same results. Tasks that are Python
classes and groups that define or change members inline are rejected by name. Only the module itself is copied, so code
that needs other files next to it fails this check.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from curriculum.artifact.create import Draft, create
from curriculum.artifact.files import copy_file, fingerprint_of, hash_file, write_text
from train.evaluation.harness.sandbox import sandbox
from train.evaluation.harness.tasks import BenchmarkSettings, check_known, load_tasks, task_manager

log = logging.getLogger(__name__)

KIND = "task_pack"
TASKS = "tasks"
FIRST = 5
"""Number of questions whose requests are compared with the original."""
REPLACED = ("include", "dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset", "tag")
"""Keys of a task file that a pack replaces."""


@dataclass(frozen=True)
class Function:
    """The argument of `!function` in a task file."""

    name: str
    """`module.function`"""
    base: Path
    """Folder of the task file."""


def write_pack(folder: Path, settings: BenchmarkSettings) -> None:
    """Write the tasks of the settings, with their data, to `folder`.

    Raises ValueError naming a task that cannot be packed and why, ArtifactError if `folder` exists.
    """
    from importlib.metadata import version

    settings = replace(settings, limit=None, num_fewshot=None)
    manager = task_manager(settings)
    for name in settings.tasks:
        check_known(name, manager)
        _check_name(name)
    config = {"tasks": sorted(settings.tasks)}
    with create(folder, KIND, config=config) as draft:
        (draft.path / TASKS).mkdir()
        groups, tags = _write_groups(draft.path / TASKS, settings.tasks, manager)
        documents: dict[str, int] = {}
        prints: dict[str, str] = {}
        with sandbox(settings.offline, settings.task_paths, code=settings.task_code):
            for name in settings.tasks:
                for label, task in _loaded(name, settings).items():
                    if label not in documents:
                        documents[label] = len(task.eval_docs)
                        prints[label] = _fingerprint(task)
                        _write_task(draft, label, task, manager, tags)
                        log.info("%-40s %d questions", label, documents[label])
        packed = replace(settings, task_paths=[str(draft.path)])
        _compare(packed, prints)
        for compiled in list(draft.path.rglob("__pycache__")):
            shutil.rmtree(compiled)
        draft.facts |= {"documents": documents, "groups": groups, "lm_eval": version("lm_eval")}
    log.info("packed %d tasks in %s: use them with benchmarks.task_paths=[%s]", len(documents), folder, folder)


def _loaded(name: str, settings: BenchmarkSettings) -> dict[str, Any]:
    try:
        tasks: dict[str, Any] = load_tasks(name, settings)["tasks"]
    except Exception as error:  # third-party code and data can raise anything
        raise ValueError(f"{name} cannot be packed: it cannot be loaded ({type(error).__name__}: {error})") from error
    return tasks


def _write_groups(place: Path, names: list[str], manager: Any) -> tuple[list[str], set[str]]:
    """Write the groups among `names`, recursively; return the names of groups, and of tags that are packed whole."""
    groups: list[str] = []
    tags: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        entry = manager.task_index.get(name)
        if entry is None:
            raise ValueError(f"{name} cannot be packed: it is a member of a group, but no task file defines it")
        if entry.kind.name == "TAG":
            tags.add(name)
        if entry.kind.name != "GROUP" or name in groups:
            continue
        config = _read(entry.yaml_path)
        inline = [member for member in config["task"] if not isinstance(member, str)]
        if inline:
            raise ValueError(
                f"group {name} cannot be packed: it defines or changes members inline ({inline[0]}); name its tasks "
                "instead"
            )
        _check_name(name)
        groups.append(name)
        left += config["task"]
        (place / name).mkdir()
        _write_yaml(place / name / f"{name}.yaml", _with_code(config, place / name, {}))
    return sorted(groups), tags


def _check_name(name: str) -> None:
    """Raise ValueError for a name that is not a valid folder name: it would be written elsewhere."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} cannot be packed: its name is not a valid folder name")


def _write_task(draft: Draft, name: str, task: Any, manager: Any, tags: set[str]) -> None:
    """Write the YAML, code and data of one task."""
    entry = manager.task_index.get(name)
    if entry is None or entry.kind.name != "TASK":
        raise ValueError(f"{name} cannot be packed: it is Python code or defined inside a group, not a task file")
    _check_name(name)
    place = draft.path / TASKS / name
    place.mkdir(exist_ok=True)
    config = _read(entry.yaml_path)
    own = config.get("tag") or []
    kept = [tag for tag in ([own] if isinstance(own, str) else own) if tag in tags]
    plain = {key: value for key, value in config.items() if key not in REPLACED}
    files = {split: _write_split(draft.path, place, name, task, split) for split in _splits(task)}
    plain |= {"dataset_path": "parquet", "dataset_kwargs": {"data_files": files}, **({"tag": kept} if kept else {})}
    _write_yaml(place / f"{name}.yaml", _with_code(plain, place, {}))


def _write_split(folder: Path, place: Path, name: str, task: Any, split: str) -> str:
    """Write a split as Parquet with its hash in the name; return the path relative to the pack."""
    data = task.dataset[split]
    if not hasattr(data, "to_parquet"):
        raise ValueError(f"{name} cannot be packed: it generates its data in code ({type(data).__name__})")
    draft = place / f"{split}.parquet"
    data.to_parquet(str(draft))
    path = draft.rename(place / f"{split}-{hash_file(draft).xxh3_128[:12]}.parquet")
    return path.relative_to(folder).as_posix()


def _splits(task: Any) -> list[str]:
    """Return the dataset splits that a task reads."""
    config = task.config
    named = [config.training_split, config.validation_split, config.test_split, config.fewshot_split]
    named.append(getattr(config.fewshot_config, "split", None))
    return list(dict.fromkeys(split for split in named if split is not None))


def _with_code(value: Any, place: Path, modules: dict[Path, str]) -> Any:
    """Copy the modules of all functions in a task file value to `place`; return the value with updated names."""
    if isinstance(value, dict):
        return {key: _with_code(part, place, modules) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_code(part, place, modules) for part in value]
    if not isinstance(value, Function):
        return value
    module, _, function = value.name.rpartition(".")
    source = (value.base / f"{module.replace('.', '/')}.py").resolve()
    if not source.is_file():
        return value  # from an installed package: the harness imports it by name
    if source not in modules:
        modules[source] = source.stem if source.stem not in modules.values() else f"{source.stem}_{len(modules)}"
        copy_file(source, place / f"{modules[source]}.py")
    return Function(f"{modules[source]}.{function}", place)


def _read(path: Path) -> dict[str, Any]:
    """Return a task file with its includes resolved; functions are kept by name, not imported."""

    class Loader(yaml.SafeLoader):
        """Supports !function."""

    def function(loader: yaml.SafeLoader, node: yaml.Node) -> Function:
        assert isinstance(node, yaml.ScalarNode)
        return Function(str(loader.construct_scalar(node)), path.parent)

    Loader.add_constructor("!function", function)
    reader = Loader(path.read_text("utf-8"))
    try:
        config: dict[str, Any] = reader.get_single_data()
    finally:
        reader.dispose()
    included = config.pop("include", None) or []
    merged: dict[str, Any] = {}
    for one in [included] if isinstance(included, str) else included:
        merged |= _read((path.parent / one).resolve())
    return merged | config


def _write_yaml(path: Path, value: dict[str, Any]) -> None:
    class Dumper(yaml.SafeDumper):
        """Supports !function."""

    def function(dumper: yaml.SafeDumper, data: Function) -> yaml.Node:
        return dumper.represent_scalar("!function", data.name)

    Dumper.add_representer(Function, function)
    write_text(path, yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def _compare(settings: BenchmarkSettings, prints: dict[str, str]) -> None:
    """Load every task from the pack, offline; raise ValueError for one that differs from the original."""
    with sandbox(offline=True, folders=settings.task_paths, code=settings.task_code):
        for name in settings.tasks:
            for label, task in _loaded(name, settings).items():
                if _fingerprint(task) != prints.get(label):
                    raise ValueError(f"{label} cannot be packed: loaded from the pack, it has different questions")


def _fingerprint(task: Any) -> str:
    """Return a fingerprint of all documents of a task, and of the requests of the first ones."""
    return fingerprint_of([list(_documents(task)), list(_requests(task))])


def _documents(task: Any) -> Iterator[str]:
    for documents in (task.eval_docs, *(task.dataset[split] for split in _splits(task))):
        for document in documents:
            yield json.dumps(document, sort_keys=True, default=str)


def _requests(task: Any) -> Iterator[str]:
    task.build_all_requests(limit=FIRST, rank=0, world_size=1)
    for instance in task.instances:
        yield json.dumps([instance.request_type, instance.args], default=str)
