"""Run checks one after another, each within its time limit, and print what they find."""

from __future__ import annotations

import os
import threading
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module

from curriculum.work.printable import printable
from launch.doctor.check import FAILURE, OK, WARNING, Check, Finding, Subject, failure, refused
from launch.doctor.checks import EVERY_NODE
from train.config.secrets import without_secrets
from train.distributed.deadline import Deadline, TooLate
from train.distributed.exit_codes import DONE, FAILED

STUCK_S = 15.0
"""How much longer a check may take that does not react to its deadline, as in a read from a dead file server."""
LOAD_S = 600.0
"""Time limit of importing a library, which takes a minute on a busy file server."""


def examine(subject: Subject, checks: Iterable[Check], timeout_s: float | None = None) -> int:
    """Run the checks, print a line per finding and a summary; return the exit code: 1 if anything failed.

    With several nodes, the checks of a machine run on each of them instead of here.
    `timeout_s`: time limit of each check; None: its own.
    """
    found: Counter[str] = Counter()
    checks = [check for check in checks if not (subject.as_node and check.once)]
    if subject.hosts and not subject.as_node:
        subject = replace(subject, node_checks=tuple(check.name for check in checks if not check.once))
        checks = [check for check in checks if check.once and check is not EVERY_NODE]
        checks += [EVERY_NODE] * bool(subject.node_checks)
    _load(["torch", *(check.name for check in checks if check.name == "deepspeed")])
    for check in checks:
        for finding in _findings(subject, check, timeout_s or check.limit_s):
            found[finding.level] += 1
            print(line(check.name, finding), flush=True)
    failures, warnings = found[FAILURE], found[WARNING]
    print(f"{found[OK]} ok, {_counted(warnings, 'warning')}, {_counted(failures, 'failure')}", flush=True)
    return FAILED if failures else DONE


def line(name: str, finding: Finding) -> str:
    """Return a finding as one line without secrets."""
    said = " ".join(": ".join(filter(None, (finding.text, finding.remedy))).split())
    return printable(without_secrets(f"{finding.level:<7} {finding.about or name}: {said}"))


def _load(libraries: Iterable[str]) -> None:
    """Import libraries before the first deadline: one that strikes in an import leaves half a module behind.

    What is wrong with them is found by the checks of their versions.
    """
    for name in libraries:
        late = failure(
            f"import {name} is not done after {LOAD_S:g} s", "check the disk that holds the Python environment"
        )
        with _at_most(LOAD_S, line(name, late)), suppress(Exception):
            library = import_module(name)
            if name == "torch" and not library.cuda.is_available():
                os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found none


def _findings(subject: Subject, check: Check, limit_s: float) -> Iterator[Finding]:
    """Yield what a check finds, within its time limit; an error in it is a finding too."""
    late = failure(
        f"not done after {limit_s:g} s",
        f"see what hangs there ({check.about}), or give it more time with timeout_s={2 * limit_s:g}",
    )
    found: list[Finding] = []
    with _at_most(limit_s + STUCK_S, line(check.name, late)):
        try:
            with Deadline().within(limit_s):
                for finding in check.load()(subject):
                    found.append(finding)
        except TooLate:
            found.append(late)
        except (ValueError, OSError) as error:
            found.append(refused(error))
        except Exception as error:
            if os.environ.get("PDPC_TRACEBACK"):
                traceback.print_exc()
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            found.append(failure(what, "set PDPC_TRACEBACK=1 to see where, and report it"))
    yield from found


@contextmanager
def _at_most(seconds: float, message: str) -> Iterator[None]:
    """Print `message` and exit with code 1 when the block takes longer: a system call may be uninterruptible."""

    def late() -> None:
        print(f"{message}; the checks after it were not run", flush=True)
        os._exit(FAILED)

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
