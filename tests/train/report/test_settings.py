import json
from pathlib import Path

import pytest
import yaml

from train.config.flags import as_overrides
from train.report import ReportSettings
from train.report.settings import named_by_arm

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "report.yaml"
RUNS = {"shuffled": "a", "pdpc": "b"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"runs": {}}, r"runs names 0 run\(s\) \(none\)"),
        ({"runs": {"shuffled": "a"}}, "at least one other arm"),
        ({"runs": {"a b": "x", "shuffled": "a"}}, "'a b' is not a valid arm name"),
        ({"runs": {"shuffled": "a", "pdpc": ""}}, r"runs\.pdpc is empty"),
        ({"runs": RUNS, "baseline": "random"}, r"baseline='random' is not among the runs \(shuffled, pdpc\)"),
        ({"runs": RUNS, "output": "report"}, r"output='report' does not end in \.html"),
        ({"runs": RUNS, "title": " "}, "title is empty"),
        ({"runs": RUNS, "seed_deviation": 0.0}, r"seed_deviation=0.0 must be above 0 nats per token, or null"),
        ({"runs": {"shuffled": "a", "pdpc": []}}, r"runs\.pdpc is empty"),
        ({"runs": {"shuffled": "a", "pdpc": ["b", "c", "b"]}}, r"runs\.pdpc lists b twice"),
        ({"runs": {"shuffled": "a", "pdpc": {"x": 1}}}, "neither a run nor a list of runs"),
        ({"runs": {"pdpc": "wandb:e/p/r"}, "wandb": True}, "wandb:e/p/r is already in W&B"),
    ],
)
def test_a_wrong_setting_is_rejected_with_its_name(values, message):
    with pytest.raises(ValueError, match=message):
        ReportSettings(**values)


def test_the_yaml_holds_the_defaults_of_the_dataclass():
    values = yaml.safe_load(CONFIG.read_text("utf-8"))
    values.pop("defaults")
    settings = ReportSettings(runs=RUNS)
    assert values == {key: getattr(settings, key) for key in values} | {"runs": {}}
    assert set(values) == set(ReportSettings.__dataclass_fields__)


def test_the_verb_composes_and_its_usage_line_is_right():
    from train.config.compose import SettingsError, compose

    usage = next(line for line in CONFIG.read_text("utf-8").splitlines() if line.startswith("#   pdpc report "))
    settings = compose("report", ReportSettings, usage.removeprefix("#   pdpc report ").split())
    assert settings == ReportSettings(runs={"shuffled": "runs/shuffled", "pdpc": "runs/pdpc"})
    with pytest.raises(SettingsError, match="runs names 0"):
        compose("report", ReportSettings, [])


def test_seeds_are_a_list_and_a_run_in_wandb_is_an_address():
    from train.config.compose import compose

    words = ["runs.shuffled=wandb:entity/my-project/1a2b3c", "runs.pdpc=[runs/pdpc-0,runs/pdpc-1]"]
    settings = compose("report", ReportSettings, words)
    assert settings.places == {"shuffled": ["wandb:entity/my-project/1a2b3c"], "pdpc": ["runs/pdpc-0", "runs/pdpc-1"]}


def recorded(folder, arm):
    facts = dict.fromkeys(("fingerprints", "identity", "parameters", "paths", "seed", "status", "versions"))
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(facts | {"arm": arm}))
    return str(folder)


def test_run_folders_are_named_by_the_arm_that_each_records(tmp_path):
    from train.config.compose import compose

    a, b, c, d = (
        recorded(tmp_path / name, arm)
        for name, arm in (("2024_06", "shuffled"), ("1e3", "pdpc_1.3b"), ("x, [y]", "pdpc_1.3b"), ("z", "own"))
    )
    words = as_overrides([a, b, "output=x.html", c], ReportSettings, named=named_by_arm)
    assert words[0] == "output=x.html"
    assert compose("report", ReportSettings, words).places == {"shuffled": [a], "pdpc_1.3b": [b, c]}
    assert compose("report", ReportSettings, [*named_by_arm([d, a])]).places == {"own": [d], "shuffled": [a]}
    with pytest.raises(ValueError, match="runs names 1"):
        compose("report", ReportSettings, named_by_arm([b, c]))


def test_a_word_that_records_no_arm_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a RUN folder"):
        named_by_arm([str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match=r"needs the name of its arm: write runs\.NAME=wandb:e/p/r"):
        named_by_arm(["wandb:e/p/r"])
    with pytest.raises(ValueError, match=r"has arm='a b', which is not a valid arm name there .*: name it, runs"):
        named_by_arm([recorded(tmp_path / "run", "a b")])


@pytest.mark.parametrize(
    "arm", ["2024_06_01", "2024", "007", "0", "true", "null", "nan", "on", "pdpc_1.3b", "a+b", "1.5b"]
)
def test_an_arm_keeps_the_name_that_it_records(tmp_path, arm):
    from train.config.compose import compose

    a, b = recorded(tmp_path / "a", "shuffled"), recorded(tmp_path / "b", arm)
    assert compose("report", ReportSettings, named_by_arm([a, b])).places == {"shuffled": [a], arm: [b]}


@pytest.mark.parametrize("arm", ["1e3", "1.10", "1e-3"])
def test_an_arm_whose_name_is_a_number_in_a_mapping_is_rejected(tmp_path, arm):
    with pytest.raises(ValueError, match="which is read as a number there: name it, runs"):
        named_by_arm([recorded(tmp_path / "run", arm)])
