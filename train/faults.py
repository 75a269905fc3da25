"""Faults: named points at which a drill kills, stops or poisons a rank; inactive unless PDPC_FAULT names them.

    PDPC_FAULT=name[:rank=R][:nth=N][:action]    several separated by commas

`rank`: only on that rank (default: on every rank that reaches the point); `nth`: the N-th time that this process
reaches it (default 1); `sleep=S` strikes every time from then on. The action is one of ACTIONS, `kill` by default.
`pdpc doctor --faults` lists the points.
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
    "raise": "an exception: no space left on device (ENOSPC) at a write, RuntimeError elsewhere",
    "memory": "an exception: out of memory on the host (MemoryError)",
    "device_memory": "an exception: out of memory on the device (torch.OutOfMemoryError)",
    "no_more": "no further memory for the process from here on (RLIMIT_AS)",
    "stop": "SIGSTOP to itself: the process exists but does not run",
    "hang": "sleep forever",
    "sleep": "written sleep=S: sleep S seconds, this time and every later time",
    "exit": "exit at once with code 1, without notifying the other ranks",
    "nan": "a NaN value: only for the points of the guards",
}


@dataclass(frozen=True)
class Point:
    """A place in the code where a fault can strike."""

    about: str
    """Where it is, as a sentence."""
    writes: bool = False
    """Is a file being written there? Then `raise` is a full disk."""
    poisons: bool = False
    """Is it a value that becomes NaN? Then `nan` is the only action."""


POINTS = {
    "world.joined": Point("The ranks are connected; nothing is built yet."),
    "world.leaving": Point("The run is complete; the ranks are about to disconnect."),
    "engine.weights": Point("The decoder is about to be built."),
    "engine.states": Point("The decoder is built; DeepSpeed is about to create the optimizer's states."),
    "loop.before_step": Point("A batch is loaded; nothing of the step is computed."),
    "loop.after_forward": Point("The forward pass of a micro-batch is done."),
    "loop.after_backward": Point("The last backward pass of a step is done; the weights are not updated."),
    "loop.after_step": Point("The weights are updated; the step is not on record."),
    "loop.before_record": Point("A record is about to be written.", writes=True),
    "loop.before_evaluation": Point("The checkpoint of a stage is written; its evaluation starts."),
    "loop.in_evaluation": Point("An evaluation is running; a signal takes effect at once."),
    "memory.trial": Point("Memory for the weights of an evaluation at ZeRO 3 is about to be tried."),
    "heldout.batch": Point("A batch of held-out samples is about to be scored, in an evaluation."),
    "loop.after_evaluation": Point("The evaluation of a stage is done and not on record."),
    "checkpoint.before_write": Point("A save starts; nothing of it is on disk."),
    "checkpoint.in_shard": Point("A rank's file is half written.", writes=True),
    "checkpoint.after_shard": Point("A rank's file is written but not yet synced.", writes=True),
    "checkpoint.after_sync": Point("A rank's file is durable; the other ranks do not know it yet."),
    "checkpoint.before_manifest": Point("Every file is written, but not the manifest.", writes=True),
    "checkpoint.after_manifest": Point("The manifest is written; the folder still has its temporary name."),
    "checkpoint.before_rename": Point("The temporary folder is durable but not yet renamed."),
    "checkpoint.after_rename": Point("The checkpoint has its final name; its parent folder is not synced."),
    "checkpoint.before_prune": Point("The checkpoint is published; older ones are about to be removed."),
    "checkpoint.in_prune": Point("An old checkpoint is half removed."),
    "checkpoint.in_load": Point("A checkpoint is being read."),
    "tracker.start": Point("The tracker is about to be started."),
    "tracker.log": Point("A record is about to be sent to the tracker."),
    "tracker.finish": Point("The tracker is about to be closed."),
    "chunk.before_write": Point(
        "A chunk of `pdpc score` is scored, or one of `pdpc prepare` starts: nothing is written yet."
    ),
    "chunk.half_written": Point("A block of a chunk's temporary file is half written.", writes=True),
    "chunk.before_rename": Point("A chunk's temporary file is durable but not yet renamed."),
    "chunk.after_write": Point("A chunk is done but not yet reported."),
    "chunk.before_join": Point("All chunks are done; they are about to be joined."),
    "chunk.after_join": Point("The scores, or the tokens, are published; their chunks are not yet removed."),
    "guard.loss": Point("The loss of a micro-batch becomes NaN, on one rank.", poisons=True),
    "guard.gradient": Point("A gradient becomes NaN, on one rank, after the last backward pass.", poisons=True),
    "guard.weight": Point("A working weight becomes NaN, on one rank, before a step.", poisons=True),
}
"""All points by name. `fault` and `poisoned` accept no others."""


@dataclass
class Fault:
    """A fault armed at a point."""

    action: str
    rank: int | None
    nth: int
    sleep_s: float = 0.0
    """Duration of the action `sleep`."""
    passed: int = 0
    """How often this process has reached the point."""

    def strikes(self) -> bool:
        """Count this time; return whether the fault strikes now."""
        if self.rank is not None and self.rank != int(os.environ.get("RANK", "0")):
            return False
        self.passed += 1
        return self.passed == self.nth or (self.action == "sleep" and self.passed > self.nth)


_armed: dict[str, list[Fault]] = {}


def arm(text: str | None = None) -> None:
    """Arm the faults of PDPC_FAULT (or `text`), replacing earlier ones.

    Raises ValueError for an invalid fault: a misspelled drill would look like a run that survived.
    """
    asked = os.environ.get(VARIABLE, "") if text is None else text
    found: dict[str, list[Fault]] = {}
    for entry in filter(None, (part.strip() for part in asked.split(","))):
        name, *words = entry.split(":")
        found.setdefault(name, []).append(_parsed(entry, name, words))
    _armed.clear()
    _armed.update(found)


def armed() -> bool:
    """Return whether any point is armed."""
    return bool(_armed)


def fault(name: str) -> None:
    """Mark a point: nothing happens unless it is armed."""
    waiting = _armed.get(name)
    if waiting is None:
        return
    for one in waiting:
        if one.strikes():
            _strike(name, one)


def poisoned(name: str) -> bool:
    """Return whether the caller has to set a value to NaN; False unless the point is armed."""
    waiting = _armed.get(name)
    if waiting is None:
        return False
    struck = [one.strikes() for one in waiting]  # every fault counts this time, whichever strikes
    return any(struck)


def listed() -> list[str]:
    """Return the points and the actions, one per line."""
    width = max(map(len, POINTS))
    lines = [f"{name:<{width}}  {point.about}{' Only action nan.' * point.poisons}" for name, point in POINTS.items()]
    actions = [f"{name:<{width}}  {about}" for name, about in ACTIONS.items()]
    return ["points", *lines, "", "actions", *actions, "", f"{VARIABLE}=name[:rank=R][:nth=N][:action]"]


def _parsed(entry: str, name: str, words: list[str]) -> Fault:
    point = POINTS.get(name)
    if point is None:
        near = difflib.get_close_matches(name, POINTS, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"{VARIABLE}: there is no point {name!r}: {hint}The points are {', '.join(POINTS)}")
    made = Fault("nan" if point.poisons else "kill", None, 1)
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in ("rank", "nth") and value.isdecimal() and int(value) >= (key == "nth"):
            setattr(made, key, int(value))
        elif key == "sleep" and _seconds(value):
            made.action, made.sleep_s = "sleep", float(value)
        elif word in ACTIONS and word != "sleep":
            made.action = word
        else:
            raise ValueError(
                f"{VARIABLE}: {word!r} in {entry!r} is invalid: use rank=R, nth=N (from 1), sleep=S (seconds), or "
                f"{', '.join(action for action in ACTIONS if action != 'sleep')}"
            )
    if (made.action == "nan") != point.poisons:
        fits = "only nan" if point.poisons else ", ".join(action for action in ACTIONS if action != "nan")
        raise ValueError(f"{VARIABLE}: action {made.action!r} does not fit {name}: use {fits}")
    return made


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
    """Limit this process to the address space it already has."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
