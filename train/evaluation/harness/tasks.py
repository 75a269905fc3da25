"""Tasks of lm-evaluation-harness by name: look-up, and checks before training depends on them."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from curriculum.artifact.files import fingerprint_of, hash_file, read_text
from curriculum.artifact.manifest import MANIFEST, verify
from models.setting import BINDS, FREE
from train.config.check import check_yaml
from train.evaluation.harness.sandbox import LOCAL_FORMATS, SEED, located, sandbox

LARGEST_TASK = 1 << 20
"""Maximum size of a task file, bytes."""
MOST_VALUES = 100_000
"""Maximum number of values in a task file, including those from aliases."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkSettings:
    """Which tasks of lm-evaluation-harness are run at the end of a stage, and how."""

    tasks: list[str] = field(default_factory=list, metadata=BINDS)
    """Names of tasks, groups or tags. Empty: no benchmarks."""
    task_paths: list[str] = field(default_factory=list, metadata=FREE)
    """Folders with your own task files (YAML) or task packs; names not found there are looked up in the harness.
    Relative paths of data files are resolved in these folders."""
    task_code: bool = field(default=True, metadata=FREE)
    """Run the Python code that files in task_paths refer to (!function). false: tasks that need it fail."""
    limit: int | None = field(default=None, metadata=BINDS)
    """Use only the first N questions of each task. null: all of them."""
    num_fewshot: int | None = field(default=None, metadata=BINDS)
    """Number of few-shot examples. null: the task's default."""
    batch_size: int = field(default=16, metadata=FREE)
    """Rows per forward pass and rank."""
    offline: bool = field(default=True, metadata=FREE)
    """Never use the network: tasks read local files, or datasets already in the Hugging Face cache."""
    task_timeout_s: float = field(default=1200.0, metadata=FREE)
    """Time limit of a task, group or tag, seconds; after that it fails, and the others continue."""

    def __post_init__(self) -> None:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"benchmarks.tasks={self.tasks} lists a task twice: list it once")
        for name, value, least in (("limit", self.limit, 1), ("num_fewshot", self.num_fewshot, 0)):
            if value is not None and value < least:
                raise ValueError(f"benchmarks.{name}={value} must be at least {least}, or null")
        if self.batch_size < 1:
            raise ValueError(f"benchmarks.batch_size={self.batch_size} must be at least 1")
        if not self.task_timeout_s > 0:
            raise ValueError(f"benchmarks.task_timeout_s={self.task_timeout_s} must be above 0 seconds")


def check_tasks(settings: BenchmarkSettings) -> None:
    """Reject tasks that cannot run (a missing folder, name or local data file) before training starts.

    Raises ValueError. Reads task files, and every byte of a task pack. The harness's own task index takes seconds to
    read, and is read only if a name is not found in `task_paths`. `try_task` is more thorough.
    """
    if not settings.tasks:
        return
    for path in map(Path, settings.task_paths):
        if (path / MANIFEST).is_file():
            verify(path)
        files = sorted(path.glob("**/*.yaml"))
        if not files:
            raise ValueError(
                f"benchmarks.task_paths: {path} holds no task file (*.yaml): build the benchmark first, or pack tasks "
                f"with pdpc evaluate --pack {path}, or give benchmarks.tasks=[]"
            )
        for file in files:
            check_yaml(file, LARGEST_TASK, tags=["!function"], nodes=MOST_VALUES)
    manager = task_manager(settings)
    for name in settings.tasks:
        check_known(name, manager)
        for file in _data_files(name, manager, settings):
            if not file.exists():
                raise ValueError(f"benchmark {name}: its data file {file} does not exist: build the benchmark again")


def task_files_fingerprint(settings: BenchmarkSettings) -> str | None:
    """Return a fingerprint of the task files in `task_paths` and of the tasks' data files.

    It does not depend on the location of the folders. None without tasks or without `task_paths`.
    """
    if not settings.tasks or not settings.task_paths:
        return None
    parts = []
    for folder in map(Path, settings.task_paths):
        for file in sorted(folder.glob("**/*.yaml")):
            # The harness requires absolute paths in a task file; paths into its own folder move with it.
            text = read_text(file).replace(str(folder.resolve()), ".")
            parts.append([file.relative_to(folder).as_posix(), text])
    manager = task_manager(settings)
    for name in settings.tasks:
        parts += [[name, hash_file(file).xxh3_128] for file in _data_files(name, manager, settings) if file.is_file()]
    return fingerprint_of(parts)


def data_fingerprint(name: str, settings: BenchmarkSettings) -> str:
    """Return a fingerprint of a task's local data files; a missing file changes it."""
    files = _data_files(name, task_manager(settings), settings)
    return fingerprint_of([hash_file(file).xxh3_128 if file.is_file() else None for file in files])


def load_tasks(name: str, settings: BenchmarkSettings) -> dict[str, Any]:
    """Load a task, group or tag with its data, as input for the harness's `evaluate`. Call it inside `sandbox`."""
    manager = task_manager(settings)
    check_known(name, manager)
    loaded: dict[str, Any] = manager.load([name])
    if not loaded["tasks"]:
        raise ValueError(f"{name} contains no task that can be loaded: fix its task file")
    for task in loaded["tasks"].values():
        _set_fewshot(task, settings.num_fewshot)
    return loaded


def try_task(name: str, settings: BenchmarkSettings) -> str:
    """Load a task with its data and build its first question; return a description. May raise any error of the task."""
    with sandbox(settings.offline, settings.task_paths, code=settings.task_code):
        tasks = load_tasks(name, settings)["tasks"]
        questions = 0
        for label, task in tasks.items():
            count = len(task.eval_docs)
            if not count:
                raise ValueError(f"{label} has no questions")
            task.build_all_requests(limit=1, rank=0, world_size=1)
            if not task.instances:
                raise ValueError(f"{label} has no requests: its first question cannot be built")
            questions += count
    kinds = ", ".join(sorted({str(task.OUTPUT_TYPE) for task in tasks.values()}))
    return f"{questions:,} questions" + (f" in {len(tasks)} tasks" if len(tasks) > 1 else "") + f", {kinds}"


def _set_fewshot(task: Any, num_fewshot: int | None) -> None:
    """Set the number of few-shot examples as the harness's entry point does, with a warning if the task forbids it."""
    fixed = task.get_config("num_fewshot")
    if num_fewshot and fixed == 0:
        log.warning("benchmark %s allows no few-shot examples: ignoring num_fewshot=%d", task.task_name, num_fewshot)
    elif num_fewshot is not None or fixed is None:
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=SEED)


def task_manager(settings: BenchmarkSettings) -> Any:
    """Return the harness's task index: the tasks in `task_paths`, plus the harness's own if a name is not there."""
    return _task_manager(tuple(settings.tasks), tuple(settings.task_paths))


@lru_cache(maxsize=1)
def _task_manager(tasks: tuple[str, ...], paths: tuple[str, ...]) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ValueError(f"benchmarks need lm-evaluation-harness ({error}): pip install 'lm-eval[hf]'") from error
    folders: list[str | Path] = [str(Path(path).absolute()) for path in paths]
    own = TaskManager(include_path=folders, include_defaults=False)
    if all(name in own.task_index for name in tasks):
        return own
    return TaskManager(include_path=folders, include_defaults=True)


def check_known(name: str, manager: Any) -> None:
    """Raise ValueError, with similar names, if there is no such task, group or tag."""
    if name in manager.task_index:
        return
    near = difflib.get_close_matches(name, manager.all_tasks, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists the names"
    raise ValueError(f"benchmarks.tasks: {name!r} is neither in benchmarks.task_paths nor in the harness: {hint}")


def _data_files(name: str, manager: Any, settings: BenchmarkSettings) -> Iterator[Path]:
    """Yield the local data files of a task; glob patterns and URLs are left out."""
    config = manager.task_index[name].cfg or {}
    if config.get("dataset_path") in LOCAL_FORMATS:
        for file in _paths((config.get("dataset_kwargs") or {}).get("data_files")):
            if "://" not in file and not any(mark in file for mark in "*?["):
                yield Path(located(file, settings.task_paths))


def _paths(value: Any) -> Iterator[str]:
    """Yield the file names in a `data_files` value: a name, a list, or either by split."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _paths(part)
    elif isinstance(value, list):
        for part in value:
            yield from _paths(part)
