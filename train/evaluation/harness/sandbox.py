"""Sandbox for the harness: no network unless enabled, no leftover files, no log output, random state restored."""

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

SEED = 1234
"""Seed for random choices in tasks (the harness's default): the same questions on every rank and at every stage."""

LOCAL_FORMATS = ("arrow", "csv", "json", "pandas", "parquet", "text")
"""Dataset paths that are file formats: such data is local, and its cache is not worth keeping."""


@contextmanager
def sandbox(offline: bool, folders: Sequence[str] = ()) -> Iterator[None]:
    """Prepare the process for the harness and restore it afterwards. Safe in several processes at once.

    Relative paths of data files are resolved in `folders`.
    """
    with ExitStack() as stack:
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
def _data_read(cache: Path, folders: Sequence[str]) -> Iterator[None]:
    """Resolve local data files, with their cache in `cache`; datasets of the Hub keep the user's cache."""
    import datasets

    load = datasets.load_dataset

    def load_dataset(path: str, *args: Any, **options: Any) -> Any:
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
