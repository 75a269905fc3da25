"""docs/reproduce.md: its commands compose, fit together, and run at the size of a demo (all of them: make rehearse)."""

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from launch.cli import VERBS, main
from launch.cluster.launch import split_overrides
from tests.conftest import write_text
from tests.docs.rehearsal import PAGE, REPLACED, ROOT, TASKS, Command, commands, run, tasks_of, write_tasks
from train.config.compose import compose
from train.config.flags import as_overrides
from train.settings import TrainSettings

COMMANDS = commands()
GPUS = (8, 64)
HARNESS_FILES = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "sciq": "sciq/sciq.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "mmlu": "mmlu/default/_mmlu.yaml",
    "cmmlu": "cmmlu/_cmmlu.yaml",
    "bbh_fewshot": "bbh/fewshot/_bbh_fewshot.yaml",
}
"""Where lm-evaluation-harness defines the paper's tasks: reading its index of all tasks takes half a minute."""


def verb_of(command: Command) -> str:
    return "train" if command.verb == "launch" else command.verb


@lru_cache
def experiment(name: str) -> TrainSettings:
    """Return the settings of an experiment as the page uses it: without other overrides."""
    return compose("train", TrainSettings, [f"experiment={name}"])


def composed(command: Command) -> Any:
    """Return the settings of a command as it is written on the page."""
    words = list(command.words)
    if command.verb in ("train", "launch"):
        own, words = split_overrides(words)
        (name,) = [word.removeprefix("experiment=") for word in words]
        if own:
            schema, _, choices = VERBS["launch"].load()
            assert compose("launch", schema, own, choices).cluster.hosts
        return experiment(name)
    verb = VERBS[command.verb]
    schema, _, choices = verb.load()
    return compose(command.verb, schema, as_overrides(words, schema, first=verb.first), choices)


@pytest.fixture(scope="module")
def settings() -> list[tuple[Command, Any]]:
    """Every command of the page with its settings."""
    return [(command, composed(command)) for command in COMMANDS]


def reads(command: Command, found: Any) -> set[str]:
    """Return the paths below artifacts/ and runs/ that a command reads."""
    if isinstance(found, TrainSettings):
        data = [found.data.tokens, found.data.order, found.data.scores]
        return {path for path in [*data, *(found.benchmarks.task_paths if found.benchmarks.tasks else [])] if path}
    values = {value for key, value in command.values.items() if key != "output"}
    return {value.strip("[]") for value in values if re.match(r"\[?(artifacts|runs)/", value)}


def test_every_command_reads_what_an_earlier_one_has_written(settings):
    written = {"data/text"}
    for command, found in settings:
        assert reads(command, found) <= written, command
        written |= {path for path in (command.output, getattr(found, "output", None)) if path}
    assert {"report_1.3b.html", "report_3b.html"} <= written


def test_batches_divide_over_8_and_64_gpus(settings):
    batches = {command.values["output"]: found.batch_size for command, found in settings if command.verb == "arrange"}
    runs = [found for _, found in settings if isinstance(found, TrainSettings)]
    assert {found.arm for found in runs} == {"weak", "strong", "shuffled", "pdpc"}
    for found in runs:
        for gpus in GPUS:
            assert batches[found.data.order] % (gpus * found.micro_batch_size) == 0, (found.output, gpus)


def test_the_orders_of_two_arms_have_the_same_samples_and_stages(settings):
    orders = [(command, found) for command, found in settings if command.verb == "arrange"]
    for size in ("1.3b", "3b"):
        shuffled, pdpc = (
            next(
                {key: value for key, value in command.values.items() if key not in ("output", "preference", "scores")}
                for command, found in orders
                if found.output == f"artifacts/order_{arm}_{size}"
            )
            for arm in ("shuffled", "pdpc")
        )
        assert shuffled == pdpc
        assert experiment(f"pdpc_{size}").data.scores == "artifacts/scores"


def test_the_tasks_are_the_harnesss_own_and_the_same_everywhere(settings):
    import lm_eval

    folder = Path(lm_eval.__file__).parent / "tasks"
    for name, file in HARNESS_FILES.items():
        text = (folder / file).read_text("utf-8")
        assert re.search(rf"^(task|group): {name}$", text, flags=re.MULTILINE), name
    packing = next(command for command, _ in settings if "--pack" in command.words)
    assert tasks_of(packing) == list(HARNESS_FILES)
    assert (
        set(HARNESS_FILES)
        == set(experiment("pdpc_1.3b").benchmarks.tasks)
        == set(experiment("pdpc_3b").benchmarks.tasks)
    )
    assert experiment("pdpc_1.3b").benchmarks.task_paths == [packing.output]


def test_every_command_for_64_gpus_has_one_for_8(settings):
    def experiments(verb: str) -> list[str]:
        return [command.values["experiment"] for command in COMMANDS if command.verb == verb]

    assert experiments("train") == experiments("launch")
    (ranks,) = [command for command in COMMANDS if command.program == "deepspeed"]
    assert ranks.words in [command.words for command in COMMANDS if command.program == "pdpc"]


def test_the_hours_follow_from_tokens_and_rates():
    number = r"([\d,.]+)"
    row = rf"^\| (.*) \| {number} billion \| {number} \| {number} \| {number} \| {number} \|$"
    rows = re.findall(row, PAGE.read_text("utf-8"), flags=re.MULTILINE)
    assert len(rows) == 8
    for step, *cells in rows:
        billions, rate, gpu_hours, on_8, on_64 = (float(cell.replace(",", "")) for cell in cells)
        expected = billions * 1e9 / rate / 3600
        assert gpu_hours == pytest.approx(expected, rel=0.02), step
        assert on_8 == pytest.approx(expected / 8, rel=0.03, abs=0.06), step
        loss = 1.055 if step == "an arm of 3b" else 1.014 if "scores" not in step else 1.0
        assert on_64 == pytest.approx(expected / 64 * loss, rel=0.04, abs=0.06), step


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_steps_before_training_run(here, capsys):
    """Prepare, pack, doctor and the orders that need no scores, in this process."""
    write_text(here / "data" / "text", 240)
    done = []
    for command in COMMANDS:
        small = command.small()
        if "--pack" in small.words:
            write_tasks(here / TASKS, tasks_of(command), here / "artifacts" / "tokens")
        before_scores = command.verb == "arrange" and "scores" not in command.values
        if command.verb in ("prepare", "doctor") or "--pack" in command.words or before_scores:
            assert main([small.verb, *small.words]) == 0, small
            done.append(command.verb)
    assert done == ["prepare", "evaluate", "doctor", "arrange", "arrange", "prepare", "arrange"]
    assert {path.name for path in (here / "artifacts").iterdir()} == {
        *("tokens", "tasks", "order_reference", "order_shuffled_1.3b", "order_shuffled_3b")
    }


@pytest.mark.skipif("PDPC_REHEARSE" not in os.environ, reason="minutes: make rehearse")
def test_the_whole_page(here, contained, capfd):
    """Every command of the page, as a process of its own in one folder."""
    import json

    environment = {**contained, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    run(Command("pdpc", (), "demo", ("only_text=true", "output=data")), here, environment)
    for command in COMMANDS:
        small = command.small()
        if "--pack" in small.words:
            write_tasks(here / TASKS, tasks_of(command), here / "artifacts" / "tokens")
        with capfd.disabled():
            print("$", command.program, *small.options, small.verb, *small.words, flush=True)
        run(small, here, environment)
    for size in ("1.3b", "3b"):
        report = json.loads((here / f"report_{size}.json").read_text())
        assert set(report["arms"]) == {"shuffled", "pdpc"}
        for arm in report["arms"]:
            records = [json.loads(line) for line in (here / "runs" / f"{arm}_{size}" / "metrics.jsonl").open()]
            stages = [record for record in records if record["kind"] == "stage"]
            assert len(stages) == int(REPLACED["stages"])
            for record in stages:
                assert not record.get("stage/failed")
                assert {"val/low_pd/loss", "val/high_pd/loss", "bench/avg"} <= set(record)
                for name in HARNESS_FILES:
                    assert any(key.startswith(f"bench/{name}/") for key in record), name
