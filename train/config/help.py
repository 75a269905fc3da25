"""The help text of a verb, the same from every program that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from train.config.compose import defaults_of
from train.config.groups import CONFIGS, file_of, groups_of
from train.config.keys import describe

TRAIN = "an ORDER to a RUN, by DeepSpeed; run it again to resume"
"""What `train` does, in one line."""


def asks_help(words: Sequence[str]) -> bool:
    """Return whether the command line asks for help."""
    return "-h" in words or "--help" in words


def help_of(verb: str, does: str, settings: type, choices: Mapping[str, Mapping[str, type]]) -> str:
    """Return what a verb does and all of its keys, with defaults and docstrings."""
    keys = describe(settings, choices, defaults_of(verb, settings, choices), groups_of(verb))
    file = f"{CONFIGS.name}/{file_of(verb)}.yaml"
    head = f"pdpc {verb}: {does}\n\nDefaults and keys ({file}); change any with KEY=VALUE:\n\n"
    return head + "\n".join(keys)
