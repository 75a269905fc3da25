"""The demo's folder may have any name: its paths reach the verbs unchanged."""

import shutil
from pathlib import Path

import pytest

from curriculum.artifact.outputs import others
from launch.cli import VERBS
from launch.demo.demo import OWN, DemoSettings, arms, prepare, references, results, run
from train.config.compose import compose
from train.config.typed import quoted

NAMES = [
    "/x/pdpc (copy),b=1/demo",
    "/a b/it's",
    "c\\d\\",
    "a\\'b",
    "{x}[y]",
    "$HOME",
    "${oc.env:HOME}",
    "a\\${b}",
    "~/x",
    "null",
    "1e5",
    ' a#b:c%d*"q" ',
]


@pytest.mark.parametrize("name", NAMES)
def test_a_quoted_path_means_itself(name):
    schema, _, choices = VERBS["prepare"].load()
    settings = compose("prepare", schema, [f"input.paths=[{quoted(name)}]", f"output={quoted(name)}"], choices)
    assert settings.input.paths == [name]
    assert settings.output == name


def commands(settings, root):
    steps = arms(settings, root)
    runs = [[step.verb, *step.words] for step in steps.all]
    return [prepare(settings, root, root / "t"), *references(settings, root), *runs, *results(settings, root, steps)]


def test_every_step_composes_in_a_folder_with_a_hard_name():
    root = Path(NAMES[0])
    for verb, *overrides in commands(DemoSettings(output=str(root), text="t"), root):
        schema, _, choices = VERBS[verb].load()
        settings = compose(verb, schema, overrides, choices)
        assert Path(settings.output).parent == root
        if verb == "report":
            assert settings.runs == {
                arm: [str(root / f"run_{arm}_{seed}") for seed in range(3)] for arm in ("shuffled", "pdpc")
            }


@pytest.mark.parametrize("name", ["d.jsonl", "photos"])
def test_a_demo_is_not_run_among_other_files(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=rf"output=.* contains other files \({name}\): choose a new folder"):
        run(DemoSettings(output=str(tmp_path)), lambda words: 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_a_demo_writes_is_its_own(tmp_path):
    for words in commands(DemoSettings(output=str(tmp_path), text="t"), tmp_path):
        path = Path(next(word for word in words if word.startswith("output=")).removeprefix("output="))
        path.mkdir()
    assert others(tmp_path, OWN) == []


def test_the_arm_late_reads_the_target_late_and_as_often(tokens_folder, tmp_path):
    shutil.copytree(tokens_folder, tmp_path / "tokens")
    settings = DemoSettings(output=str(tmp_path), text="t", target="hard", seeds=1)
    steps = arms(settings, tmp_path)
    assert [run.arm for run in steps.runs] == ["shuffled", "late", "pdpc"]
    (words,) = (step.words for step in steps.all if step.name == "order_late_0")
    schema, _, choices = VERBS["replan"].load()
    shares = compose("replan", schema, words, choices).preference.shares
    start, middle, end = (shares[at]["hard"] for at in (0.0, 0.6, 1.0))
    assert start < middle < end == 0.5  # a source of half the text can be at most half of a batch
    assert "target=hard" in results(settings, tmp_path, steps)[0]
    assert DemoSettings().late == "package_descriptions"
