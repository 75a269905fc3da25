"""Texts in configuration files: the characters that were written, or a refusal with the line and the quotes."""

import re

import pytest

from launch.cli import VERBS, main
from tests.needed import REQUIRED
from train.config.compose import SettingsError, compose
from train.settings import TrainSettings

SAME = [
    "5",
    "1.5",
    "True",
    "2024-06-01",
    "2024-13-45",
    "a",
    "1.3b",
    "y",
    "~x",
    "'on'",
    '"1e3"',
    "!!str 0x10",
    "12e",
    "1e",
]
CHANGED = [
    "2024_06_01",
    "1e3",
    "0x10",
    "007",
    "on",
    "off",
    "yes",
    "No",
    "true",
    "1:30",
    ".5",
    "5.",
    "+5",
    "1_000",
    "-0",
]
CHANGED += ["1.10", ".inf", ".NaN", "!!float 1", "0b11"]


def composed(folder, text, *words):
    (folder / "mine.yaml").write_text(text)
    needed = [word for word in REQUIRED["train"] if not word.startswith("arm=")]
    return compose("train", TrainSettings, [*needed, *words, f"experiment={folder}/mine.yaml"])


@pytest.mark.parametrize("written", SAME)
def test_a_text_has_the_characters_that_were_written(written, tmp_path):
    expected = written.removeprefix("!!str ").strip("'\"")
    assert composed(tmp_path, f"arm: a\ninit: {written}\ntracker: {{tags: [{written}, b]}}\n").init == expected
    assert composed(tmp_path, f"arm: a\ntracker: {{tags: [{written}, b]}}\n").tracker.tags == [expected, "b"]


@pytest.mark.parametrize("written", CHANGED)
def test_other_characters_are_refused_with_the_quotes_to_write(written, tmp_path):
    bare = written.rpartition(" ")[2]
    message = rf"mine\.yaml, line 2: init is text, but YAML reads {re.escape(bare)} as \S+: write (init: \".*\")$"
    with pytest.raises(SettingsError, match=message) as caught:
        composed(tmp_path, f"arm: a\ninit: {written}\n")
    remedy = re.search(message, str(caught.value))
    assert composed(tmp_path, f"arm: a\n{remedy[1]}\n").init == bare
    with pytest.raises(SettingsError, match=r"line 3: an entry of tracker\.tags is text, .* write \""):
        composed(tmp_path, f"arm: a\ntracker:\n  tags: [a, {written}]\n")


def test_null_is_a_value_of_an_optional_text_only(tmp_path):
    for null in ("null", "~", ""):
        assert composed(tmp_path, f"arm: a\ntracker: {{entity: {null}}}\n").tracker.entity is None
        with pytest.raises(SettingsError, match=r"line 1: arm is text, but YAML reads .* as null: write arm: \""):
            composed(tmp_path, f"arm: {null}\n")


def test_numbers_and_truth_values_may_be_written_in_any_way(tmp_path):
    found = composed(tmp_path, "arm: a\nseed: 0x10\noptimizer: {lr: 1e-3, eps: .5}\nexecution: {compile: off}\n")
    assert (found.seed, found.optimizer.lr, found.optimizer.eps, found.execution.compile) == (16, 1e-3, 0.5, False)


def test_names_and_values_of_a_mapping(tmp_path):
    schema, _, choices = VERBS["launch"].load()

    def launched(text):
        (tmp_path / "mine.yaml").write_text(text)
        return compose("launch", schema, [f"cluster={tmp_path}/mine.yaml"], choices).cluster

    head = "defaults: [slurm_schema]\ntime_limit: 24:00:00\n"
    with pytest.raises(SettingsError, match=r'line 2: cluster\.time_limit is text, .*: write time_limit: "24:00:00"'):
        launched(head)
    head = head.replace("24:00:00", '"24:00:00"')
    assert launched(f"{head}environment: {{NCCL_DEBUG: INFO, A: 1}}\n").environment == {"NCCL_DEBUG": "INFO", "A": "1"}
    with pytest.raises(SettingsError, match=r'line 4: cluster\.environment\.NCCL is text, .* write NCCL: "on"'):
        launched(f"{head}environment:\n  NCCL: on\n")
    with pytest.raises(SettingsError, match=r'line 4: a name in cluster\.environment is text, .* write "1e3": \.\.\.'):
        launched(f"{head}environment:\n  1e3: a\n")
    with pytest.raises(SettingsError, match="line 4: YAML merges names of this mapping, or reads two as one"):
        launched(f"{head}environment:\n  1: a\n  0x1: b\n")


def test_a_preference_and_a_file_chosen_by_a_file(tmp_path, monkeypatch):
    schema, _, choices = VERBS["arrange"].load()
    (tmp_path / "soft.yaml").write_text("defaults: [tilt_schema]\nscore: 1e3\n")
    with pytest.raises(SettingsError, match=r'soft\.yaml, line 2: preference\.score is text, .* write score: "1e3"'):
        compose("arrange", schema, [f"preference={tmp_path}/soft.yaml", *REQUIRED["arrange"]], choices)
    (tmp_path / "tracker").mkdir()
    (tmp_path / "tracker" / "own.yaml").write_text("# a comment\nproject: 2024_06\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SettingsError, match=r'own\.yaml, line 2: tracker\.project is text, .* write project: "2024_06"'
    ):
        composed(tmp_path, "defaults: [{override /tracker: own}, _self_]\narm: a\n", "config_dir=.")


def test_the_program_prints_it_in_one_line(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("arm: on\n")
    assert main(["train", *REQUIRED["train"], f"experiment={tmp_path}/mine.yaml"]) == 2
    message = f'pdpc train: {tmp_path}/mine.yaml, line 1: arm is text, but YAML reads on as true: write arm: "on"\n'
    assert capsys.readouterr().err == message
