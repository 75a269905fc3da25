"""What every rank of a verb does around its work, from command line to exit code."""

from __future__ import annotations

import errno
import faulthandler
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from curriculum.work.printable import printable
from train.config.compose import SettingsError, compose, configuration_of
from train.config.flags import as_overrides
from train.config.help import asks_help, help_of
from train.config.packages import check_packages
from train.config.secrets import log_without_secrets, without_secrets
from train.config.shown import asks_config
from train.distributed.exit_codes import DONE, FAILED, LEFT_ON_SIGINT, REFUSED
from train.distributed.heartbeat import leave
from train.distributed.rejection import RejectedElsewhere, tell
from train.distributed.tasks import become_rank
from train.faults import arm

log = logging.getLogger(__name__)

LAUNCHED = "CROSS_RANK"
"""Variable that DeepSpeed's launcher sets for its ranks."""
OF_FILES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Error numbers that need no traceback: the message names the file."""
GIVE_WAY_S = 30.0
"""How long a rejected rank that logs nothing waits for the one that does. DeepSpeed's launcher kills all ranks once one
has exited, and might kill that one before it has said why; it ends the wait as well."""


@dataclass(frozen=True)
class RankVerb:
    """A verb that runs on several ranks."""

    name: str
    does: str
    """What it does, in one line."""
    settings: type
    work: Callable[[Any, list[str]], int | None]
    """One rank's work, given the settings and the overrides they were composed from; returns the exit code."""
    choices: Mapping[str, Mapping[str, type]] = field(default_factory=dict)
    refusals: tuple[type[ValueError], ...] = (ValueError,)
    """Errors of `work` that reject the settings or the data, logged in one line; any other is a failure with a
    traceback."""


def run_rank(verb: RankVerb, arguments: Sequence[str]) -> int:
    """Run one rank of a verb; return its exit code (train/distributed/exit_codes.py).

    Takes the arguments of `pdpc VERB`, and the launcher's `--local_rank=N`. Neither help nor rejected arguments load
    torch.
    """
    if not faulthandler.is_enabled():
        faulthandler.enable()
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    words = [word for word in arguments if not word.startswith(("--local_rank", "--local-rank"))]
    if asks_help(words):
        if _rank() == "0":
            print(help_of(verb.name, verb.does, verb.settings, verb.choices))
        return DONE
    try:
        become_rank()
    except ValueError as error:
        log_without_secrets(logging.INFO)
        log.error("%s", refusal(verb.name, error))
        return REFUSED
    _quiet_ranks()
    refusals: tuple[type[ValueError], ...] = (SettingsError, *verb.refusals)
    try:
        shown, words = asks_config(words)
        if shown:
            if _rank() == "0":
                overrides = as_overrides(words, verb.settings, choices=verb.choices)
                print(configuration_of(verb.name, verb.settings, overrides, verb.choices))
            return DONE
        settings, overrides = _composed(verb, words)
        return verb.work(settings, overrides) or DONE
    except refusals as error:
        elsewhere = isinstance(error, RejectedElsewhere)
        if _rank() == "0" if elsewhere else speaks():
            log.error("%s", refusal(verb.name, error))
        code = _posted(int(getattr(error, "exit_code", REFUSED)))
        if not elsewhere:
            tell(refusal(verb.name, error), code, leave)
        if not speaks() and LAUNCHED in os.environ:
            time.sleep(GIVE_WAY_S)
        return code
    except KeyboardInterrupt:
        if speaks():
            log.error("pdpc %s: interrupted; run the same command again to resume", verb.name)
        return _posted(LEFT_ON_SIGINT)
    except Exception as error:
        return _failed(verb.name, error)


def speaks() -> bool:
    """Does this rank log what all ranks of its node would log?"""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def refusal(verb: str, error: Exception) -> str:
    """Return the rejection of a verb as one line, even if it contains a library's message of many lines."""
    text = printable(without_secrets(" ".join(str(error).split())))
    return f"pdpc {text}" if text.startswith(f"{verb}:") else f"pdpc {verb}: {text}"


def _composed(verb: RankVerb, words: Sequence[str]) -> tuple[Any, list[str]]:
    try:
        check_packages()
        arm()
        overrides = as_overrides(words, verb.settings, choices=verb.choices)
        return compose(verb.name, verb.settings, overrides, verb.choices), overrides
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _failed(verb: str, error: Exception) -> int:
    """Log why this rank exits, unless another rank does, and post its exit code to the others."""
    from train.distributed.signals import Left, posted
    from train.distributed.store import NotMet
    from train.distributed.world import OtherRankFailed, code_of, connection_lost

    if isinstance(error, Left):
        log.info("pdpc %s: %s", verb, error)
        return error.exit_code
    if (code := posted()) not in (0, FAILED):
        log.warning("pdpc %s: rank %s exits: another rank exited with code %s", verb, _rank(), code)
        return code
    code = code_of(error)
    if isinstance(error, OtherRankFailed):
        return code
    if code == FAILED and connection_lost(error):
        log.error("pdpc %s: rank %s lost its connection to another rank, which ended first", verb, _rank())
    elif code == FAILED and not isinstance(error, NotMet) and not _of_a_file(error):
        log.error("pdpc %s: rank %s failed", verb, _rank(), exc_info=error)
    else:
        log.error("pdpc %s: %s (rank %s)", verb, error, _rank())
    if not isinstance(error, NotMet):
        tell(refusal(verb, error), code, leave)
    return _posted(code)


def _of_a_file(error: Exception) -> bool:
    """Return whether a file cannot be used, as its message says: its permissions changed, or it is gone."""
    return isinstance(error, OSError) and error.errno in OF_FILES


def _posted(code: int) -> int:
    """Post this rank's exit code to the connected ranks; return the code."""
    if "train.distributed.signals" in sys.modules:
        with suppress(Exception):  # without memory for it, they will notice that this rank is gone
            sys.modules["train.distributed.signals"].post(code)
    return code


def _quiet_ranks() -> None:
    """Log below the level of warnings only on rank 0."""
    log_without_secrets(logging.INFO if _rank() == "0" else logging.WARNING, force=True)
    for name in ("DeepSpeed", "filelock", "fsspec", "httpx", "datasets", "lm_eval"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _rank() -> str:
    return os.environ.get("RANK", "0")
