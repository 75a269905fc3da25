"""Configuration files by path and in a folder of the user's, and the composed configuration with its origins."""

import pytest
import yaml

from launch.cli import VERBS, main
from tests.needed import REQUIRED
from train.config.compose import SettingsError, compose, configuration_of
from train.config.groups import CONFIGS
from train.settings import TrainSettings

DATA = ["data.tokens=t", "data.order=o"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of own groups, outside the checkout, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    for place, text in {
        "experiment/mine.yaml": "defaults: [base_1.3b, {override /model: small}, _self_]\narm: a\noutput: o\nseed: 7\n",
        "model/small.yaml": "layers: 3\nwidth: 64\nheads: 2\nkv_heads: 2\nffn: 64\n",
        "my \u00e9#.yaml": "# @package _global_\narm: b\noutput: p\n",
    }.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(text)
    return tmp_path


def test_an_experiment_by_path(folder):
    for word in (
        "experiment=my \u00e9#.yaml",
        f"experiment={folder}/my \u00e9#.yaml",
        "experiment='./my \u00e9#.yaml'",
    ):
        settings = compose("train", TrainSettings, [*DATA, word, "seed=5"])
        assert (settings.arm, settings.output, settings.seed) == ("b", "p", 5)
    settings = compose("train", TrainSettings, [*REQUIRED["train"], "model=model/small.yaml"])
    assert (settings.model.layers, settings.model.width) == (3, 64)


def test_a_copy_of_a_shipped_file_works_by_path(folder):
    for name in ("pdpc_3b", "demo"):
        (folder / f"{name}.yaml").write_text((CONFIGS / "experiment" / f"{name}.yaml").read_text())
        words = [*REQUIRED["train"], "benchmarks.task_code=true", f"experiment=./{name}.yaml"]
        assert compose("train", TrainSettings, words) == compose(
            "train", TrainSettings, [*words[:-1], f"experiment={name}"]
        )


def test_a_preference_by_path(folder):
    (folder / "soft.yaml").write_text("defaults: [tilt_schema]\nscore: log(pd)\nbuckets: 3\n")
    schema, _, choices = VERBS["arrange"].load()
    found = compose("arrange", schema, ["preference=soft.yaml", *REQUIRED["arrange"]], choices).preference
    assert (found.name, found.score, found.buckets) == ("tilt", "log(pd)", 3)


def test_code_of_task_files_that_a_file_names_needs_the_users_word(folder):
    """Whoever wrote the file also says that the code may run: that is not the user's word."""
    (folder / "theirs.yaml").write_text(
        "# @package _global_\nbenchmarks: {tasks: [mine], task_paths: [tasks], task_code: true}\n"
    )
    words = [*REQUIRED["train"], "experiment=theirs.yaml"]
    for more, runs in ((), False), (("benchmarks.task_paths=[own]",), True), (("benchmarks.task_code=true",), True):
        benchmarks = compose("train", TrainSettings, [*words, *more]).benchmarks
        assert (benchmarks.task_code, bool(benchmarks.task_paths)) == (runs, True)


def test_files_of_a_folder_by_name(folder):
    settings = compose("train", TrainSettings, [*DATA, f"config_dir={folder}", "experiment=mine"])
    assert (settings.arm, settings.seed, settings.model.layers) == ("a", 7, 3)
    assert compose("train", TrainSettings, [*REQUIRED["train"], "config_dir=.", "model=small"]).model.layers == 3
    with pytest.raises(SettingsError, match="experiment=mine is unknown: use one of"):
        compose("train", TrainSettings, [*DATA, "experiment=mine"])
    (folder / "experiment" / "demo.yaml").write_text("seed: 1\n")
    with pytest.raises(SettingsError, match=r"experiment=demo is in .* and in .*: give its path, or rename it"):
        compose("train", TrainSettings, [*DATA, "config_dir=.", "experiment=demo"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_target_: os.system\n", "_target_ names code to run"),
        ("arm: ${oc.env:HOME}\n", "is not resolved in settings"),
        ("arm: !!python/name:os.system\n", "the tag .* is not allowed"),
        ("hydra: {searchpath: [x]}\n", "Hydra itself cannot be configured"),
        ("# @package hydra\nlauncher: x\n", "Hydra itself cannot be configured"),
        ("defaults: [../../etc/x]\n", "is outside"),
        ("defaults: [/tmp/x]\n", "is outside"),
        ("seed: 1\nseed: 2\n", r"bad\.yaml, line 2: the key .seed. is given twice: keep one"),
        ("sed: 1\n", "unknown key 'sed': did you mean seed"),
        ("seed: [1\n", "is not YAML"),
        ("tracker: none\n", r"under `defaults:`, with the line - override /tracker: none"),
    ],
)
def test_a_file_by_path_has_only_plain_values(folder, text, message):
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        compose("train", TrainSettings, [*REQUIRED["train"], "experiment=./bad.yaml"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=./no.yaml"], r"experiment=\./no\.yaml: no\.yaml is not a file: give a \.yaml file"),
        (["experiment=/etc/passwd"], r"give the path of a \.yaml file"),
        (["config_dir=nowhere"], r"config_dir=nowhere has none of the folders .*experiment"),
        (["../../x=a.yaml"], "is outside"),
    ],
)
def test_a_file_or_folder_that_is_not_there_is_named(folder, words, message):
    with pytest.raises(SettingsError, match=message):
        compose("train", TrainSettings, [*REQUIRED["train"], *words])


def test_the_configuration_is_shown_with_the_origin_of_every_value(folder, capsys):
    words = ["train", "--cfg", "job", "--config-dir", ".", "experiment=mine", "optimizer.lr=1e-4", "schedule=wsd"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    lines = [line.strip() for line in shown.splitlines()]
    assert "data:" in lines
    assert "tokens: artifacts/tokens  # configs/experiment/base_recipe.yaml" in lines
    assert "order: ???  # required, has no value" in lines
    assert "seed: 7  # experiment/mine.yaml" in lines
    assert "layers: 3  # model/small.yaml" in lines
    assert "lr: 0.0001  # command line" in lines
    assert "  # configs/schedule/wsd.yaml" in shown
    assert "log_every: 10  # configs/experiment/base_recipe.yaml" in lines
    assert "grace_s: 30.0  # default" in lines


@pytest.mark.parametrize("verb", VERBS)
def test_the_shown_configuration_is_that_of_the_verb(verb):
    schema, _, choices = VERBS[verb].load()
    shown = yaml.safe_load(configuration_of(verb, schema, REQUIRED.get(verb, []), choices))
    assert shown.keys() == schema.__dataclass_fields__.keys()


def test_a_shown_configuration_is_an_experiment(folder):
    words = [
        *REQUIRED["train"],
        "arm=2024",
        "tracker.tags=[1e3,'yes',a b]",
        "optimizer.eps=1e-12",
        "experiment=pdpc_1.3b",
    ]
    (folder / "all.yaml").write_text(configuration_of("train", TrainSettings, words))
    again = compose("train", TrainSettings, ["experiment=all.yaml", "benchmarks.task_code=true"])
    assert again == compose("train", TrainSettings, words)


@pytest.mark.parametrize("words", [["-cn", "x"], ["-cp", "configs"], ["-p"]])
def test_hydras_short_options_are_refused(words, capsys):
    assert main(["train", *REQUIRED["train"], *words]) == 2
    assert f"pdpc train: {words[0]} is not an option: settings are KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--cfg", "hydra"], ["--cfg=all"], ["-c", "hydra"]])
def test_only_the_job_can_be_shown(words, capsys):
    assert main(["train", *words]) == 2
    assert "write --cfg job" in capsys.readouterr().err


def test_a_shown_configuration_has_no_secrets(capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "verysecretvalue")
    assert main(["train", "--cfg", "job", "arm=verysecretvalue"]) == 0
    assert "verysecretvalue" not in capsys.readouterr().out
