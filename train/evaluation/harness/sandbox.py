"""Where the harness runs: no network unless asked for, no files left, no chatter, random state given back."""

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
"""Seeds what tasks draw at random (the harness's own default): the same questions on every rank and at every stage."""

LOCAL_FORMATS = ("arrow", "csv", "json", "pandas", "parquet", "text")
"""Dataset paths that name a file format: such data is on this machine, and its cache is worth nothing afterwards."""


@contextmanager
def shelter(offline: bool, folders: Sequence[str] = ()) -> Iterator[None]:
    """Prepare the process for the harness and undo all of it afterwards. Safe in several processes at once.

    Data files with a relative path are looked for in `folders`.
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
    """Give an attribute another value for a while."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextmanager
def _offline() -> Iterator[None]:
    """Keep Hugging Face libraries off the network, whether they are imported already or only now."""
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
    """Return `data_files` (a name, a list, or either by split) with relative names as they lie in one of `folders`."""
    if isinstance(value, dict):
        return {split: located(part, folders) for split, part in value.items()}
    if isinstance(value, list):
        return [located(part, folders) for part in value]
    found = (Path(folder).absolute() / value for folder in folders if "://" not in value and not Path(value).exists())
    return next((str(path) for path in found if path.exists()), value)


@contextmanager
def _data_read(cache: Path, folders: Sequence[str]) -> Iterator[None]:
    """Let local data files be found, and keep their caches in `cache`; those of the Hub keep the user's own cache."""
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
    """Silence progress bars, and the harness's log below errors."""
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
    """Seed Python's, numpy's and torch's generators, and give them back as they were."""
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
