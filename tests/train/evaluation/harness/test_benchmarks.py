"""Benchmarks: our results equal those of lm-evaluation-harness's own model on the exported folder."""

from __future__ import annotations

import logging
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.train.evaluation.harness.material import (
    CHOICE,
    MAX_LENGTH,
    SINGLE,
    make_decoder,
    random_pairs,
    requests,
    sentence,
    settings_of,
    write_task,
    write_tasks,
)
from train.distributed.collectives import Collectives
from train.evaluation.harness.benchmarks import evaluate_benchmarks
from train.evaluation.harness.sandbox import sandbox
from train.evaluation.harness.scorer import Scorer
from train.evaluation.harness.tasks import BenchmarkSettings, check_tasks


def values_of(*arguments: Any, **options: Any) -> dict[str, float | str]:
    return evaluate_benchmarks(*arguments, **options).values


def test_log_likelihoods_match_the_harness_model(ours: Any, theirs: Any) -> None:
    pairs = random_pairs()
    mine = ours.loglikelihood(requests(*pairs))
    other = theirs.loglikelihood(requests(*pairs), disable_tqdm=True)
    np.testing.assert_allclose([nats for nats, _ in mine], [nats for nats, _ in other], atol=1e-3)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in other]
    assert len({round(nats, 3) for nats, _ in mine}) > 15


def test_rolling_log_likelihoods_match_the_harness_model(ours: Any, theirs: Any) -> None:
    rng = random.Random(4)
    texts = [(sentence(rng, words),) for words in (1, 20, 60, 150)]
    tokens = [len(ours.tok_encode(text)) for (text,) in texts]
    assert tokens[0] < MAX_LENGTH < tokens[2] and tokens[3] > 2 * MAX_LENGTH  # noqa: PT018
    mine = ours.loglikelihood_rolling(requests(*texts))
    np.testing.assert_allclose(mine, theirs.loglikelihood_rolling(requests(*texts), disable_tqdm=True), rtol=1e-5)


@pytest.mark.parametrize("until", [["e"], [" the", "zz"], []])
def test_greedy_texts_match_the_harness_model(ours: Any, theirs: Any, until: list[str]) -> None:
    rng = random.Random(5)
    wanted = requests(*[(sentence(rng, words), {"until": until, "max_gen_toks": 12}) for words in (1, 3, 9, 60)])
    mine = ours.generate_until(wanted)
    assert mine == theirs.generate_until(wanted, disable_tqdm=True)
    assert len(set(mine)) > 1


def test_one_letter_answers_share_a_forward_pass(assets: Path) -> None:
    decoder = make_decoder()
    shapes: list[torch.Size] = []
    decoder.embedding.register_forward_hook(lambda _, ids, __: shapes.append(ids[0].shape))
    scorer = Scorer(decoder, Collectives(SINGLE), MAX_LENGTH, batch_size=8)
    scorer.log_likelihoods([([5, 6, 7], [answer]) for answer in range(8, 14)])
    assert shapes == [(1, 3)]


def test_a_shared_row_scores_each_continuation_at_its_own_positions() -> None:
    # HFLM 0.4.13 scores the shorter of two such continuations at the positions of the longer one.
    scorer = Scorer(make_decoder(), Collectives(SINGLE), MAX_LENGTH, batch_size=8)
    pairs = [([5], [6, 7, 8]), ([5, 6, 7], [8]), ([5, 6], [7, 9])]
    together = scorer.log_likelihoods(pairs)
    apart = [scorer.log_likelihoods([pair])[0] for pair in pairs]
    np.testing.assert_allclose([nats for nats, _ in together], [nats for nats, _ in apart], atol=1e-5)


def test_accuracies_match_the_harness_model(assets: Path, theirs: Any) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    values = values_of(
        make_decoder(), assets / "tokenizer", settings_of(assets, "choice", "rolling", "writing"), SINGLE
    )
    with sandbox(offline=True):
        found = simple_evaluate(
            model=theirs, tasks=["choice", "rolling", "writing"], bootstrap_iters=0, log_samples=False,
            task_manager=TaskManager(include_path=str(assets / "tasks"), include_defaults=False),
        )["results"]  # fmt: skip
    for task, metric in (("choice", "acc"), ("choice", "acc_norm"), ("writing", "exact_match")):
        assert values[f"bench/{task}/{metric}"] == pytest.approx(found[task][f"{metric},none"], abs=1e-9)
    assert values["bench/rolling/bits_per_byte"] == pytest.approx(found["rolling"]["bits_per_byte,none"], rel=1e-5)
    accuracy = float(values["bench/choice/acc"])
    assert 0 < accuracy < 1
    assert values["bench/choice/acc_stderr"] == pytest.approx((accuracy * (1 - accuracy) / 14) ** 0.5)
    assert values["bench/avg"] == pytest.approx(
        (float(values["bench/choice/acc_norm"]) + float(values["bench/writing/exact_match"])) / 2
    )
    assert "bench/rolling/bits_per_byte_stderr" not in values


@pytest.mark.usefixtures("no_defaults")
def test_a_failing_task_is_reported_and_the_others_run(assets: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks = ("broken_field", "no_data", "chioce", "choice")
    with caplog.at_level(logging.WARNING, logger="train.evaluation.harness.benchmarks"):
        values = values_of(make_decoder(), assets / "tokenizer", settings_of(assets, *tasks), SINGLE)
    assert "missing" in str(values["bench/broken_field/error"])
    assert "no_data.jsonl" in str(values["bench/no_data/error"])
    assert "did you mean choice" in str(values["bench/chioce/error"])
    assert 0 < float(values["bench/choice/acc"]) < 1
    assert values["bench/avg"] == values["bench/choice/acc_norm"]
    assert [record.args[0] for record in caplog.records if record.args] == list(tasks[:3])


def test_groups_and_tags_and_limits(assets: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    (tmp_path / "tasks" / "both.yaml").write_text(
        yaml.safe_dump({"group": "both", "task": ["choice"], "aggregate_metric_list": [{"metric": "acc"}]})
    )
    values = values_of(make_decoder(), assets / "tokenizer", settings_of(tmp_path, "both", limit=3), SINGLE)
    assert values["bench/both/acc"] == values["bench/choice/acc"] == values["bench/avg"]
    assert float(values["bench/avg"]) * 3 == pytest.approx(round(float(values["bench/avg"]) * 3))


@pytest.mark.usefixtures("no_defaults")
def test_questions_about_one_passage_are_a_group_with_its_standard_error(assets: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    passages = [sentence(rng, 60)[:150].ljust(100, ".") for _ in range(5)]
    questions = [
        {"context": passages[index // 4], "choices": [f" {'x' * place}" for place in range(1, 5)], "answer": index % 4}
        for index in range(20)
    ]
    write_task(tmp_path / "tasks", "reading", questions, **CHOICE)
    found = evaluate_benchmarks(make_decoder(), assets / "tokenizer", settings_of(tmp_path, "reading"), SINGLE)
    items = found.answers["bench/reading/acc"]
    assert items.groups is not None
    assert items.groups.tolist() == [4 * (index // 4) for index in range(20)]
    means = items.values.reshape(5, 4).mean(axis=1)
    assert found.values["bench/reading/acc_stderr"] == pytest.approx(means.std(ddof=1) / 5**0.5)


def test_no_tasks_cost_nothing(assets: Path) -> None:
    assert values_of(make_decoder(), Path("nowhere"), BenchmarkSettings(), SINGLE) == {}
    check_tasks(BenchmarkSettings(task_paths=["nowhere"]))


def test_nothing_is_left_behind(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    tasks = sorted(path.name for path in (assets / "tasks").iterdir())
    decoder = make_decoder().train()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    evaluate_benchmarks(decoder, assets / "tokenizer", settings_of(assets, "choice"), SINGLE)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert after == before
    assert decoder.training
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in (assets / "tasks").iterdir()) == tasks


def test_check_tasks_names_what_cannot_run(assets: Path, tmp_path: Path) -> None:
    check_tasks(settings_of(assets, "choice", "rolling"))
    with pytest.raises(ValueError, match=r"data file .*no_data\.jsonl does not exist: build the benchmark again"):
        check_tasks(settings_of(assets, "no_data"))
    with pytest.raises(ValueError, match=r"holds no task file"):
        check_tasks(BenchmarkSettings(tasks=["choice"], task_paths=[str(tmp_path)]))


@pytest.mark.usefixtures("no_defaults")
def test_an_unknown_task_is_rejected_with_similar_names(assets: Path) -> None:
    with pytest.raises(ValueError, match=r"'chioces' is neither in .* nor in the harness: did you mean choice"):
        check_tasks(settings_of(assets, "chioces"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, r"benchmarks\.limit=0 must be at least 1"),
        ({"num_fewshot": -1}, r"benchmarks\.num_fewshot=-1 must be at least 0"),
        ({"batch_size": 0}, r"benchmarks\.batch_size=0 must be at least 1"),
        ({"tasks": ["a", "a"]}, "lists a task twice"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarkSettings(**options)


def test_requests_that_cannot_be_scored_are_rejected() -> None:
    scorer = Scorer(make_decoder(), Collectives(SINGLE), max_length=4, batch_size=2)
    with pytest.raises(ValueError, match="a continuation of 5 tokens after 1 cannot be scored with max_length=4"):
        scorer.log_likelihoods([([1], [1, 2, 3, 4, 5])])
    with pytest.raises(ValueError, match="generating 4 tokens leaves no room for a prompt in max_length=4"):
        scorer.continuations([[1]], new_tokens=4, finished=lambda added: False)
