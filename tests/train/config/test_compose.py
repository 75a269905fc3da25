import re

import pytest

from curriculum.preference import PREFERENCES
from launch.cli import VERBS
from launch.study.file import read_study
from launch.study.steps import steps_of
from launch.study.study import composed
from tests.needed import REQUIRED
from train.config.compose import SettingsError, as_yaml, compose
from train.config.groups import CONFIGS, options_of
from train.settings import TrainSettings


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes(verb):
    schema, _, choices = VERBS[verb].load()
    settings = compose(verb, schema, REQUIRED.get(verb, []), choices)
    assert isinstance(settings, schema)
    assert as_yaml(settings)


@pytest.mark.parametrize("group", ["model", "schedule", "tracker", "experiment"])
def test_every_choice_of_a_train_group_composes(group):
    names = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert names
    for name in names:
        settings = compose("train", TrainSettings, [f"{group}={name}", *REQUIRED["train"]])
        assert settings.output == "o"


def test_every_cluster_composes():
    schema, _, choices = VERBS["launch"].load()
    for name in options_of("cluster"):
        assert compose("launch", schema, [f"cluster={name}"], choices).cluster


@pytest.mark.parametrize("name", options_of("study"))
def test_every_step_of_every_study_composes(name, tmp_path):
    study = read_study(CONFIGS / "study" / f"{name}.yaml")
    assert steps_of(study, tmp_path, composed, lambda settings: settings.processes).runs


def test_no_file_is_left_out_of_these_tests():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {name.replace(" ", "_") for name in VERBS}
    groups = {"model", "schedule", "tracker", "experiment", "preference", "cluster", "study"}
    assert {path.relative_to(CONFIGS).parts[0] for path in CONFIGS.glob("*/**/*.yaml")} == groups


PREFERENCE_FILES = sorted(path.stem for path in (CONFIGS / "preference").glob("*.yaml"))
VARIANTS = {"folded": "tilt", "pdpc_plain": "pdpc"}
"""Files that are another preference with other settings."""


@pytest.mark.parametrize("name", PREFERENCE_FILES)
def test_every_preference_composes(name, tmp_path):
    schema, _, choices = VERBS["arrange"].load()
    table = tmp_path / "table.csv"
    table.write_text("progress,low,high\n0,1,1\n")
    needed = {
        "mixture": ["preference.shares={0.0: {web: 0.5}, 1.0: {web: 0.1}}"],
        "table": [f"preference.file={table}"],
    }
    words = [f"preference={name}", *needed.get(name, []), *REQUIRED["arrange"]]
    preference = compose("arrange", schema, words, choices).preference
    kind = PREFERENCES[VARIANTS.get(name, name)]
    assert type(preference) is kind
    # The files repeat the dataclass's defaults for the reader: they must not drift apart.
    if name not in VARIANTS and name not in needed:
        assert preference == kind()


def test_the_variants_of_a_preference_match_their_names():
    schema, _, choices = VERBS["arrange"].load()
    plain, folded = (
        compose("arrange", schema, [f"preference={name}", *REQUIRED["arrange"]], choices).preference
        for name in ("pdpc_plain", "folded")
    )
    assert (plain.stratify_by, plain.floor, plain.ceiling) == (None, 0.0, 1.0)
    assert (folded.folds, folded.buckets, folded.steepness) == (4, 2, 10.0)


def test_every_file_is_of_a_preference():
    assert set(PREFERENCE_FILES) <= set(PREFERENCES) | set(VARIANTS)


def test_a_preference_needs_no_file():
    schema, _, choices = VERBS["arrange"].load()
    choices = {"preference": {**choices["preference"], "unfiled": PREFERENCES["linear"]}}
    words = ["preference=unfiled", "preference.floor=0.1", *REQUIRED["arrange"]]
    assert compose("arrange", schema, words, choices).preference == PREFERENCES["linear"](floor=0.1)
    with pytest.raises(SettingsError, match=r"preference=x is unknown: use one of .*, unfiled"):
        compose("arrange", schema, ["preference=x", *REQUIRED["arrange"]], choices)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixture", r"preference\.shares is empty: give"),
        ("table", r"preference\.file='' is not a file: give a CSV"),
    ],
)
def test_a_preference_that_needs_more_settings_says_so(name, message):
    schema, _, choices = VERBS["arrange"].load()
    with pytest.raises(ValueError, match=message):
        compose("arrange", schema, [f"preference={name}", *REQUIRED["arrange"]], choices)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", r"unknown key 'optimizer\.lrr': did you mean optimizer\.lr"),
        ("+optimizer.lrr=1", r"unknown key '(optimizer\.)?lrr': did you mean optimizer\.lr"),
        ("optimiser.lr=1", r"unknown key .*optimi"),
        ("log_every=often", r"log_every: Value 'often' of type 'str' could not be converted to Integer"),
        ("optimizer.lr=-1", r"optimizer\.lr=-1"),
        ("optimizer=fast", r"optimizer"),
        ("model=40b", r"model=40b is unknown: use one of 1\.3b, "),
        ("schedule=cosin", r"schedule=cosin is unknown: use one of constant, cosine, "),
        ("tracker.tags=abc", r"tracker\.tags is a list: write 'tracker\.tags=\[abc\]'"),
        ("log_every=f\u00fcnf", r"log_every=f\u00fcnf cannot be read: give a value of the right type"),
        ("seed=1=2", r"seed=1=2 cannot be read"),
        ("outputs=\u65e5\u672c", r"unknown key 'outputs': did you mean output"),
        ("model=\u65e5\u672c", r"model=\u65e5\u672c is unknown: use one of 1\.3b, "),
        ("seed=0,1", r"seed=0,1 names several values, .* does not sweep: .* with seed=0, then seed=1, each with"),
        ("optimizer.lr=choice(0.1,0.2)", r"with optimizer\.lr=0\.1, then optimizer\.lr=0\.2, each"),
        ("seed=range(0,1000000000)", r"with seed=0, then seed=1, then seed=2, and so on"),
        ("model=demo,100m", r"with model=demo, then model=100m, each with its own output"),
        ("model=glob(*)", r"with model=VALUE, each"),
        ("-m", r"-m: pdpc train takes one value per setting, it does not sweep"),
        ("multirun=true", r"multirun=true: pdpc train takes one value per setting"),
        ("seed=-1", r"seed=-1 must not be negative"),
        ("arm=/x", r"arm='/x' is not a name that reports can show"),
        ("precision=fp8", r"precision='fp8' is unknown: use one of \['bf16', 'fp32'\]"),
        ("zero.stage=5", r"zero\.stage=5"),
        ("schedule.name=warp", r"schedule\.name='warp' is unknown"),
        ("log_every", r"log_every.*is not KEY=VALUE"),
        ("micro_batch_size=0", r"micro_batch_size=0 must be at least 1"),
        ("data.order=", r"data\.order= is empty: give a value"),
        ("tracker.name=carrier_pigeon", r"tracker\.name='carrier_pigeon'"),
    ],
)
def test_mistakes_are_named(override, message):
    overrides = [*REQUIRED["train"], override]
    with pytest.raises(SettingsError, match=message) as caught:
        compose("train", TrainSettings, overrides)
    assert str(caught.value).startswith("train: ")
    assert "\n" not in str(caught.value)


def test_a_missing_value_is_asked_for():
    with pytest.raises(SettingsError, match=r"data\.order has no value: give data\.order=\.\.\."):
        compose("train", TrainSettings, ["output=o", "arm=a", "data.tokens=t"])


def test_no_config_names_an_import_path():
    for path in CONFIGS.rglob("*.yaml"):
        assert not re.search(r"_target_|_partial_|!!python", path.read_text()), path


@pytest.mark.parametrize("backslashes", range(6))
@pytest.mark.parametrize(
    "form", ["{}", "'{}'", '"{}"', "[{}]", "['{}']", "['a',{}]", "a'{}'", "'a\\'{}'", "'{}", "{{a:{}}}"]
)
def test_no_number_of_backslashes_opens_the_environment(monkeypatch, backslashes, form):

    monkeypatch.setenv("CANARY", "found out")
    schema, _, choices = VERBS["prepare"].load()
    value = form.format("\\" * backslashes + "${oc.env:CANARY}")
    for key in ("output", "input.paths"):
        try:
            said = str(compose("prepare", schema, ["input.paths=[x]", "output=o", f"{key}={value}"], choices))
        except SettingsError as error:
            said = str(error)
        assert "found out" not in said


@pytest.mark.parametrize("word", ["foo", "my text", "3", "+x", "step = 3", "step =3"])
def test_a_word_without_a_key_is_named(word):
    schema, _, choices = VERBS["inspect"].load()
    with pytest.raises(SettingsError, match=f"'{re.escape(word)}' is not KEY=VALUE: settings are"):
        compose("inspect", schema, ["folder=t", word], choices)
