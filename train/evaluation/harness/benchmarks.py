"""Benchmarks at a stage end, run by lm-evaluation-harness on the decoder in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from train.distributed.collectives import Collectives, RankFailed
from train.evaluation.answers import Evaluated, Items
from train.evaluation.attempts import Attempts, attempted
from train.evaluation.clusters import standard_error
from train.evaluation.harness.passages import passage_groups
from train.evaluation.harness.sandbox import sandbox
from train.evaluation.harness.tasks import BenchmarkSettings, load_tasks
from train.evaluation.heldout import evaluating

if TYPE_CHECKING:
    from models.decoder import Decoder
    from train.distributed.world import World

log = logging.getLogger(__name__)

HEADLINES = ("acc_norm", "acc", "exact_match", "em", "f1")
"""`bench/avg` uses the first of these metrics that a task has; a task with none of them (a perplexity) is left out."""


def evaluate_benchmarks(
    decoder: Decoder,
    tokenizer_folder: Path,
    settings: BenchmarkSettings,
    world: World,
    max_length: int | None = None,
    *,
    bos: int | None = None,
    attempts: Attempts | None = None,
    watch: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Evaluated:
    """Return `bench/<task>/<metric>`, its `..._stderr`, and `bench/avg`, the mean of the tasks' headline metrics.

    Metrics of a filter other than "none" are named `<metric>.<filter>`. Metrics that are means over questions have a
    standard error (train/evaluation/clusters.py) and answers, one per question. A task that cannot be loaded or run,
    exceeds `task_timeout_s`, or is rejected by `attempts` (on rank 0) gives `bench/<task>/error`, a message, and does
    not enter the average; the others still run. Collective: all ranks return the same values.
    `max_length`: longest input in tokens; None: the decoder's `max_seq_len`. `bos`: the token that starts every prompt,
    as it started every document in training; None: none did. `watch` is entered around every task.
    """
    found = Evaluated()
    if not settings.tasks:
        return found
    exchange = Collectives(world)
    headlines: list[float] = []
    with ExitStack() as stack:
        try:
            open_model = _opened(stack, decoder, tokenizer_folder, settings, exchange, max_length, bos)
            model = exchange.run("the harness", open_model)
        except RankFailed as failure:
            for name in settings.tasks:
                found.add(_failed(name, failure))
            return found
        for name in settings.tasks:
            with watch(f"benchmark {name}"):
                try:
                    part, values = _run_together(name, model, settings, exchange, attempts)
                except RankFailed as failure:
                    part, values = _failed(name, failure), []
            found.add(part)
            headlines += values
    if headlines:
        found.values["bench/avg"] = fmean(headlines)
    return found


def _opened(
    stack: ExitStack,
    decoder: Decoder,
    tokenizer_folder: Path,
    settings: BenchmarkSettings,
    exchange: Collectives,
    max_length: int | None,
    bos: int | None,
) -> Callable[[], Any]:
    def opened() -> Any:
        stack.enter_context(sandbox(settings.offline, settings.task_paths, code=settings.task_code))
        stack.enter_context(evaluating(decoder))
        from train.evaluation.harness.model import harness_model, load_tokenizer
        from train.evaluation.harness.scorer import Scorer

        scorer = Scorer(decoder, exchange, max_length or decoder.config.max_seq_len, settings.batch_size)
        return harness_model(scorer, load_tokenizer(tokenizer_folder), bos)

    return opened


def _failed(name: str, failure: RankFailed) -> Evaluated:
    log.warning("benchmark %s failed: %s", name, failure)
    return Evaluated({f"bench/{name}/error": str(failure)}, failed=[name])


Results = dict[str, dict[str, float]]
"""Metrics by task."""


def _run_together(
    name: str, model: Any, settings: BenchmarkSettings, exchange: Collectives, attempts: Attempts | None
) -> tuple[Evaluated, list[float]]:
    """Run one task on all ranks; return its results, and its contribution to the average.

    Raises RankFailed on all ranks if it fails on one, for whatever reason: a task is third-party code and data, and
    none of its errors may end training. The deadline ends before the ranks agree that the task has succeeded, so that
    no rank can fail after that.
    """

    def work() -> tuple[Results, dict[str, Items]]:
        with exchange.deadline.within(settings.task_timeout_s):
            return _run_task(name, model, settings)

    results, answers = attempted(name, work, exchange, attempts)
    first: Results = exchange.gather(f"results of {name}", results)[0]
    values: dict[str, float | str] = {
        f"bench/{task}/{metric}": value for task, metrics in first.items() for metric, value in metrics.items()
    }
    return Evaluated(values, answers), _headlines(name, first)


def _run_task(name: str, model: Any, settings: BenchmarkSettings) -> tuple[Results, dict[str, Items]]:
    """Return the metrics of a task, or of a group or tag and its members, and the answers by measure."""
    from lm_eval.api.metrics import mean
    from lm_eval.evaluator import evaluate

    loaded = load_tasks(name, settings)
    found = evaluate(model, loaded, limit=settings.limit, bootstrap_iters=0, log_samples=True)
    results: Results = {}
    answers: dict[str, Items] = {}
    for task, metrics in found["results"].items():
        results[task] = {}
        means = loaded["tasks"][task].aggregation() if task in loaded["tasks"] else {}
        for key, value in metrics.items():
            metric, comma, filtered = key.partition(",")
            if not comma or isinstance(value, str) or metric.endswith("_stderr"):
                continue
            label = metric if filtered == "none" else f"{metric}.{filtered}"
            results[task][label] = float(value)
            if means.get(metric) is not mean:
                continue
            items = _items(found["samples"][task], metric, filtered)
            answers[f"bench/{task}/{label}"] = items
            # The harness's own takes questions about one passage for independent ones.
            if (error := standard_error(items)) is not None:
                results[task][f"{label}_stderr"] = error
    return results, answers


def _items(samples: list[dict[str, Any]], metric: str, filtered: str) -> Items:
    """Return the result of every question for a metric, by its index in the task; a passage's questions are a group."""
    rows = {int(s["doc_id"]): s for s in samples if s["filter"] == filtered and metric in s}
    ids = sorted(rows)
    numbers = np.asarray(ids, np.int64)
    groups = numbers[passage_groups([rows[number].get("doc") for number in ids])]
    return Items(numbers, np.asarray([float(rows[number][metric]) for number in ids]), np.ones(len(ids)), groups)


def _headlines(name: str, results: Results) -> list[float]:
    """Return the contribution of a task, group or tag to the average: at most one number; the mean over a tag."""
    members = [results[name]] if results.get(name) else list(results.values())
    found = []
    for metrics in members:
        plain = {
            label.split(".")[0]: value for label, value in reversed(metrics.items()) if not label.endswith("_stderr")
        }
        found += [plain[label] for label in HEADLINES if label in plain][:1]
    return [fmean(found)] if found else []
