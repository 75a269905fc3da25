"""Secrets: what a key looks like, so that none is written down, neither in settings nor in messages.

Known are the values of environment variables that are named like a secret, passwords of addresses in any variable
(HTTPS_PROXY) and in the text itself, and keys of a known shape. A key of no shape that stands in no variable cannot be
told from other text.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import sys
from types import TracebackType
from urllib.parse import quote, quote_plus, unquote

NAMES = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(?:_|$)", re.I)
"""Names of variables that hold secrets: WANDB_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY."""
SHORTEST = 8
"""Characters; a shorter value is no secret, and would be struck out of ordinary words."""
STRUCK = "***"
ADDRESS = re.compile(r"(?<=://)([^/\s:@'\"]*):([^/\s@'\"]+)(?=@)")
"""User and password of an address."""
SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|wandb_v\d_[A-Za-z0-9_]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_\w{30,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
)
"""Keys that say of what they are."""
WANDB_KEY = re.compile(r"(?<![\w/.-])[0-9a-f]{40}(?![\w/-]|\.\w)")
"""W&B's older keys have no other mark than their length."""


def variables() -> dict[str, str]:
    """Return the secrets that stand in the environment, by what they are. A path to a file with a secret is none."""
    found = {
        f"the value of {name}": value
        for name, value in os.environ.items()
        if NAMES.search(name) and not os.path.exists(value)
    }
    for name, value in os.environ.items():
        for number, (_, password) in enumerate(ADDRESS.findall(value)):
            found[f"the password in {name}{f' ({number + 1})' if number else ''}"] = unquote(password)
    return {what: value for what, value in found.items() if len(value) >= SHORTEST}


def secret_in(text: str) -> str | None:
    """Tell what secret a text holds, without showing it; None when it holds none that can be told."""
    for what, value in variables().items():
        if any(form in text for form in _forms(value)):
            return what
    if ADDRESS.search(text):
        return "an address with a password"
    if SHAPES.search(text) or WANDB_KEY.search(text):
        return "what looks like a key"
    return None


def without_secrets(text: str) -> str:
    """Return a text in which the secrets that can be told are struck out."""
    for value in variables().values():
        for form in _forms(value):
            text = text.replace(form, STRUCK)
    text = ADDRESS.sub(rf"\1:{STRUCK}", text)
    return WANDB_KEY.sub(STRUCK, SHAPES.sub(STRUCK, text))


class Formatter(logging.Formatter):
    """Writes records, and the tracebacks in them, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        return without_secrets(super().format(record))


def log_without_secrets(level: int, *, force: bool = False) -> None:
    """Let the root logger write messages to standard error; they, and exceptions that nobody caught, hold no secrets.

    `force`: also where the root logger writes somewhere already.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=force)
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import traceback

    sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))


def _forms(value: str) -> set[str]:
    """Return a secret as it is, as it stands in an address, in Python's quotes, and in base64 at every offset."""
    forms = {value, quote(value, safe=""), quote(value), quote_plus(value), repr(value)[1:-1]}
    raw = value.encode("utf-8", "surrogateescape")
    for shift in range(3):  # where it stands inside a longer text: without the characters that it shares with others
        coded = base64.b64encode(b"\0" * shift + raw).decode()
        first, last = -(-8 * shift // 6), (8 * (shift + len(raw))) // 6
        forms |= {coded[first:last], coded[first:last].replace("+", "-").replace("/", "_")}
    return forms
