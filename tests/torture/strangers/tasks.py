"""Code in benchmarks: templates, functions and metrics of task files, datasets, tokenizers, and RUNs that name them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.evaluate import stages
from launch.evaluate.settings import EvaluateSettings
from tests.torture.strangers.variant import Ground, Variant
from tests.train.evaluation.harness.material import CHOICE, write_task, write_tokenizer
from train.config.compose import compose
from train.evaluation.harness.model import load_tokenizer
from train.evaluation.harness.tasks import BenchmarkSettings, task_files_fingerprint, try_task
from train.records.config_json import CONFIG, config_text, read_config
from train.records.layout import RUN
from train.records.run_json import as_text, checksum_of

ROWS = [{"context": "a", "choices": list("abcd"), "answer": number % 4} for number in range(6)]
TEMPLATES = (
    "{{{{ cycler.__init__.__globals__.os.system('touch {canary}') }}}}",
    "{{{{ lipsum.__globals__['os'].system('touch {canary}') }}}}",
    "{{{{ (context|attr('__class__')).__mro__[-1].__subclasses__() }}}}",
    "{{{{ context.__class__.__base__.__subclasses__() }}}}",
    "{{{{ namespace.__init__.__globals__.__builtins__.open('{canary}', 'w') }}}}",
    "{{{{ '{{0.__class__.__init__.__globals__}}'.format(cycler) }}}}",
    "{{{{ (''|map).gi_frame.f_globals }}}}",
)


def refused(words: str, action: Any) -> str | None:
    """Return None if an action is refused with a message that has these words."""
    try:
        found = action()
    except Exception as error:  # a task may fail with any error
        return None if words in f"{type(error).__name__}: {error}" else f"not named: {type(error).__name__}: {error}"
    return f"accepted: {found}"


def templates(ground: Ground) -> str | None:
    """Templates of a task reach for Python's own objects."""
    for number, template in enumerate(TEMPLATES):
        name = f"mine{number}"
        write_task(
            ground.work / "tasks", name, ROWS, **(CHOICE | {"doc_to_text": template.format(canary=ground.canary)})
        )
        words = "SecurityError" if number != 5 else "Error"
        if problem := refused(words, partial(tried, ground, name)):
            return f"{template}: {problem}"
    write_task(ground.work / "tasks", "good", ROWS, **(CHOICE | {"doc_to_text": "{{context | trim}} {{choices[0]}}"}))
    assert tried(ground, "good").startswith("6 questions")
    return None


def tried(ground: Ground, name: str, code: bool = True) -> str:
    """Load a task of the case's folder, in its current folder, and build its first question."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ground.here)
        return try_task(name, BenchmarkSettings([name], [str(ground.work / "tasks")], task_code=code))


def function_in(key: str, ground: Ground) -> str | None:
    """A task file of a run refers to Python code: in itself, or in a file outside its folder that it includes."""
    tasks = ground.work / "tasks"
    write_task(tasks, "mine", ROWS, **CHOICE)
    place = tasks if key != "include" else ground.work / "elsewhere"
    place.mkdir(exist_ok=True)
    (place / "code.py").write_text(ground.code + "def f(*_): return ''\nclass C: pass\n")
    if key == "include":
        (place / "more.yml").write_text("doc_to_text: !function code.f\n")
        text = f"include: {place / 'more.yml'}\n"
        mine = yaml.safe_load((tasks / "mine.yaml").read_text())
        (tasks / "mine.yaml").write_text(yaml.safe_dump({k: v for k, v in mine.items() if k != "doc_to_text"}))
    else:
        text = f"{key}: !function code.{'C' if key == 'class' else 'f'}\n"
    with open(tasks / "mine.yaml", "a") as file:
        file.write(text)
    return refused("refers to Python code (!function", partial(tried, ground, "mine", code=False))


def metric_here(ground: Ground) -> str | None:
    """A metric of a task is a script in the current folder."""
    (ground.here / "mine").mkdir()
    (ground.here / "mine" / "mine.py").write_text(ground.code)
    write_task(ground.work / "tasks", "mine", ROWS, **(CHOICE | {"metric_list": [{"metric": "mine"}]}))
    return refused("is also a file or folder in the current folder", partial(tried, ground, "mine"))


def metric_by_path(ground: Ground) -> str | None:
    """A metric of a run's task is a script anywhere."""
    script = ground.work / "evil"
    script.mkdir()
    (script / "evil.py").write_text(ground.code)
    metrics = [{"metric": str(script), "hf_evaluate": True}]
    write_task(ground.work / "tasks", "mine", ROWS, **(CHOICE | {"metric_list": metrics}))
    return refused("is Python code", partial(tried, ground, "mine", code=False))


def dataset_here(ground: Ground) -> str | None:
    """A folder here has the name of a task's dataset."""
    (ground.here / "piqa").mkdir()
    (ground.here / "piqa" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write_task(ground.work / "tasks", "mine", ROWS, **(CHOICE | {"dataset_path": "piqa", "dataset_kwargs": {}}))
    return refused("is also a file or folder in the current folder", partial(tried, ground, "mine"))


def pickled_data(ground: Ground) -> str | None:
    """A task's data is a pickle."""
    write_task(ground.work / "tasks", "mine", ROWS, **(CHOICE | {"dataset_path": "pandas"}))
    pickle = f"cposix\nsystem\n(S'touch {ground.canary}'\ntR."
    (ground.work / "tasks" / "mine.jsonl").write_text(pickle)
    return refused("reads pickles", partial(tried, ground, "mine"))


def code_of_a_tokenizer(ground: Ground) -> str | None:
    """A tokenizer's folder holds code: it is refused without a question."""
    folder = ground.work / "tokenizer"
    write_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    auto = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "Evil", "auto_map": auto}))
    (folder / "evil.py").write_text(ground.code + "class Evil: pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.input", lambda *_: "y")
        return refused("custom code", lambda: load_tokenizer(folder))


def write_run(ground: Ground, change: Any = None) -> Path:
    """Write the records of a RUN whose config.json names the case's tasks, with checksums that match."""
    run, tasks = ground.work / "run", ground.work / "tasks"
    run.mkdir()
    needed = ["output=o", "arm=a", "data.tokens=t", "data.order=o"]
    from dataclasses import asdict

    from train.settings import TrainSettings

    settings = asdict(compose("train", TrainSettings, needed))
    settings["benchmarks"] |= {"tasks": ["mine"], "task_paths": [str(tasks)], "offline": False}
    own = BenchmarkSettings(["mine"], [str(tasks)])
    (run / CONFIG).write_text(config_text(settings))
    facts: dict[str, Any] = {"arm": "a", "seed": 0, "status": "finished", "identity": {}, "parameters": 1, "paths": {}}
    facts |= {"versions": {}, "fingerprints": {"benchmarks": task_files_fingerprint(own)}, "format": 2}
    (run / RUN).write_text(as_text({**facts, "checksum": checksum_of(facts)}))
    return run


def own_settings(run: Path, *words: str) -> BenchmarkSettings:
    """Return the benchmark settings with which a run's stages are evaluated again."""
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    paths = yaml.safe_load(given.get("benchmarks.task_paths", "[]"))
    settings = EvaluateSettings(run=str(run), stages="failed", benchmarks=BenchmarkSettings(task_paths=paths))
    return stages._own_settings(run, settings, words)[1]


def code_of_a_run(ground: Ground) -> str | None:
    """A RUN names task files with code: it runs only if the user names their folder, as the network is used."""
    tasks = ground.work / "tasks"
    write_task(tasks, "mine", ROWS, **CHOICE)
    (tasks / "code.py").write_text(ground.code + "def f(*_): return ''\n")
    with open(tasks / "mine.yaml", "a") as file:
        file.write("process_docs: !function code.f\n")
    run = write_run(ground)
    found = own_settings(run)
    if found.task_code or not found.offline:
        return f"code {found.task_code}, offline {found.offline}"
    if problem := refused("refers to Python code (!function", lambda: try_task("mine", found)):
        return problem
    return None if own_settings(run, f"benchmarks.task_paths=[{tasks}]").task_code else "named by the user, and refused"


def changed_tasks_of_a_run(ground: Ground) -> str | None:
    """The task files that a RUN names are not those that it started with."""
    write_task(ground.work / "tasks", "mine", ROWS, **CHOICE)
    run = write_run(ground)
    with open(ground.work / "tasks" / "mine.yaml", "a") as file:
        file.write("description: another\n")
    settings = EvaluateSettings(run=str(run), stages="failed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "questions_of", lambda *_: None)
        return refused(
            "are not the ones that the run started with", lambda: stages.evaluate_stages(settings, run, [], None)
        )


def edited_settings_of_a_run(ground: Ground) -> str | None:
    """A RUN's config.json was edited."""
    write_task(ground.work / "tasks", "mine", ROWS, **CHOICE)
    path = write_run(ground) / CONFIG
    read_config(path.parent)
    path.write_text(path.read_text().replace(str(ground.work / "tasks"), "/tmp/other"))
    return refused("does not match its own checksum", lambda: read_config(path.parent))


TASKS: dict[str, Variant] = {
    "templates": templates,
    "code of a task": partial(function_in, "process_docs"),
    "a class as a task": partial(function_in, "class"),
    "code of an included file": partial(function_in, "include"),
    "a metric in the current folder": metric_here,
    "a metric by path": metric_by_path,
    "a dataset in the current folder": dataset_here,
    "pickled data": pickled_data,
    "code of a tokenizer": code_of_a_tokenizer,
    "code of a run's tasks": code_of_a_run,
    "changed tasks of a run": changed_tasks_of_a_run,
    "edited settings of a run": edited_settings_of_a_run,
}
