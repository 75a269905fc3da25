"""Sandbox for the harness: no network unless enabled, no code in templates, no file of the current folder taken for a
dataset or a metric, no leftover files, no log output, random state restored. Code of task files runs unless excluded.
"""

from __future__ import annotations

import logging
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from curriculum.text.dataset import PICKLES

SEED = 1234
"""Seed for random choices in tasks (the harness's default): the same questions on every rank and at every stage."""

LOCAL_FORMATS = ("arrow", "csv", "json", "parquet", "text")
"""Dataset paths that are file formats: such data is local, and its cache is not worth keeping."""
CODE_REMEDY = (
    "it is not run, because benchmarks.task_code=false or the task files were not named on the command line; if you "
    "trust them, name their folders with benchmarks.task_paths"
)


@contextmanager
def sandbox(offline: bool, folders: Sequence[str] = (), *, code: bool = True) -> Iterator[None]:
    """Prepare the process for the harness and restore it afterwards. Safe in several processes at once.

    Relative paths of data files are resolved in `folders`. `code`: run the Python code that task files outside the
    harness refer to; without it, loading such a task raises ValueError.
    """
    with ExitStack() as stack:
        stack.enter_context(_templates_confined())
        stack.enter_context(_code_chosen(code))
        if offline:
            stack.enter_context(_offline())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pdpc_harness_", ignore_cleanup_errors=True))
        stack.enter_context(_data_read(Path(folder), folders))
        stack.enter_context(_quiet())
        stack.enter_context(_random_state())
        yield


@contextmanager
def _swapped(holder: Any, name: str, value: Any) -> Iterator[None]:
    """Temporarily replace the value of an attribute."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the Hugging Face libraries off the network, whether already imported or not."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        import datasets.config
        import huggingface_hub.constants

        with ExitStack() as stack:
            for module in (datasets.config, huggingface_hub.constants):
                stack.enter_context(_swapped(module, "HF_HUB_OFFLINE", True))
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def located(value: Any, folders: Sequence[str]) -> Any:
    """Return `data_files` (a name, a list, or either by split) with relative names resolved in `folders`."""
    if isinstance(value, dict):
        return {split: located(part, folders) for split, part in value.items()}
    if isinstance(value, list):
        return [located(part, folders) for part in value]
    found = (Path(folder).absolute() / value for folder in folders if "://" not in value and not Path(value).exists())
    return next((str(path) for path in found if path.exists()), value)


@contextmanager
def _templates_confined() -> Iterator[None]:
    """Render templates in Jinja's sandbox: they read a question's fields, and reach nothing else of the process."""
    import lm_eval.utils
    from jinja2.sandbox import SandboxedEnvironment

    theirs = lm_eval.utils.env
    confined = SandboxedEnvironment(undefined=theirs.undefined, keep_trailing_newline=theirs.keep_trailing_newline)
    confined.filters.update(theirs.filters)
    with _swapped(lm_eval.utils, "env", confined):
        yield


@contextmanager
def _code_chosen(code: bool) -> Iterator[None]:
    """Refuse metrics that are scripts in the current folder; without `code`, also all Python code of task files."""
    import evaluate
    import lm_eval.api.task
    from lm_eval.tasks import _yaml_loader

    load, load_function, get_metric = evaluate.load, _yaml_loader._import_func_in_yml, lm_eval.api.task.get_metric
    harness = Path(_yaml_loader.__file__).resolve().parent

    problems: dict[str, Exception] = {}

    def load_metric(path: str, *args: Any, **options: Any) -> Any:
        try:
            if not code and "/" in path:
                raise ValueError(f"the metric {path!r} of a task file is Python code: {CODE_REMEDY}")
            _refuse_here("metric", path)
            return load(path, *args, **options)
        except Exception as error:
            problems[path] = error
            raise

    def named_metric(name: str, of_library: bool = False) -> Any:
        found = get_metric(name, of_library)
        if found is None:  # the harness would continue without it
            reason = problems.get(name, "unknown to the harness")
            raise ValueError(f"the metric {name!r} of a task file cannot be loaded: {reason}")
        return found

    def named_function(name: str, folder: Path) -> Any:
        if not code and not Path(folder).resolve().is_relative_to(harness):
            raise ValueError(f"a task file in {folder} refers to Python code (!function {name}): {CODE_REMEDY}")
        return load_function(name, folder)

    with (
        _swapped(evaluate, "load", load_metric),
        _swapped(lm_eval.api.task, "get_metric", named_metric),
        _swapped(_yaml_loader, "_import_func_in_yml", named_function),
    ):
        yield


def _refuse_here(kind: str, name: str) -> None:
    """Raise ValueError for a name that is meant for a library, and would be read from the current folder."""
    if not name.startswith(("/", "./", "../")) and os.path.lexists(name):
        raise ValueError(
            f"the {kind} {name!r} is also a file or folder in the current folder, which would be used instead: rename "
            "it, or start the command in another folder"
        )


@contextmanager
def _data_read(cache: Path, folders: Sequence[str]) -> Iterator[None]:
    """Resolve local data files, with their cache in `cache`; datasets of the Hub keep the user's cache."""
    import datasets

    load = datasets.load_dataset

    def load_dataset(path: str, *args: Any, **options: Any) -> Any:
        if path in PICKLES:
            raise ValueError(
                f"the dataset {path!r} of a task file reads pickles, which can hold code that runs: convert them to "
                "Parquet or JSON"
            )
        if path not in LOCAL_FORMATS:
            _refuse_here("dataset", path)
        if path in LOCAL_FORMATS or Path(path).exists():
            options.setdefault("cache_dir", str(cache))
        if path in LOCAL_FORMATS and "data_files" in options:
            options["data_files"] = located(options["data_files"], folders)
        return load(path, *args, **options)

    with _swapped(datasets, "load_dataset", load_dataset):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable progress bars, and the harness's log messages below ERROR."""
    import datasets
    import lm_eval.api.task
    from tqdm import tqdm

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with _swapped(lm_eval.api.task, "tqdm", partial(tqdm, disable=True)):
            yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def _random_state() -> Iterator[None]:
    """Seed the generators of Python, numpy and torch, and restore them afterwards."""
    import torch

    python, array = random.getstate(), np.random.get_state()
    random.seed(SEED)
    np.random.seed(SEED)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
