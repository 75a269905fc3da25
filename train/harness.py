"""Benchmarks at a stage end, by lm-evaluation-harness, on the decoder as it is in memory."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from curriculum.artifact import fingerprint_of, hash_file
from train.exchange import Exchange, RankFailed
from train.harness_shelter import LOCAL_FORMATS, SEED, shelter
from train.heldout import evaluating

if TYPE_CHECKING:
    from models.decoder import Decoder
    from train.world import World

logger = logging.getLogger(__name__)

HEADLINES = ("acc_norm", "acc", "exact_match", "em", "f1")
"""A task enters `bench/avg` by the first of these that it has; one with none of them (a perplexity) stays out."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """Which tasks of lm-evaluation-harness are run at the end of a stage, and how."""

    tasks: list[str] = field(default_factory=list)
    """Names of tasks, groups or tags. Empty: no benchmarks."""
    task_paths: list[str] = field(default_factory=list)
    """Folders with task files (yaml) of your own; the harness's own tasks are looked up when a name is not there."""
    limit: int | None = None
    """Questions per task, the first ones. None: all of them."""
    num_fewshot: int | None = None
    """Solved examples before a question. None: as the task says."""
    batch_size: int = 16
    """Rows a forward pass, per rank."""
    offline: bool = True
    """Never use the network: tasks read local files, or data sets that are in the Hugging Face cache already."""

    def __post_init__(self) -> None:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"benchmarks.tasks={self.tasks} names a task twice: name it once")
        for name, value, least in (("limit", self.limit, 1), ("num_fewshot", self.num_fewshot, 0)):
            if value is not None and value < least:
                raise ValueError(f"benchmarks.{name}={value} must be at least {least}, or null")
        if self.batch_size < 1:
            raise ValueError(f"benchmarks.batch_size={self.batch_size} must be at least 1")


def check_tasks(settings: BenchmarkSettings) -> None:
    """Refuse, before training starts, tasks that cannot run: a folder, a name or a local data file that is not there.

    Raises ValueError. Reads task files only; the harness's own list of them takes some seconds, and is read only if a
    name is not found in `task_paths`.
    """
    if not settings.tasks:
        return
    for path in settings.task_paths:
        if not any(Path(path).glob("**/*.yaml")):
            raise ValueError(f"benchmarks.task_paths: {path} holds no task file (*.yaml): build the benchmark first")
    manager = _manager(settings)
    for name in settings.tasks:
        _check_known(name, manager)
        for file in _data_files(name, manager):
            if not Path(file).exists():
                raise ValueError(f"benchmark {name}: its data file {file} does not exist: build the benchmark again")


def task_files_fingerprint(settings: BenchmarkSettings) -> str | None:
    """Return a fingerprint of the task files in `task_paths` and of the data files that the tasks name.

    It is the same wherever the folders lie. None without tasks or without files of one's own.
    """
    if not settings.tasks or not settings.task_paths:
        return None
    parts = []
    for folder in map(Path, settings.task_paths):
        for file in sorted(folder.glob("**/*.yaml")):
            # The harness wants absolute paths in a task file; those into its own folder move with it.
            text = file.read_text("utf-8").replace(str(folder.resolve()), ".")
            parts.append([file.relative_to(folder).as_posix(), text])
    manager = _manager(settings)
    for name in settings.tasks:
        parts += [[name, hash_file(Path(file)).xxh3_128] for file in _data_files(name, manager) if Path(file).is_file()]
    return fingerprint_of(parts)


def evaluate_benchmarks(
    decoder: Decoder,
    tokenizer_folder: Path,
    settings: BenchmarkSettings,
    world: World,
    max_length: int | None = None,
) -> dict[str, float | str]:
    """Return `bench/<task>/<metric>`, its `..._stderr`, and `bench/avg`, the mean of the tasks' headline metrics.

    Metrics of a filter other than "none" are called `<metric>.<filter>`. Standard errors are those of a mean (sample
    deviation / sqrt(n)) and are given for such metrics only. A task that cannot be loaded or run gives
    `bench/<task>/error`, a message, and does not enter the average; the others still run. All ranks call this together
    and get the same values. `max_length`: longest input in tokens; None: the decoder's `max_seq_len`.
    """
    if not settings.tasks:
        return {}
    exchange = Exchange(world)
    values: dict[str, float | str] = {}
    headlines = []
    with shelter(settings.offline), evaluating(decoder):
        from train.harness_model import harness_model, load_tokenizer
        from train.scorer import Scorer

        scorer = Scorer(decoder, exchange, max_length or decoder.config.max_seq_len, settings.batch_size)
        model = harness_model(scorer, load_tokenizer(tokenizer_folder))
        for name in settings.tasks:
            try:
                results = _run_together(name, model, settings, exchange)
            except RankFailed as failure:
                logger.warning("benchmark %s failed: %s", name, failure)
                values[f"bench/{name}/error"] = str(failure)
                continue
            for task, metrics in results.items():
                values |= {f"bench/{task}/{metric}": value for metric, value in metrics.items()}
            headlines += _headlines(name, results)
    if headlines:
        values["bench/avg"] = fmean(headlines)
    return values


Results = dict[str, dict[str, float]]
"""Metrics by task."""


def _run_together(name: str, model: Any, settings: BenchmarkSettings, exchange: Exchange) -> Results:
    """Run one task on all ranks. Raises RankFailed on all of them if one cannot, whatever the reason."""
    try:
        results = _run_task(name, model, settings)
    except RankFailed:
        raise
    except (
        Exception
    ) as error:  # a task is other people's code and data: any error is its own, none may end the training
        logger.debug("benchmark %s", name, exc_info=True)
        exchange.gather(name, error=f"{type(error).__name__}: {error}")
        raise AssertionError("a gathering with an error always raises") from error
    first: Results = exchange.gather(name, results)[0]
    return first


def _run_task(name: str, model: Any, settings: BenchmarkSettings) -> Results:
    """Return the metrics of a task and, if it is a group or a tag, of its members."""
    from lm_eval.evaluator import evaluate

    manager = _manager(settings)
    _check_known(name, manager)
    loaded = manager.load([name])
    for task in loaded["tasks"].values():
        _set_fewshot(task, settings.num_fewshot)
    found = evaluate(model, loaded, limit=settings.limit, bootstrap_iters=0, log_samples=True)
    results: Results = {}
    for task, metrics in found["results"].items():
        results[task] = {}
        for key, value in metrics.items():
            metric, comma, filtered = key.partition(",")
            if not comma or isinstance(value, str) or metric.endswith("_stderr"):
                continue
            label = metric if filtered == "none" else f"{metric}.{filtered}"
            results[task][label] = float(value)
            error = _standard_error(loaded["tasks"].get(task), found["samples"].get(task, []), metric, filtered)
            if error is not None:
                results[task][f"{label}_stderr"] = error
    return results


def _set_fewshot(task: Any, num_fewshot: int | None) -> None:
    """Set the number of solved examples as the harness's own entry point does, but say so when a task forbids it."""
    fixed = task.get_config("num_fewshot")
    if num_fewshot and fixed == 0:
        logger.warning("benchmark %s is fixed at no examples: num_fewshot=%d is not used", task.task_name, num_fewshot)
    elif num_fewshot is not None or fixed is None:
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=SEED)


def _standard_error(task: Any, samples: list[dict[str, Any]], metric: str, filtered: str) -> float | None:
    """Return the standard error of a metric that is a mean over documents, None for others.

    The harness would give it only together with its bootstrap, which forks a pool of processes: not in a training rank.
    """
    from lm_eval.api.metrics import mean, mean_stderr

    if task is None or task.aggregation().get(metric) is not mean:
        return None
    items = [sample[metric] for sample in samples if sample["filter"] == filtered and metric in sample]
    return float(mean_stderr(items)) if len(items) > 1 else None


def _headlines(name: str, results: Results) -> list[float]:
    """Return what a named task, group or tag adds to the average: at most one number, as a plain mean over a tag."""
    members = [results[name]] if results.get(name) else list(results.values())
    found = []
    for metrics in members:
        plain = {
            label.split(".")[0]: value for label, value in reversed(metrics.items()) if not label.endswith("_stderr")
        }
        found += [plain[label] for label in HEADLINES if label in plain][:1]
    return [fmean(found)] if found else []


def _manager(settings: BenchmarkSettings) -> Any:
    return _task_manager(tuple(settings.tasks), tuple(settings.task_paths))


@lru_cache(maxsize=1)
def _task_manager(tasks: tuple[str, ...], paths: tuple[str, ...]) -> Any:
    """Return the harness's index of tasks: those of `paths` and, if they do not have all of `tasks`, its own too."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ValueError(f"benchmarks need lm-evaluation-harness ({error}): pip install 'lm-eval[hf]'") from error
    folders: list[str | Path] = [str(Path(path).absolute()) for path in paths]
    own = TaskManager(include_path=folders, include_defaults=False)
    if all(name in own.task_index for name in tasks):
        return own
    return TaskManager(include_path=folders, include_defaults=True)


def _check_known(name: str, manager: Any) -> None:
    if name in manager.task_index:
        return
    near = difflib.get_close_matches(name, manager.all_tasks, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "name one that `lm-eval ls tasks` lists"
    raise ValueError(f"benchmarks.tasks: {name!r} is neither in benchmarks.task_paths nor in the harness: {hint}")


def _data_files(name: str, manager: Any) -> Iterator[str]:
    """Yield the files on this machine that a task names as its data; patterns and addresses are left out."""
    config = manager.task_index[name].cfg or {}
    if config.get("dataset_path") in LOCAL_FORMATS:
        for file in _paths((config.get("dataset_kwargs") or {}).get("data_files")):
            if "://" not in file and not any(mark in file for mark in "*?["):
                yield file


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
