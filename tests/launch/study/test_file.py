"""A study's file: what it means, and what is rejected."""

from pathlib import Path

import pytest

from launch.study.file import read_study
from launch.study.words import names_in, words_of
from tests.launch.study.example import written


def test_a_study(tmp_path: Path) -> None:
    study = read_study(written(tmp_path))
    assert study.seeds == [0, 1, 2]
    assert study.baseline == "shuffled"
    assert (study.primary.arm, study.primary.schedule) == ("late", "default")
    assert list(study.schedules) == ["default"]
    assert study.steps["weak"] == (
        "train",
        {"data.tokens": "$tokens", "data.order": "$order_weak", "experiment": "demo"},
    )


def test_settings_as_overrides() -> None:
    settings = {"a": "$tokens/x", "b": 1e-3, "c": True, "d": None, "e": ["x y", "$$1"], "f": {0.0: {"science": 0.05}}}
    assert words_of(settings, {"tokens": Path("out/tokens")}) == [
        "a=out/tokens/x",
        "b=0.001",
        "c=true",
        "d=null",
        "e=['x y','$1']",
        "f={0.0: {science: 0.05}}",
    ]
    assert names_in(settings) == {"tokens"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {}}, "unknown key 'arm'"),
        ({"question": " "}, "question must be a sentence"),
        ({"seeds": [1, 1]}, r"seeds: \[1, 1\] must be a number"),
        ({"seeds": True}, "seeds: True must be a number"),
        ({"seeds": 0}, "seeds: 0 must be a number"),
        ({"arms": {"late": {}}}, "give the baseline 'shuffled' and another arm"),
        ({"arms": {"shuffled": {}, "la te": {}}}, "'la te' must be at most 40 letters"),
        ({"primary": {"measure": "val/loss", "arm": "shuffled"}}, "must be an arm other than the baseline"),
        ({"primary": {"measure": "loss", "arm": "late"}}, "must be a measure of the report"),
        ({"primary": {"measure": "val/loss", "arm": "late", "schedule": "x"}}, "'x' is not one of default"),
        ({"schedules": {"a": {}, "b": {}}}, "primary.schedule is missing"),
        (
            {"train": {"data.tokens": "$token"}},
            r"train: \$token is not made before it: use \$order_weak, \$tokens, \$weak",
        ),
        ({"train": {"output": "x"}}, "train.output: the study sets it"),
        ({"arms": {"shuffled": {}, "late": {"seed": 3}}}, "arms.late.seed: the study sets it"),
        ({"steps": {"tokens": {"verb": "report"}}}, "steps.tokens.verb: 'report' must be one of"),
        ({"steps": {"runs": {"verb": "prepare"}}}, "steps.runs: the name is already used"),
        ({"order": "x"}, "order must be a mapping of settings"),
    ],
)
def test_what_is_rejected(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        read_study(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arm: late", "arm: late\n  arm: late", r", line 5: the key 'arm' is given twice: keep one"),
        ("train:300", "2024_06_01", r', line \d+: steps\.tokens\..* write tokenizer\.name: "2024_06_01"'),
        ("preference: mixture", "preference: mixture\n    scores: 1_0", r", line \d+: arms\.late\.scores is text"),
        ("seeds: 3", "seeds: ${x}", r", line 5: \$\{\.\.\.\} is not resolved in settings"),
        ("seeds: 3", "seeds: *a", r", line 5: the alias 'a' is not allowed"),
        ("question: ", "question: on #", r": question must be a sentence"),
    ],
)
def test_the_file_is_read_like_any_configuration(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=f"^{path}{message}"):
        read_study(path)


def test_a_file_that_is_not_a_study(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a file: give the YAML file of a study"):
        read_study(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="must be a mapping with the keys question"):
        read_study(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seeds: 4", "line [0-9]+: the key 'seeds' is given twice: keep one"),
        ("baseline: on", "give the baseline True"),
        ("schedules: {gentle: {guards.finite: on}}", 'line [0-9]+: YAML reads on as true: write true, or "on" if'),
        ("schedules: {gentle: {optimizer.lr: 1:30}}", "YAML reads 1:30 as 90"),
    ],
)
def test_what_was_written_is_what_is_read(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path)
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ValueError, match=message):
        read_study(path)


def test_one_large_seed_is_not_taken_for_that_many(tmp_path: Path) -> None:
    assert read_study(written(tmp_path, seeds=[20261201])).seeds == [20261201]
    with pytest.raises(ValueError, match=r"for one seed write \[20261201\]"):
        read_study(written(tmp_path, seeds=20261201))
