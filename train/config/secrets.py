"""Secrets: what a key looks like, so that none is written to settings or messages.

Recognized are the values of environment variables that are named like a secret, passwords in URLs in any variable
(HTTPS_PROXY) and in the text itself, and keys of a known format. A key of no known format that is in no variable cannot
be distinguished from other text.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import sys
from copy import copy
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from curriculum.work.printable import printable, printable_lines

NAMES = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(?:_|$)", re.I)
"""Names of variables that hold secrets: WANDB_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY."""
SHORTEST = 8
"""Characters; a shorter value is not treated as a secret: it would be removed from ordinary words."""
REDACTED = "***"
ADDRESS = re.compile(r"(?<=://)([^/\s:@'\"]*):([^/\s@'\"]+)(?=@)")
"""User and password of a URL."""
SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|wandb_v\d_[A-Za-z0-9_]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_\w{30,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
)
"""Keys with a recognizable prefix."""
WANDB_KEY = re.compile(r"(?<![\w/.-])[0-9a-f]{40}(?![\w/-]|\.\w)")
"""W&B's older keys are recognizable only by their length."""


def variables() -> dict[str, str]:
    """Return the secrets in the environment, by description. A path to a file that holds a secret is none."""
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
    """Describe the secret in a text, without showing it; None if none is recognized."""
    for what, value in variables().items():
        if any(form in text for form in _forms(value)):
            return what
    if ADDRESS.search(text):
        return "a URL with a password"
    if SHAPES.search(text) or WANDB_KEY.search(text):
        return "something that looks like a key"
    return None


def without_secrets(text: str) -> str:
    """Return a text with all recognized secrets replaced by REDACTED."""
    for value in variables().values():
        for form in _forms(value):
            text = text.replace(form, REDACTED)
    text = ADDRESS.sub(rf"\1:{REDACTED}", text)
    return WANDB_KEY.sub(REDACTED, SHAPES.sub(REDACTED, text))


class Formatter(logging.Formatter):
    """Writes records, and the tracebacks in them, without secrets and safe to print.

    A text among the arguments stays within its line; a message of several lines may be an exception, or the format.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        shown = copy(record)
        if isinstance(record.args, tuple):
            shown.args = tuple(map(_literal, record.args))
        return without_secrets(super().format(shown))

    def formatException(self, ei: Any) -> str:
        """Return a traceback as text."""
        return printable_lines(super().formatException(ei))


def log_without_secrets(level: int, *, force: bool = False) -> None:
    """Make the root logger write messages to stderr; secrets are removed from them and from uncaught exceptions.

    `force`: even if the root logger already has a handler.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=force)
    sys.excepthook = _excepthook


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import traceback

    sys.stderr.write(printable_lines(without_secrets("".join(traceback.format_exception(kind, error, trace)))))


def _literal(value: object) -> object:
    """Return an argument of a log message, safe to print; numbers stay what they are."""
    if isinstance(value, BaseException):
        return printable_lines(str(value))
    return printable(str(value)) if isinstance(value, str | os.PathLike) else value


def _forms(value: str) -> set[str]:
    """Return a secret in plain text, as in a URL, in Python's quotes, and in base64 at every offset."""
    forms = {value, quote(value, safe=""), quote(value), quote_plus(value), repr(value)[1:-1]}
    raw = value.encode("utf-8", "surrogateescape")
    for shift in range(3):  # inside a longer text: without the characters that it shares with its neighbours
        coded = base64.b64encode(b"\0" * shift + raw).decode()
        first, last = -(-8 * shift // 6), (8 * (shift + len(raw))) // 6
        forms |= {coded[first:last], coded[first:last].replace("+", "-").replace("/", "_")}
    return forms
