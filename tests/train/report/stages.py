"""Arms in memory, from stage records and answers."""

import numpy as np

from train.evaluation.answers import Items, answers_path, write_answers
from train.report.arms import arm_of


def stage(number, tokens, loss=4.0, **more):
    return {"kind": "stage", "stage": number, "step": number, "tokens": tokens, "val/loss": loss} | more


def seeds_of(in_memory, arm, losses):
    return arm_of(arm, [in_memory(arm, [stage(1, 100, loss)], seed=seed) for seed, loss in enumerate(losses)])


def with_tasks(in_memory, arm, seeds, **config):
    """Return an arm with tasks by seed, as evaluate_benchmarks records them; None is a task that failed."""
    runs = []
    for seed, tasks in enumerate(seeds):
        values = {f"bench/{task}/acc": value for task, value in tasks.items() if value is not None}
        failed = {f"bench/{task}/error": "timed out" for task, value in tasks.items() if value is None}
        record = stage(1, 100, **values, **failed, **{"bench/avg": sum(values.values()) / len(values)})
        runs.append(in_memory(arm, [record], seed=seed))
    return arm_of(arm, runs)


def answered(in_memory, folder, arm, records, answers):
    """Return an arm with a run in memory whose answers are in a folder; `answers` is by step."""
    for step, items in answers.items():
        write_answers(answers_path(folder / arm, step), items)
    return arm_of(arm, [in_memory(str(folder / arm), records)])


def right(values, ids=None):
    values = np.asarray(values, dtype=float)
    ids = np.arange(len(values)) if ids is None else np.asarray(ids)
    return Items(ids, values, np.ones(len(values)), ids)
