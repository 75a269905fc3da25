"""Secrets are recognized by the variables that hold them, by their format, and as passwords in URLs."""

import base64
import logging
from pathlib import Path

import pytest

from train.config.compose import SettingsError, compose
from train.config.secrets import Formatter, secret_in, without_secrets
from train.settings import TrainSettings

WORDS = ["output=o", "arm=a", "data.tokens=t", "data.order=o"]
HF = "hf_" + "aB3" * 12


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "Canary/one+1&x")
    return "Canary/one+1&x"


@pytest.mark.parametrize("shift", range(5))
def test_a_value_of_the_environment_is_redacted_in_every_form(key, shift):
    coded = base64.b64encode(b"x" * shift + key.encode() + b"tail").decode()
    text = f"plain {key} url Canary%2Fone%2B1%26x code {coded} in words {[key]!r}"
    told = without_secrets(text)
    assert key not in told
    assert "Canary" not in told
    assert "%2Fone" not in told
    assert coded not in told
    assert told.startswith("plain *** url *** code ")


@pytest.mark.parametrize("text", [HF, "sk-" + "a1" * 20, "AKIA" + "ABCD" * 4, "0123456789abcdef" * 2 + "01234567"])
def test_keys_are_recognized_by_their_format(text):
    assert secret_in(f"tag {text}") == "something that looks like a key"
    assert without_secrets(f"tag {text}.") == "tag ***."


def test_the_password_in_a_url_is_redacted_and_the_rest_stays():
    assert without_secrets("at https://me:pa55@host/x?y") == "at https://me:***@host/x?y"
    assert secret_in("https://me:pa55@host") == "a URL with a password"


def test_the_password_of_a_url_in_the_environment_is_a_secret_itself(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:long%2Fpa55word@host:1/")
    monkeypatch.setenv("SHORT_PROXY", "http://me:short@host:1/")
    assert secret_in("tag long/pa55word") == "the password in HTTPS_PROXY"
    assert without_secrets("seed: Value 'long/pa55word' or long%2Fpa55word, short") == "seed: Value '***' or ***, short"


@pytest.mark.parametrize(
    "text", ["runs/pdpc_3b", "f" * 32, "models--x/snapshots/" + "a1" * 20, "https://host/x@y", "me@host:path"]
)
def test_text_without_a_secret_stays(text):
    assert secret_in(text) is None
    assert without_secrets(text) == text


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MONKEY", "KEYBOARD"])
def test_variables_with_other_names_are_no_secrets(monkeypatch, name):
    monkeypatch.setenv(name, "a long value")
    assert secret_in("a long value") is None


def test_a_path_is_no_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("SERVICE_CREDENTIALS", str(tmp_path))
    assert secret_in(f"{tmp_path}/run") is None


@pytest.mark.parametrize(
    "word", ["tracker.tags=['{}']", "arm='{}'", "output='runs/{}'", "tracker.group=https://u:{}@h"]
)
def test_a_setting_with_a_secret_is_rejected_without_showing_it(word):
    with pytest.raises(SettingsError, match=word.partition("=")[0]) as caught:
        compose("train", TrainSettings, [*WORDS, word.format(HF)])
    assert HF not in str(caught.value)


@pytest.mark.parametrize("word", ["seed='{}'", "nowhere='{}'", "seed=['{}'"])
def test_a_mistake_is_reported_without_the_secret_in_it(word):
    with pytest.raises(SettingsError) as caught:
        compose("train", TrainSettings, [*WORDS, word.format(HF)])
    assert HF not in str(caught.value)


def test_what_is_logged_does_not_speak_to_a_terminal():
    def logged(text, *args, error=None):
        trace = None if error is None else (type(error), error, None)
        return Formatter("%(message)s").format(logging.LogRecord("x", 40, "f", 1, text, args, trace))

    name = "a\x1b[2J\nrun complete"
    shown = "a\\x1b[2J\\nrun complete"
    assert logged("source %s of %s, %d samples", name, Path(name), 3) == f"source {shown} of {shown}, 3 samples"
    assert logged("%r %.1f %s", "\u202e", 0.5, None) == "'\\\\u202e' 0.5 None"
    assert logged("failed: %s", ValueError("first\nsecond\x9b")) == "failed: first\nsecond\\x9b"
    assert "\x1b" not in logged("failed", error=ValueError(name))
    assert logged("\x1b[1mbold") == "\x1b[1mbold"


def test_tracebacks_are_written_without_secrets(key):
    try:
        raise RuntimeError(f"no answer to {key}")
    except RuntimeError:
        record = logging.LogRecord("x", 40, "f", 1, "failed", (), __import__("sys").exc_info())
    told = Formatter("%(message)s").format(record)
    assert "no answer to ***" in told
    assert key not in told
