"""docs/reproduce.md: its commands compose, fit together, and run at the size of a demo (all of them: make rehearse)."""

import json
import os
import re
import shutil
from functools import lru_cache
from pathlib import Path

import pytest

from launch.cli import VERBS, main
from launch.cluster.launch import split_overrides
from launch.doctor.doctor import split_overrides as split_for_doctor
from tests.docs.rehearsal import (
    PAGE,
    REPLACED,
    ROOT,
    TASKS,
    Command,
    commands,
    run,
    tasks_of,
    waves,
    write_tasks,
    write_text,
)
from tests.launch.conftest import containment
from train.config.compose import compose
from train.config.flags import as_overrides
from train.settings import TrainSettings

COMMANDS = commands()
ARRANGED = {command.values["output"]: command.values for command in COMMANDS if command.verb == "arrange"}
(PACKING,) = [command for command in COMMANDS if "--pack" in command.words]
EXPERIMENTS = [command.values["experiment"] for command in COMMANDS if command.verb == "train"]
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


@lru_cache
def experiment(name: str) -> TrainSettings:
    """Return the settings of an experiment as the page uses it: without other overrides."""
    return compose("train", TrainSettings, [f"experiment={name}"])


def kind(command: Command) -> tuple[str, frozenset[str]]:
    """Return what commands that differ only in values have in common."""
    return command.verb, frozenset(command.values)


@pytest.mark.parametrize(
    "command",
    {kind(command): command for command in COMMANDS if command.verb != "train"}.values(),
    ids=lambda command: command.verb,
)
def test_every_kind_of_command_composes(command):
    words = list(command.words)
    if command.verb == "launch":
        words, training = split_overrides(words)
        assert training == [f"experiment={command.values['experiment']}"]
    elif command.verb == "doctor":
        words, training = split_for_doctor(words)
        assert [word.partition("=")[0] for word in training] == list(command.values)
    schema, _, choices = VERBS[command.verb].load()
    assert compose(command.verb, schema, as_overrides(words, schema, first=VERBS[command.verb].first), choices)


def reads(command: Command) -> set[str]:
    """Return the paths that a command reads."""
    if command.verb in ("train", "launch"):
        found = experiment(command.values["experiment"])
        data = [found.data.tokens, found.data.order, found.data.scores]
        return {path for path in [*data, *(found.benchmarks.task_paths if found.benchmarks.tasks else [])] if path}
    values = {value.strip("[]") for key, value in command.values.items() if key != "output"}
    return {value for value in values if re.match("(artifacts|runs|data)/", value)}


def writes(command: Command) -> str | None:
    """Return the path that a command writes, if any."""
    return experiment(command.values["experiment"]).output if "experiment" in command.values else command.output


def test_every_command_reads_what_an_earlier_one_has_written():
    written = {"data/text"}
    for command in COMMANDS:
        assert reads(command) <= written, command
        written |= {path for path in [writes(command)] if path}
    assert {"report_1.3b.html", "report_3b.html"} <= written


def test_batches_divide_over_8_and_64_gpus():
    runs = [experiment(name) for name in EXPERIMENTS]
    assert {found.arm for found in runs} == {"weak", "strong", "shuffled", "pdpc"}
    for found in runs:
        for gpus in GPUS:
            assert int(ARRANGED[found.data.order]["batch_size"]) % (gpus * found.micro_batch_size) == 0, found.output


@pytest.mark.parametrize("size", ["1.3b", "3b"])
def test_the_orders_of_two_arms_have_the_same_samples_and_stages(size):
    shuffled, pdpc = (ARRANGED[f"artifacts/order_{arm}_{size}"] for arm in ("shuffled", "pdpc"))
    differ = {key for key in {*shuffled, *pdpc} if shuffled.get(key) != pdpc.get(key)}
    assert differ == {"output", "preference", "scores"}
    assert pdpc["scores"] == experiment(f"shuffled_{size}").data.scores == experiment(f"pdpc_{size}").data.scores


def test_the_tasks_are_the_harnesss_own_and_the_same_everywhere():
    import lm_eval

    folder = Path(lm_eval.__file__).parent / "tasks"
    for name, file in HARNESS_FILES.items():
        text = (folder / file).read_text("utf-8")
        assert re.search(rf"^(task|group): {name}$", text, flags=re.MULTILINE), name
    assert tasks_of(PACKING) == list(HARNESS_FILES)
    for found in (experiment("pdpc_1.3b"), experiment("pdpc_3b")):
        assert found.benchmarks.tasks == tasks_of(PACKING)
        assert found.benchmarks.task_paths == [PACKING.output]


def test_every_command_for_64_gpus_has_one_for_8():
    assert [command.values["experiment"] for command in COMMANDS if command.verb == "launch"] == EXPERIMENTS
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
        slower = 1.055 if step == "an arm of 3b" else 1.0 if "scores" in step else 1.014
        assert gpu_hours == pytest.approx(expected, rel=0.02), step
        assert on_8 == pytest.approx(expected / 8, rel=0.02, abs=0.05), step
        assert on_64 == pytest.approx(expected / 64 * slower, rel=0.02, abs=0.05), step


def test_the_experiment_on_the_page_composes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```yaml\n# (\S+\.yaml);(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    Path(block[0]).write_text(f"#{block[1]}")
    (words,) = re.findall(rf"`pdpc train (\S+{block[0]}.*?)`", PAGE.read_text("utf-8"))
    found = compose("train", TrainSettings, words.split())
    assert (found.model.layers, found.model.width) == (24, 1536)
    assert found.benchmarks.task_code
    assert found.benchmarks.tasks == list(HARNESS_FILES)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with nothing but text."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "data" / "text")
    return tmp_path


def test_the_first_steps_run(here):
    """Tokens, the tasks made from them and the order of the reference models, in this process."""
    for command in COMMANDS[:4]:
        if command is PACKING:
            write_tasks(here / TASKS, tasks_of(command), here / "artifacts" / "tokens")
        elif command.verb in ("prepare", "arrange"):
            small = command.small()
            assert main([small.verb, *small.words]) == 0, small
    assert {path.name for path in (here / "artifacts").iterdir()} == {"tokens", "order_reference"}
    assert {path.stem for path in (here / TASKS).glob("*.yaml")} >= set(HARNESS_FILES)


@pytest.mark.skipif("PDPC_REHEARSE" not in os.environ, reason="minutes: make rehearse")
def test_the_whole_page(here, capfd):
    """Every command of the page as a process of its own; those for 64 GPUs write anew what those for 8 have written."""
    with containment(here.parent / "contained") as environment:
        environment |= {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
        for wave in waves(COMMANDS):
            if PACKING in wave:
                write_tasks(here / TASKS, tasks_of(PACKING), here / "artifacts" / "tokens")
            for command in wave:
                if command.verb == "launch" or command.program == "deepspeed":
                    shutil.rmtree(here / str(writes(command)))
            small = [command.small() for command in wave]
            with capfd.disabled():
                for one in small:
                    print("$", one.program, *one.options, one.verb, *one.words, flush=True)
            run(small, here, environment)
    check_results(here)


def check_results(folder: Path) -> None:
    """Check that both reports have both arms, each evaluated on all tasks at every stage."""
    for size in ("1.3b", "3b"):
        assert set(json.loads((folder / f"report_{size}.json").read_text())["arms"]) == {"shuffled", "pdpc"}
        for arm in ("shuffled", "pdpc"):
            lines = (folder / "runs" / f"{arm}_{size}" / "metrics.jsonl").read_text().splitlines()
            stages = [record for record in map(json.loads, lines) if record["kind"] == "stage"]
            assert len(stages) == int(REPLACED["stages"])
            for record in stages:
                assert not record.get("stage/failed")
                assert {"val/low_pd/loss", "val/high_pd/loss", "bench/avg"} <= set(record)
                assert all(any(key.startswith(f"bench/{name}/") for key in record) for name in HARNESS_FILES)
