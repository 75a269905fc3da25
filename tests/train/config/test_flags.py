"""The command line: flags, positional arguments, and text that composes to itself whatever its content."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from launch.cli import VERBS
from launch.cluster.launch import CLUSTERS, LaunchSettings
from train.config.compose import compose
from train.config.flags import as_overrides, quoted
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


@settings(max_examples=400, deadline=None)
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


@pytest.mark.parametrize("text", HARD)
def test_quoted_text_composes_to_itself(text):
    schema, _, choices = VERBS["prepare"].load()
    words = [f"input.paths=[{quoted(text)},b]", f"output={quoted(text + 'x')}"]
    found = compose("prepare", schema, words, choices)
    assert found.input.paths == [text, "b"]
    assert found.output == text + "x"


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
        (["folder=f", "--step", "x=1"], ["folder=f", "step=true", "x=1"]),
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


def test_only_some_verbs_take_a_first_word():
    assert as_overrides(["order"], Flags) == ["order"]


def test_flags_of_a_choice_and_of_the_run_that_is_launched_have_their_types():
    words = ["--cluster.partition", "1e3", "--cluster.nodes=2", "--accept-change", "seed"]
    found = as_overrides(words, LaunchSettings, TrainSettings, choices={"cluster": CLUSTERS})
    assert found == ["cluster.partition='1e3'", "cluster.nodes=2", "accept_change=[seed]"]
