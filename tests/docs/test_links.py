"""The documentation: its links resolve, and its commands use existing keys."""

import re
import shlex
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import get_origin, get_type_hints

import pytest

from launch.cli import VERBS, split_verb
from train.config.flags import as_overrides
from train.config.groups import CONFIGS
from train.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "docker", "benchmarks")
PAGES = [ROOT / "README.md", *(page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md")))]
WITH_COMMANDS = [
    "README.md",
    "docs/your-own-data.md",
    "docs/bring-your-own-scores.md",
    "docs/clusters.md",
    "docs/continued-pretraining.md",
    "docs/evaluation.md",
    "docs/inspect.md",
    "docs/pairs.md",
    "docs/preferences.md",
    "docs/report.md",
    "docs/reproduce.md",
]
VARIABLE = re.compile(r"\$\w+")
ASSIGNMENT = re.compile(r"(\w+)=(.*)", re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Return the words of a page's indented `pdpc VERB ...` lines: continued lines joined, variables expanded."""
    joined = re.sub(r" *\\\n *", " ", page.read_text("utf-8"))
    variables: dict[str, str] = {}
    found = []
    for line in re.findall(r"^ {4,}(\S.*)$", joined, flags=re.MULTILINE):
        words = re.split(r"\s{3,}(?=every |nodes |write |what |and |the |#)", line)[0]
        for name, value in variables.items():
            words = words.replace(f"${name} ", f"{value} ")
        try:
            split = shlex.split(words, comments=True)
        except ValueError:
            continue  # an apostrophe in indented text that is not a command
        if len(split) == 1 and (assignment := ASSIGNMENT.fullmatch(split[0])):
            variables[assignment[1]] = assignment[2]
        elif split[:1] == ["pdpc"] and (verb := split_verb(split[1:]))[0] in VERBS:
            found.append([verb[0], *verb[1]])
    return found


def keys_of(schema: type, prefix: str = "") -> tuple[set[str], set[str]]:
    """Return the dotted keys of a settings dataclass, and those among them that take arbitrary names as subkeys."""
    hints = get_type_hints(schema)
    keys: set[str] = set()
    free: set[str] = set()
    for field in fields(schema):
        kind, key = hints[field.name], f"{prefix}{field.name}"
        keys.add(key)
        if get_origin(kind) is dict:
            free.add(key)
        if is_dataclass(kind):
            below = keys_of(kind, f"{key}.")
            keys |= below[0]
            free |= below[1]
    return keys, free


def unknown(verb: str, words: list[str]) -> list[str]:
    """Return the words of a command line with a key or a choice that the verb does not have."""
    schema, _, choices = VERBS[verb].load()
    named = (lambda runs: [f"runs.arm_{index}={run}" for index, run in enumerate(runs)]) if VERBS[verb].named else None
    words = as_overrides(words, schema, first=VERBS[verb].first, named=named)
    if (split := VERBS[verb].split) is not None:
        module, _, name = split.partition(":")
        words, train_words = getattr(import_module(module), name)(words)
        wrong = unknown("train", train_words)
    else:
        wrong = []
    keys, free = keys_of(schema)
    for group, options in choices.items():
        for option in options.values():
            below = keys_of(option, f"{group}.")
            keys |= below[0]
            free |= below[1]
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        group = CONFIGS / key
        if group.is_dir() and (key in keys or schema is TrainSettings):
            if not VARIABLE.search(value) and not (group / f"{value}.yaml").is_file():
                wrong.append(word)
        elif key not in keys and key.rpartition(".")[0] not in free:
            wrong.append(word)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    relative = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in relative if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_use_existing_keys(name: str) -> None:
    found = commands(ROOT / name)
    assert len(found) >= 5, "too few command lines found: has the page's format changed?"
    assert {" ".join([verb, *words]): wrong for verb, *words in found if (wrong := unknown(verb, words))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "train arms=x",
        "train model=40b",
        "train model.layer=3",
        "arrange preferences=pdpc",
        "report run.x=y",
        "launch optimiser.lr=1",
    ],
)
def test_a_wrong_key_is_noticed(line: str) -> None:
    verb, *words = line.split()
    assert unknown(verb, words) == words


def test_task_files_on_the_page_match_the_stock_tasks() -> None:
    import lm_eval
    import yaml

    stock = Path(lm_eval.__file__).parent / "tasks"
    page = (ROOT / "docs" / "your-own-data.md").read_text("utf-8")
    shown = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)]
    assert [task["task"] for task in shown] == ["piqa_local", "sciq_local", "arc_easy_local"]
    for task, file in zip(shown, ["piqa/piqa.yaml", "sciq/sciq.yaml", "arc/arc_easy.yaml"], strict=True):
        theirs = yaml.safe_load((stock / file).read_text("utf-8"))
        same = ("output_type", "doc_to_text", "doc_to_target", "doc_to_choice", "metric_list", "metadata")
        assert {key: task[key] for key in same} == {key: theirs[key] for key in same}
        assert {task.get("validation_split"), task.get("test_split")} - {None} == set(
            task["dataset_kwargs"]["data_files"]
        )
