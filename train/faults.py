"""Fault injection: named points where a drill kills, stops or poisons a rank; no-ops unless PDPC_FAULT names them.

    PDPC_FAULT=name[:rank=R][:nth=N][:action]    comma-separated list

`rank`: only on that rank (default: on every rank that reaches the point); `nth`: the N-th time this process reaches it
(default 1); `sleep=S` then strikes every time. The action is one of ACTIONS, `kill` by default. `pdpc doctor --faults`
lists the points.
"""

from __future__ import annotations

import difflib
import errno
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass

VARIABLE = "PDPC_FAULT"

ACTIONS = {
    "kill": "SIGKILL to itself",
    "raise": "raise OSError (ENOSPC, no space left on device) where a file is being written, RuntimeError elsewhere",
    "memory": "raise MemoryError: out of host memory",
    "device_memory": "raise torch.OutOfMemoryError: out of device memory",
    "no_more": "allow no further memory allocation (RLIMIT_AS)",
    "stop": "SIGSTOP to itself: the process exists but does nothing",
    "hang": "sleep forever",
    "sleep": "sleep S seconds (written sleep=S), this time and every later time",
    "exit": "exit immediately with code 1, without notifying the other ranks",
    "nan": "replace a value with NaN (guard points only)",
}


@dataclass(frozen=True)
class Point:
    """A place in the code where a fault can strike."""

    about: str
    """Where the point is, in a sentence."""
    writes: bool = False
    """True if a file is being written there: `raise` then simulates a full disk."""
    poisons: bool = False
    """True if `nan` replaces a value there: it is then the only action."""


POINTS = {
    "world.joined": Point("The process group is up; nothing is built yet."),
    "world.leaving": Point("The run is over; the process group is about to shut down."),
    "engine.weights": Point("The decoder is about to be built."),
    "engine.states": Point("The decoder is built; DeepSpeed is about to wrap it and create the optimizer states."),
    "loop.before_step": Point("A batch is ready; the step has not started computing."),
    "loop.after_forward": Point("The forward pass of a micro-batch is done."),
    "loop.after_backward": Point("The last backward pass of a step is done; the weights are not yet updated."),
    "loop.after_step": Point("The weights are updated; the step is not yet recorded."),
    "loop.before_record": Point("A record is about to be written.", writes=True),
    "loop.before_evaluation": Point("The checkpoint of a stage is written; its evaluation is about to start."),
    "loop.in_evaluation": Point("An evaluation is running; a signal exits immediately."),
    "heldout.batch": Point("A batch of held-out samples is about to be scored during an evaluation."),
    "loop.after_evaluation": Point("The evaluation of a stage is done but not yet recorded."),
    "checkpoint.before_write": Point("A save is starting; nothing is on disk yet."),
    "checkpoint.in_shard": Point("A rank's shard is half written.", writes=True),
    "checkpoint.after_shard": Point("A rank's shard is written but not yet fsynced.", writes=True),
    "checkpoint.after_sync": Point("A rank's shard is durable; the other ranks do not know yet."),
    "checkpoint.before_manifest": Point("Every shard is written, the manifest is not.", writes=True),
    "checkpoint.after_manifest": Point("The manifest is written; the folder still has its temporary name."),
    "checkpoint.before_rename": Point("The temporary folder is durable but not yet renamed."),
    "checkpoint.after_rename": Point("The checkpoint is renamed; its parent folder is not yet fsynced."),
    "checkpoint.before_prune": Point("The checkpoint is published; older ones are about to be removed."),
    "checkpoint.in_prune": Point("An old checkpoint is half removed."),
    "checkpoint.in_load": Point("A checkpoint is being read."),
    "tracker.start": Point("The tracker is about to be started."),
    "tracker.log": Point("A record is about to be sent to the tracker."),
    "tracker.finish": Point("The tracker is about to be closed."),
    "chunk.before_write": Point(
        "A chunk is scored (`pdpc score`) or starting (`pdpc prepare`); nothing is written yet."
    ),
    "chunk.half_written": Point("A block of a chunk's temporary file is partly written.", writes=True),
    "chunk.before_rename": Point("A chunk's temporary file is durable but not yet renamed."),
    "chunk.after_write": Point("A chunk is done but not yet reported."),
    "chunk.before_join": Point("All chunks are done and about to be joined."),
    "chunk.after_join": Point("The scores or tokens are published; their chunks are not yet removed."),
    "guard.loss": Point("The loss of a micro-batch on one rank.", poisons=True),
    "guard.gradient": Point("A gradient on one rank, after the last backward pass.", poisons=True),
    "guard.weight": Point("A weight used in the forward pass on one rank, before a step.", poisons=True),
}
"""All points, by name; `fault` and `poisoned` accept no others."""


@dataclass
class Fault:
    """A fault armed at a point."""

    action: str
    rank: int | None
    nth: int
    sleep_s: float = 0.0
    """Seconds of the action `sleep`."""
    passed: int = 0
    """How often this process has reached the point."""

    def strikes(self) -> bool:
        """Count a pass; return whether the fault strikes now."""
        if self.rank is not None and self.rank != int(os.environ.get("RANK", "0")):
            return False
        self.passed += 1
        return self.passed == self.nth or (self.action == "sleep" and self.passed > self.nth)


_armed: dict[str, list[Fault]] = {}


def arm(text: str | None = None) -> None:
    """Arm the faults in PDPC_FAULT (or `text`), replacing any armed before.

    Raises ValueError on anything it cannot parse: a misspelled drill would look like a run that survived.
    """
    spec = os.environ.get(VARIABLE, "") if text is None else text
    found: dict[str, list[Fault]] = {}
    for entry in filter(None, (part.strip() for part in spec.split(","))):
        name, *words = entry.split(":")
        found.setdefault(name, []).append(_parsed(entry, name, words))
    _armed.clear()
    _armed.update(found)


def armed() -> bool:
    """Return whether any point is armed."""
    return bool(_armed)


def fault(name: str) -> None:
    """Mark a point; a no-op unless it is armed."""
    waiting = _armed.get(name)
    if waiting is None:
        return
    for one in waiting:
        if one.strikes():
            _strike(name, one)


def poisoned(name: str) -> bool:
    """Return whether the caller should replace a value with NaN; False unless the point is armed."""
    waiting = _armed.get(name)
    if waiting is None:
        return False
    struck = [one.strikes() for one in waiting]  # no short circuit: each one must count the pass
    return any(struck)


def listed() -> list[str]:
    """Return the points and the actions, one per line."""
    width = max(map(len, POINTS))
    lines = [f"{name:<{width}}  {point.about}{' Only action: nan.' * point.poisons}" for name, point in POINTS.items()]
    actions = [f"{name:<{width}}  {about}" for name, about in ACTIONS.items()]
    return ["points", *lines, "", "actions", *actions, "", f"{VARIABLE}=name[:rank=R][:nth=N][:action]"]


def _parsed(entry: str, name: str, words: list[str]) -> Fault:
    point = POINTS.get(name)
    if point is None:
        near = difflib.get_close_matches(name, POINTS, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"{VARIABLE}: no point is named {name!r}: {hint}Use one of {', '.join(POINTS)}")
    parsed = Fault("nan" if point.poisons else "kill", None, 1)
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in ("rank", "nth") and value.isdecimal() and int(value) >= (key == "nth"):
            setattr(parsed, key, int(value))
        elif key == "sleep" and _seconds(value):
            parsed.action, parsed.sleep_s = "sleep", float(value)
        elif word in ACTIONS and word != "sleep":
            parsed.action = word
        else:
            raise ValueError(
                f"{VARIABLE}: {word!r} in {entry!r} is unknown: use rank=R, nth=N (from 1), sleep=S (in s) or one of "
                f"{', '.join(action for action in ACTIONS if action != 'sleep')}"
            )
    if (parsed.action == "nan") != point.poisons:
        fits = "only nan" if point.poisons else ", ".join(action for action in ACTIONS if action != "nan")
        raise ValueError(f"{VARIABLE}: action {parsed.action!r} does not fit {name}: use {fits}")
    return parsed


def _seconds(text: str) -> bool:
    """Return whether a text is a number of seconds."""
    whole, _, part = text.partition(".")
    return (whole + part).isdecimal()


def _strike(name: str, one: Fault) -> None:
    action = one.action
    if one.passed == one.nth:
        print(f"fault {name}: {action} (rank {os.environ.get('RANK', '0')})", file=sys.stderr, flush=True)
    if action == "sleep":
        time.sleep(one.sleep_s)
    elif action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "hang":
        while True:
            time.sleep(1.0)
    elif action == "exit":
        os._exit(1)
    elif action == "memory":
        raise MemoryError(f"fault {name}")
    elif action == "device_memory":
        import torch

        raise torch.OutOfMemoryError(f"CUDA out of memory. (fault {name})")
    elif action == "no_more":
        _no_more_memory()
    elif POINTS[name].writes:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (fault {name})")
    else:
        raise RuntimeError(f"fault {name}")


def _no_more_memory() -> None:
    """Cap this process's address space at its current size."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
