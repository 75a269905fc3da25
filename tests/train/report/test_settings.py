from pathlib import Path

import pytest
import yaml

from train.report import ReportSettings

RUNS = {"shuffled": "a", "pdpc": "b"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"runs": {}}, r"runs names 0 run\(s\) \(none\)"),
        ({"runs": {"shuffled": "a"}}, "at least one arm more"),
        ({"runs": {"a b": "x", "shuffled": "a"}}, "'a b' is not an arm name"),
        ({"runs": {"shuffled": "a", "pdpc": ""}}, r"runs\.pdpc is empty"),
        ({"runs": RUNS, "baseline": "random"}, r"baseline='random' is none of the runs \(shuffled, pdpc\)"),
        ({"runs": RUNS, "output": "report"}, r"output='report' does not end in \.html"),
        ({"runs": RUNS, "title": " "}, "title is empty"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name(values, message):
    with pytest.raises(ValueError, match=message):
        ReportSettings(**values)


def test_the_yaml_holds_the_defaults_of_the_dataclass():
    path = Path(__file__).resolve().parents[3] / "configs" / "report.yaml"
    values = yaml.safe_load(path.read_text("utf-8"))
    values.pop("defaults", None)
    settings = ReportSettings(runs=RUNS)
    assert values == {key: getattr(settings, key) for key in values} | {"runs": {}}
    assert set(values) == {"runs", "baseline", "output", "title", "figures"}


def test_the_settings_are_a_structured_config():
    from omegaconf import OmegaConf

    node = OmegaConf.merge(OmegaConf.structured(ReportSettings), {"runs": RUNS, "figures": True})
    assert OmegaConf.to_object(node) == ReportSettings(runs=RUNS, figures=True)
