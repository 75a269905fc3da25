"""The command line: flags, positional arguments, and text that composes to itself whatever its content."""

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from launch.cli import VERBS
from launch.cluster.launch import CLUSTERS, LaunchSettings
from tests.needed import REQUIRED
from train.config.compose import SettingsError, compose
from train.config.flags import as_overrides
from train.config.typed import as_typed, quoted
from train.settings import TrainSettings

PARSER = OverridesParser.create()
PIECES = ["\\", "'", '"', "${", "\\${", "}", "$", *"[]{}(),=:~+#./-_ \t\n", "a", "e", "1", "\u00e9", "\u4e2d"]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=10).map("".join),
    st.text(max_size=8),
    st.from_regex(r"[+-]?[0-9_.eE+-]{1,6}", fullmatch=True),
)
NUMBERS = ["1", "1_0", "1e3", ".5", "1.", "0x1", "nan", "-Inf"]
WORDS = ["", " ", " a ", "null", "Null", "true", "FALSE", "[a]", "{a: b}", "f(x)", "a,b", "a=b", "\u00fcber", "\n"]
ESCAPES = ["a\\b c", "a\\'b", "c\\d\\", "\\", "'", '"', "${x}", "a\\${b}", "${oc.env:HOME}"]
HARD = [*NUMBERS, *WORDS, *ESCAPES]


@settings(max_examples=int(os.environ.get("PDPC_EXAMPLES", "20")) * 2, deadline=None)
@given(TEXTS)
@example("'\\")
@example("\\${'")
def test_quoted_text_is_read_literally(text):
    value = quoted(text)
    config = OmegaConf.create({"key": PARSER.parse_override(f"key={value}").value()})
    listed = OmegaConf.create({"key": PARSER.parse_override(f"key=[{value},{value}]").value()})
    if text != "???":  # OmegaConf's mark of a missing value, which no override can give
        assert config.key == text
        assert type(config.key) is str
        assert list(listed.key) == [text, text]


def test_quoted_text_composes_to_itself():
    schema, _, choices = VERBS["prepare"].load()
    words = [f"input.paths=[{','.join(map(quoted, HARD))},b]", f"output={quoted(HARD[-1])}"]
    found = compose("prepare", schema, words, choices)
    assert (found.input.paths, found.output) == ([*HARD, "b"], HARD[-1])
    schema, _, choices = VERBS["score"].load()
    words = [f"models.m{number}={quoted(text + 'x')}" for number, text in enumerate(HARD)]
    found = compose("score", schema, ["tokens=t", "output=o", "models.weak=w", "models.strong=s", *words], choices)
    assert [found.models[f"m{number}"] for number in range(len(HARD))] == [text + "x" for text in HARD]


@pytest.mark.parametrize("text", [text for text in HARD if text and "=" not in text])
def test_a_first_word_and_the_value_of_a_flag_are_text(text):
    schema, _, choices = VERBS["inspect"].load()
    words = as_overrides([text, "--tokens", text, f"--scores={text}"], schema, first="folder", choices=choices)
    found = compose("inspect", schema, words, choices)
    assert (found.folder, found.tokens, found.scores) == (text, text, text)


@pytest.mark.parametrize("text", ["runs/demo_1.5", "tokens", "./a", "/x/1e3", "a.b-c_1"])
def test_plain_text_is_not_quoted(text):
    assert quoted(text) == text


def test_a_path_is_quoted_as_its_text():
    assert quoted(Path("a b")) == "'a b'"


@dataclass
class Part:
    name: str = ""
    rate: float = 0.0


@dataclass
class Flags:
    folder: str = ""
    dry_run: bool = False
    step: int | None = None
    label: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    accept_change: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    part: Part = field(default_factory=Part)


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        (["--step", "5"], ["step=5"]),
        (["--step=5"], ["step=5"]),
        (["--step", "null"], ["step=null"]),
        (["--label", "null"], ["label='null'"]),
        (["--part.name", "1e3", "--part.rate=1e3"], ["part.name='1e3'", "part.rate=1e3"]),
        (["--dry-run", "--step", "5"], ["dry_run=true", "step=5"]),
        (["--dry-run=false"], ["dry_run=false"]),
        (["order", "--dry-run"], ["folder=order", "dry_run=true"]),
        (["--dry-run", "order"], ["dry_run=true", "folder=order"]),
        (["./a/b_1.x", "--step", "-1"], ["folder=./a/b_1.x", "step=-1"]),
        (["a (b)'s"], ["folder='a (b)\\'s'"]),
        (["--models.weak", "run"], ["models.weak=run"]),
        (["--models.a-b=1e3"], ["models.a-b='1e3'"]),
        (["--unknown"], ["unknown=true"]),
        (["--accept-change", "a.b", "--step", "5", "--accept-change=c"], ["step=5", "accept_change=[a.b,c]"]),
        (["--accept-change=[a,b]"], ["accept_change=[a,b]"]),
        (["--accept-change", "[a,b]"], ["accept_change=[a,b]"]),
        (["--accept-change", "a b", "--accept-change", "1"], ["accept_change=['a b','1']"]),
        (["--sizes", "1", "--sizes=2"], ["sizes=[1,2]"]),
    ],
)
def test_flags_are_overrides(words, overrides):
    assert as_overrides(words, Flags, first="folder") == overrides


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label", "step=5"], "--label has no value: write --label VALUE, or --label=step=5 if that is the value"),
        (["--label", "--dry-run"], "--label has no value: write --label VALUE"),
        (["--part.name"], "--part.name has no value: write --part.name VALUE"),
        (["--step", "x=1"], "--step has no value: write --step VALUE, or --step=x=1 if that is the value"),
        (["--accept-change"], "--accept-change has no value: write --accept-change VALUE"),
        (["--models.weak", "folder=a b"], "--models.weak has no value: .*, or '--models.weak=folder=a b' if"),
    ],
)
def test_only_the_flag_of_a_truth_value_stands_alone(words, message):
    with pytest.raises(ValueError, match=message):
        as_overrides(words, Flags)
    label = as_overrides(["--label=step=5", "--dry-run"], Flags)
    assert label == ["label='step=5'", "dry_run=true"]


def test_only_some_verbs_take_a_first_word():
    assert as_overrides(["order"], Flags) == ["order"]


def test_flags_of_a_choice_and_of_the_run_that_is_launched_have_their_types():
    words = ["--cluster.partition", "1e3", "--cluster.nodes=2", "--accept-change", "seed"]
    found = as_overrides(words, LaunchSettings, TrainSettings, choices={"cluster": CLUSTERS})
    assert found == ["cluster.partition='1e3'", "cluster.nodes=2", "accept_change=[seed]"]


TYPED = [
    "2024_06_01",
    "1e3",
    "1.10",
    "true",
    "null",
    "1_1_1",
    "-0",
    "nan",
    ".5",
    "log(pd)",
    "choice(a,b)",
    "a=b",
    "c#1",
]
TYPED += ["epoch=999-step=87999.ckpt", "\u65e5\u672c", "mlx5_0:1,mlx5_3:1", "a|b", "p[01].jsonl", "[ab].jsonl", "it's"]
TYPED += ["user@host", "50%", "C:\\d", "~x", "a~/x", "a: b", " x ", "'a'b'"]
"""Values that Hydra reads as something else, or not at all."""


@pytest.mark.parametrize("text", TYPED)
def test_a_text_setting_takes_the_characters_that_were_typed(text):
    schema, _, choices = VERBS["arrange"].load()
    words = ["tokens=t", "scores=s", f"output={text}", f"preference.score={text}"]
    found = compose("arrange", schema, words, choices)
    assert (found.output, found.preference.score) == (text, text)


def test_a_text_under_a_free_name_takes_the_characters_that_were_typed():
    schema, _, choices = VERBS["score"].load()
    words = [f"models.m{number}={text}" for number, text in enumerate(TYPED)]
    found = compose("score", schema, ["tokens=t", "output=o", "models.weak=w", "models.strong=s", *words], choices)
    assert [found.models[f"m{number}"] for number in range(len(TYPED))] == TYPED
    schema, _, choices = VERBS["report"].load()
    words = [f"runs.r{number}={text}" for number, text in enumerate(TYPED)]
    found = compose("report", schema, ["runs.shuffled=a", *words], choices)
    assert [found.places[f"r{number}"] for number in range(len(TYPED))] == [[text] for text in TYPED]


def test_a_tilde_outside_quotes_is_the_home_folder_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me #1")
    schema, _, choices = VERBS["arrange"].load()
    found = compose("arrange", schema, ["tokens=~/t", "preference=shuffled", "batch_size=2", "output='~/o'"], choices)
    assert (found.tokens, found.output) == ("/home/me #1/t", "~/o")
    schema, _, choices = VERBS["prepare"].load()
    found = compose("prepare", schema, ["input.paths=[~/a/*.jsonl, b, '~/c']", "output=~"], choices)
    assert (found.input.paths, found.output) == (["/home/me #1/a/*.jsonl", "b", "~/c"], "/home/me #1")
    schema, _, choices = VERBS["score"].load()
    found = compose("score", schema, ["tokens=t", "output=o", "models={weak: ~/w, strong: s}"], choices)
    assert found.models == {"weak": "/home/me #1/w", "strong": "s"}


def test_an_entry_of_a_list_takes_the_characters_that_were_typed():
    texts = [text for text in TYPED if "," not in text or "(" in text]
    listed, wanted = f"[{','.join(texts)}, b ,'c,d']", [*(text.strip() for text in texts), "b", "c,d"]
    schema, _, choices = VERBS["prepare"].load()
    assert compose("prepare", schema, [f"input.paths={listed}", "output=o"], choices).input.paths == wanted
    schema, _, choices = VERBS["report"].load()
    found = compose("report", schema, ["runs.shuffled=a", f"runs.pdpc={listed}"], choices)
    assert found.places["pdpc"] == wanted


def test_a_list_that_the_shell_split_is_printed_whole():
    with pytest.raises(SettingsError, match=r"\[a b, has no closing bracket: write 'input\.paths=\[a b, c, d\]'"):
        compose("prepare", VERBS["prepare"].load()[0], ["input.paths=[a b,", "c,", "d]"])


def test_a_mapping_takes_the_characters_that_were_typed():
    schema, _, choices = VERBS["score"].load()
    words = ["tokens=t", "output=o", "models={weak: 1e3, strong: 'b,c', third: a:b}"]
    assert compose("score", schema, words, choices).models == {"weak": "1e3", "strong": "b,c", "third": "a:b"}
    schema, _, choices = VERBS["report"].load()
    found = compose("report", schema, ["runs={shuffled: 2024_06_01, 1.3b: [1e3,'x']}"], choices)
    assert found.places == {"shuffled": ["2024_06_01"], "1.3b": ["1e3", "x"]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("null", None),
        ("NULL", None),
        ("'null'", "null"),
        ('"1e3"', "1e3"),
        ("a\\,b", "a,b"),
        ("", ""),
        ("\\${x}", "${x}"),
    ],
)
def test_hydras_null_quotes_and_escapes_keep_their_meaning(value, text):
    schema, _, choices = VERBS["inspect"].load()
    assert compose("inspect", schema, ["folder=f", f"tokens={value}"], choices).tokens == text


@pytest.mark.parametrize(
    ("verb", "word", "key", "expected"),
    [
        ("prepare", "input.paths=a#b", "input.paths", [["a#b"]]),
        ("prepare", "input.paths=a b,c", "input.paths", [["a b", "c"], ["a b,c"]]),
        ("prepare", "input.paths=[a(,b]", "input.paths", [["a(", "b"]]),
        ("prepare", "input.paths=[[a]]", "input.paths", [["[a]"]]),
        ("prepare", "input.paths=[x]y", "input.paths", [["[x]y"]]),
        ("prepare", 'input.paths="[c#1]"', "input.paths", [["c#1"]]),
        ("prepare", "input.paths='a, b'", "input.paths", [["a, b"]]),
        ("prepare", "input.paths=[a#b", "input.paths", [["a#b"]]),
        ("prepare", "output=[a,'b']", "output", ["[a,'b']"]),
        ("prepare", 'output={a: "b"}', "output", ['{a: "b"}']),
        ("report", "runs.shuffled={a: b}", "runs.shuffled", ["{a: b}"]),
        ("train", "tracker.tags=\u65e5\u672c", "tracker.tags", [["\u65e5\u672c"]]),
    ],
)
def test_the_words_that_an_error_prints_work(verb, word, key, expected):
    schema, _, choices = VERBS[verb].load()
    needed = [one for one in REQUIRED[verb] if not one.startswith(f"{key}=")]
    with pytest.raises(SettingsError, match=re.escape(key)) as caught:
        compose(verb, schema, [*needed, word], choices)
    message = str(caught.value)
    printed = [shlex.split(message[match.start() :])[0] for match in re.finditer(rf"'?{re.escape(key)}=", message)]
    found = []
    for one in printed:
        given: object = compose(verb, schema, [*needed, *as_overrides([one], schema, choices=choices)], choices)
        for name in key.split("."):
            given = given[name] if isinstance(given, dict) else getattr(given, name)
        found.append(given)
    assert found == expected


def test_the_kind_of_a_setting_is_that_of_the_chosen_option():
    options = {"text": Flags, "number": Part}
    assert as_typed(["part=number", "part.rate=1e3"], choices={"part": options}) == ["part=number", "part.rate=1e3"]
    assert as_typed(["part=text", "part.label=1e3"], choices={"part": options}) == ["part=text", "part.label='1e3'"]


def test_a_first_word_and_a_text_flag_may_contain_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source=web").mkdir()
    assert as_overrides(["source=web"], Flags, first="folder") == ["folder='source=web'"]
    assert as_overrides(["source=no"], Flags, first="folder") == ["source=no"]
    assert as_overrides(["--label", "source=no"], Flags) == ["label='source=no'"]
