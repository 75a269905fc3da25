"""Real ranks: answers equal those of the harness's model, per request; a task that hangs or kills fails only itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.cli import main
from tests.torture.forks import HARNESS, Forks
from tests.torture.runs import PATIENCE_S, Material
from tests.train.evaluation.harness.material import CHOICE, requests, write_misdeeds, write_task
from tests.train.evaluation.harness.ranks import BATCH, STAGES, all_requests
from train.checkpoint import newest
from train.distributed.collectives import FIRST_BYTES
from train.evaluation.answers import answers_path, read_answers
from train.evaluation.attempts import ATTEMPTS
from train.records.layout import CHECKPOINTS
from train.tracking import read_metrics

SIZES = (1, 2)


@pytest.fixture(scope="module")
def found(assets: Path, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Any]:
    """Answers by (number of ranks, rank)."""
    forks.load(*HARNESS)
    folder = tmp_path_factory.mktemp("answers")
    arguments = {"assets": str(assets), "output": str(folder)}
    for size in SIZES:
        log = folder / f"{size}.log"
        ranks = forks.start("tests.train.evaluation.harness.ranks:answer", arguments, size, log)
        assert ranks.wait(PATIENCE_S) == [0] * size, ranks.told()
    return {
        (size, rank): json.loads((folder / f"{size}_{rank}.json").read_text()) for size in SIZES for rank in range(size)
    }


@pytest.fixture(scope="module")
def expected(theirs: Any) -> dict[str, Any]:
    return {
        kind: getattr(theirs, kind)(requests(*arguments), disable_tqdm=True)
        for kind, arguments in all_requests().items()
    }


def test_the_requests_do_not_divide() -> None:
    for arguments in all_requests().values():
        assert len(arguments) % BATCH


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("size", "rank"), [(size, rank) for size in SIZES for rank in range(size)])
def test_every_request_is_answered_as_the_harness_does(
    found: dict[tuple[int, int], Any], expected: dict[str, Any], size: int, rank: int, stage: int
) -> None:
    mine = found[size, rank][str(stage)]
    nats, greedy = zip(*mine["loglikelihood"], strict=True)
    their_nats, their_greedy = zip(*expected["loglikelihood"], strict=True)
    np.testing.assert_allclose(nats, their_nats, atol=1e-3)
    assert list(greedy) == list(their_greedy)
    np.testing.assert_allclose(mine["loglikelihood_rolling"], expected["loglikelihood_rolling"], rtol=1e-5)
    assert mine["generate_until"] == expected["generate_until"]


def test_ranks_and_stages_give_the_same_to_the_bit(found: dict[tuple[int, int], Any]) -> None:
    one = found[1, 0]
    for each in found.values():
        assert [each[str(stage)] for stage in STAGES] == [one["0"]] * len(STAGES)


@pytest.mark.parametrize("size", SIZES)
def test_a_task_that_hangs_on_one_rank_is_ended_on_all(found: dict[tuple[int, int], Any], size: int) -> None:
    for rank in range(size):
        late = found[size, rank]["late"]
        assert late["bench/hangs/error"] == "TooLate: not done after 0.5 s"
        assert 0 < late["bench/choice/acc"] < 1
        assert late == found[1, 0]["late"]


def test_two_ranks_give_the_values_of_one_and_fail_together(found: dict[tuple[int, int], Any]) -> None:
    one = found[1, 0]["tasks"]
    assert "bench/broken_field/error" in one["values"]
    for rank in range(2):
        two = found[2, rank]["tasks"]
        error = "RuntimeError: no memory on this rank"
        assert two["values"] == one["values"]
        assert two["failed"] == {"bench/writing/error": error, "bench/choice/error": error}
        assert two["failures"][0].startswith("the ranks are at different steps (['step 0', 'step 1'])")
        assert two["failures"][1] == "no memory"
        gathered = [["0" * length, "1" * length] for length in (0, 5, FIRST_BYTES, 3 * FIRST_BYTES)]
        assert two["gathered"] == [*gathered, ["", "long" * FIRST_BYTES]]


def test_one_process_and_several_ranks_give_the_same_evaluation(
    assets: Path, forks: Forks, tokens_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [f"folder={assets / 'hf'}", f"benchmarks.task_paths=[{assets / 'tasks'}]", "benchmarks.batch_size=4"]
    words.append("benchmarks.tasks=[choice,broken_field,writing]")
    assert main(["evaluate", *words, f"output={tmp_path / 'one.json'}"]) == 1  # one task is broken
    forks.load(*HARNESS)
    arguments = {"words": [*words, f"output={tmp_path / 'two.json'}"]}
    ranks = forks.start("tests.train.evaluation.harness.ranks:evaluate", arguments, 2, tmp_path / "log")
    assert ranks.wait(PATIENCE_S) == [1, 1], ranks.told()
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two
    assert one["stage/failed"] == "broken_field"
    assert {"bench/choice/acc", "bench/writing/exact_match", "bench/avg"} <= one.keys()
    assert main(["evaluate", *words, f"tokens={tokens_folder}"]) == 2
    assert "were prepared with a different tokenizer than" in capfd.readouterr().err


def test_a_task_that_kills_is_skipped_by_the_next_attempt_and_rerun_later(
    forks: Forks, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    material = Material.make(tmp_path / "material", stages=1, samples=60)
    tasks, run = tmp_path / "tasks", tmp_path / "run"
    questions = [{"context": "", "choices": list("abcd"), "answer": number % 4} for number in range(6)]
    write_task(tasks, "choice", questions, **CHOICE)
    write_misdeeds(tasks, questions, CHOICE)
    (tasks / "death").write_text("1")
    words = ["benchmarks.tasks=[deadly,choice]", f"benchmarks.task_paths=[{tasks}]", "benchmarks.batch_size=8"]
    forks.load(*HARNESS)
    killed = material.start(forks, run, 2, words)
    assert killed.wait(PATIENCE_S) == [1, 9], killed.told()
    assert not [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "stage"]

    ranks = material.start(forks, run, 1, words)
    assert ranks.wait(PATIENCE_S) == [0], ranks.told()
    assert re.search(r"stage 1: deadly failed; .* pdpc evaluate run=\S+ stages=failed", ranks.told())
    step = int(newest(run / CHECKPOINTS).name.removeprefix("step_"))
    before = (run / "metrics.jsonl").read_bytes()
    (record,) = stage_records(run)
    assert record["stage/failed"] == "deadly"
    assert record["bench/deadly/error"] == "ended the process at an earlier attempt"
    assert record["bench/avg"] == record["bench/choice/acc_norm"]
    answers = read_answers(answers_path(run, step))
    assert {"val/loss", "val/source/easy/loss", "bench/choice/acc"} <= answers.keys()
    for key, items in answers.items():
        assert items.mean() == pytest.approx(record[key])

    (tasks / "death").unlink()
    assert main(["evaluate", f"run={run}", "stages=failed", "benchmarks.limit=3"]) == 2
    assert "benchmarks.limit cannot change with stages=failed" in capfd.readouterr().err
    assert main(["evaluate", f"run={run}", "stages=failed"]) == 1  # the user named a run, not the code of its tasks
    _, refused = stage_records(run)
    assert "refers to Python code (!function misdeeds." in refused["bench/deadly/error"]
    assert "name their folders with benchmarks.task_paths" in refused["bench/deadly/error"]
    named = f"benchmarks.task_paths=[{tasks}]"
    assert main(["evaluate", f"run={run}", "stages=failed", "benchmarks.batch_size=4", named]) == 0
    old, _, new = stage_records(run)
    assert (run / "metrics.jsonl").read_bytes().startswith(before)
    assert "stage/failed" not in new
    assert "bench/deadly/error" not in new
    assert 0 < new["bench/deadly/acc"] < 1
    same = [key for key in old if key.startswith(("val/", "bench/choice"))]
    assert [new[key] for key in same] == pytest.approx([old[key] for key in same], rel=1e-6)
    assert read_answers(answers_path(run, step))["bench/deadly/acc"].mean() == new["bench/deadly/acc"]
    assert not (run / "evaluations" / ATTEMPTS).exists()
    assert main(["evaluate", f"run={run}", "stages=failed"]) == 0
    assert len(stage_records(run)) == 3
    kept = answers_path(run, step).read_bytes()
    assert main(["evaluate", f"run={run}", "heldout.max_samples=4"]) == 0
    place = run / "evaluations"
    values = json.loads((place / f"step_{step:08d}.json").read_text())
    assert read_answers(place / f"step_{step:08d}_asked.parquet")["val/loss"].mean() == pytest.approx(
        values["val/loss"]
    )
    assert (answers_path(run, step).read_bytes(), len(stage_records(run))) == (kept, 3)
    assert main(["evaluate", f"run={run}", "stages=7"]) == 2
    assert "has no record of this stage: use one of 1" in capfd.readouterr().err


def stage_records(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "stage"]
