"""Where the harness runs: no network unless asked for, no files left, no chatter, random state given back."""

from __future__ import annotations

import logging
import os
import random
import tempfile
from collections.abc import Iterator
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
def shelter(offline: bool) -> Iterator[None]:
    """Prepare the process for the harness and undo all of it afterwards. Safe in several processes at once."""
    with ExitStack() as stack:
        if offline:
            stack.enter_context(_offline())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pdpc_harness_", ignore_cleanup_errors=True))
        stack.enter_context(_caches_in(Path(folder)))
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


@contextmanager
def _caches_in(folder: Path) -> Iterator[None]:
    """Let datasets read from local files keep their caches in `folder`; those of the Hub keep the user's own cache."""
    import datasets

    load = datasets.load_dataset

    def load_dataset(path: str, *args: Any, **options: Any) -> Any:
        if path in LOCAL_FORMATS or Path(path).exists():
            options.setdefault("cache_dir", str(folder))
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
