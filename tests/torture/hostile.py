"""Overrides, configs, records and task files that would run code, look up secrets or blow up: refused by name (T22).

A case is one payload given through one entry point: the command line of a verb, a config file, a JSON record of a RUN,
a manifest, or a task file of lm-evaluation-harness at the start of a run. Passed: no code was run (a canary file),
nothing was looked up (a secret in the environment), and it was refused within LIMIT_S seconds and SPARE_BYTES of memory
by a ValueError that names the key or the file.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from curriculum.artifact.manifest import MANIFEST
from launch.cli import VERBS
from tests.needed import REQUIRED
from tests.torture.campaign import Tally
from tests.torture.ranks import quiet
from train.config import compose
from train.evaluation.harness.tasks import BenchmarkSettings, check_tasks

SECRET = "Zq7-hostile-canary-91c4"
LIMIT_S = 1.0
"""Seconds of CPU time, because the machine may be busy."""
SPARE_BYTES = 200 << 20
EVIL = "os.system"
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@dataclass(frozen=True)
class Payload:
    """A hostile input, and the key or file that its refusal must name."""

    way: str
    name: str
    text: str
    named: str


def words(key: str, canary: str, outside: str) -> list[Payload]:
    """Return the payloads for the command line of a verb with the text setting `key`."""
    given = {
        "environment": f"{key}=${{oc.env:HOSTILE_KEY}}",
        "environment in quotes": f"{key}='${{oc.env:HOSTILE_KEY}}'",
        "environment escaped in part": f"{key}=\\\\\\${{oc.env:HOSTILE_KEY}}",
        "environment nested": f"{key}=${{oc.${{x}}:HOSTILE_KEY}}",
        "decoded": f"{key}=${{oc.decode:${{oc.env:HOSTILE_KEY}}}}",
        "itself": f"{key}=${{{key}}}",
        "target in a value": f"{key}={{_target_: {EVIL}, command: 'touch {canary}'}}",
        "a list": f"{key}=[1,[2]]",
        "deep": f"{key}={'[' * 1000}{']' * 1000}",
        "deeper": f"{key}={'[' * 60_000}",
        "deepest": f"{key}={'{a:' * 400_000}",
        "interpolations": f"{key}={'${' * 40_000}",
        "long": f"{key}={'a' * (10 << 20)}",
        "huge number": f"{key}={'9' * 5000}",
        "NUL": f"{key}=a\0b",
        "secret": f"{key}={SECRET}",
        "address": f"{key}=https://user:pass-word@host/x",
    }
    found = [Payload("words", name, text, key) for name, text in given.items()]
    by_key = {
        "_target_": f"+_target_={EVIL}",
        "_target_ of torch": "+_target_=torch.load",
        "+weights_only": "+weights_only=false",
        "nowhere": "++nowhere.at.all=1",
        "hydra.searchpath": f"hydra.searchpath=[file://{outside}]",
        "hydra.launcher": f"+hydra.launcher._target_={EVIL}",
        "hydra.callbacks": f"+hydra.callbacks.x._target_={EVIL}",
        "hydra.run.dir": f"hydra.run.dir={outside}/made",
        "hydra.job.env_set": "+hydra.job.env_set.LD_PRELOAD=x",
        "hydra/launcher": "hydra/launcher=basic",
        "hydra/job_logging": f"hydra/job_logging={outside}/x",
        "config-dir": f"--config-dir={outside}",
        "config-path": f"--config-path={outside}",
        "multirun": "--multirun",
        "../": f"+../../{outside}/x=y",
        "model@": "+model@hydra.launcher=demo",
    }
    keys = {name: name.split(" ")[0].strip("+") for name in by_key}
    keys |= {"config-dir": "config_dir", "config-path": "config_path"}  # flags are named as keys
    return found + [Payload("words", name, text, keys[name]) for name, text in by_key.items()]


def files(canary: str, outside: str) -> list[Payload]:
    """Return the payloads for a config file."""
    given = {
        "laughs": LAUGHS,
        "alias": "seed: &a 1\nlog_every: *a\n",
        "alias of itself": "a: &a [*a]\n",
        "deep": f"arm: {'[' * 60_000}\n",
        "deepest": f"arm: {'[' * 1_000_000}\n",
        "dashes": "- " * 30_000 + "\n",
        "steps": "\n".join(" " * i + "a:" for i in range(400)),
        "apply": f"arm: !!python/object/apply:os.system ['touch {canary}']\n",
        "new": "arm: !!python/object/new:os.system ['true']\n",
        "name": "arm: !!python/name:os.system\n",
        "own tag": "arm: !evil x\n",
        "huge number": f"seed: {'9' * 100_000}\n",
        "twice": "seed: 1\nseed: 2\n",
        "NUL": "seed: 1\0\n",
        "target": f"_target_: {EVIL}\n",
        "target of torch": "tracker: {_target_: torch.load, weights_only: false}\n",
        "environment": "arm: ${oc.env:HOSTILE_KEY}\n",
        "defaults outside": f"defaults: [{os.path.relpath('/', compose.CONFIGS)}{outside}/x]\n",
        "defaults absolute": f"defaults: [{outside}/x]\n",
        "defaults of hydra": "defaults: [{override /hydra/job_logging: none}]\n",
        "defaults looked up": "defaults: [{override /model: '${oc.env:HOSTILE_KEY}'}]\n",
        "search path": f"hydra: {{searchpath: ['file://{outside}']}}\n",
        "large": "# x\n" * 3_000_000,
    }
    named = [Payload("file", name, f"# @package _global_\n{text}", "experiment/x.yaml") for name, text in given.items()]
    named = [replace_named(p, "experiment/x") for p in named]
    package = "# @package hydra\nlauncher: {_target_: os.system}\n"
    return [*named, Payload("file", "package of hydra", package, "experiment/x"), *_keys_of_files()]


def _keys_of_files() -> list[Payload]:
    given = {
        "unknown": ("nowhere: 1\n", "nowhere"),
        "wrong type": ("seed: [1]\n", "seed"),
        "not a number": ("seed: x\n", "seed"),
    }
    return [Payload("file", name, f"# @package _global_\n{text}", key) for name, (text, key) in given.items()]


def replace_named(payload: Payload, named: str) -> Payload:
    """Return a payload whose refusal must name something else."""
    return Payload(payload.way, payload.name, payload.text, named)


def records(canary: str) -> list[Payload]:
    """Return the payloads for the JSON files of a RUN and for a manifest."""
    target = json.dumps({"_target_": EVIL, "command": f"touch {canary}", "py/object": "os.system"})
    given = {
        "deep": "[" * 1_000_000,
        "deep objects": '{"a":' * 100_000,
        "huge number": "9" * 100_000,
        "NUL": "\0",
        "target": target,
        "": "",
    }
    return [
        Payload(way, name, text, way)
        for way in ("run.json", MANIFEST, "config.json")
        for name, text in given.items()
        if (way, name) != ("config.json", "target")
    ]


def tasks(canary: str) -> list[Payload]:
    """Return the payloads for a task file; without !function, whose code runs only with the task, as documented."""
    good = "task: mine\ndataset_path: json\noutput_type: multiple_choice\n"
    given = {
        "apply": f"{good}metadata: !!python/object/apply:os.system ['touch {canary}']\n",
        "new": f"{good}metadata: !!python/object/new:os.system ['touch {canary}']\n",
        "laughs": good + LAUGHS,
        "deep": f"{good}metadata: {'[' * 100_000}\n",
        "huge number": f"{good}metadata: {'9' * 100_000}\n",
        "large": good + "# x\n" * 1_000_000,
        "NUL": f"{good}\0",
    }
    return [Payload("task", name, text, "mine.yaml") for name, text in given.items()]


def text_key(verb: str) -> str:
    """Return the name of a text setting of a verb."""
    schema = VERBS[verb].load()[0]
    from typing import get_type_hints

    hints = get_type_hints(schema)
    return next((name for name, kind in hints.items() if kind in (str, str | None)), next(iter(hints)))


def cases(work: Path) -> list[tuple[str, Payload]]:
    """Return every payload with its target: the verb, or the entry point."""
    canary, outside = str(work / "canary"), str(work / "outside")
    found = [(verb, payload) for verb in VERBS for payload in words(text_key(verb), canary, outside)]
    found += [("train", payload) for payload in files(canary, outside)]
    return found + [(payload.way, payload) for payload in (*records(canary), *tasks(canary))]


def problem_of(work: Path, verb: str, payload: Payload) -> str | None:
    """Give a payload to its target; return what went wrong."""
    canary = work / "canary"
    _, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    message = ""
    try:
        GIVE[payload.way](work, verb, payload)
        problem = "it was accepted"
    except ValueError as error:
        message = str(error)
        problem = "" if payload.named in message else f"not named: {message[:200]}"
    except Exception as error:
        problem = f"not refused, but {error!r}"[:200]
    took, grown = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if canary.exists():
        canary.unlink()
        problem = "code was run"
    elif SECRET in message:
        problem = "the message contains the secret"
    elif took > LIMIT_S:
        problem = problem or f"refused after {took:.1f} s"
    elif grown > SPARE_BYTES >> 10:
        problem = problem or f"took {grown >> 10} MB"
    elif len(message) > 4000:
        problem = problem or f"a message of {len(message)} characters"
    return f"{payload.way} of {verb}, {payload.name}: {problem}" if problem else None


def _give_words(work: Path, verb: str, payload: Payload) -> None:
    from train.config.flags import as_overrides

    schema, _, choices = VERBS[verb].load()
    given = [*REQUIRED.get(verb, []), payload.text]
    compose.compose(verb, schema, as_overrides(given, schema, first=VERBS[verb].first, choices=choices), choices)


def _give_file(work: Path, verb: str, payload: Payload) -> None:
    from train.settings import TrainSettings

    with _configurations(work) as folder:
        (folder / "experiment" / "x.yaml").write_text(payload.text)
        given = ["output=o", "arm=a", "data.tokens=t", "data.order=o"]
        compose.compose("train", TrainSettings, [*(given if "seed" in payload.text else given[:1]), "experiment=x"])


@contextmanager
def _configurations(work: Path) -> Iterator[Path]:
    """Replace the config folder by a copy of it inside the block."""
    before, folder = compose.CONFIGS, work / "configs"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder)
    compose.CONFIGS = folder
    try:
        yield folder
    finally:
        compose.CONFIGS = before


def _give_record(work: Path, verb: str, payload: Payload) -> None:
    from curriculum.artifact.manifest import open_manifest
    from launch.evaluate.stages import own_settings
    from train.records.run_json import read_run

    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / payload.way).write_text(payload.text)
    readers: dict[str, Callable[[], object]] = {
        "run.json": lambda: read_run(folder),
        MANIFEST: lambda: open_manifest(folder, "checkpoint"),
        "config.json": lambda: own_settings(folder),
    }
    readers[payload.way]()


def _give_task(work: Path, verb: str, payload: Payload) -> None:
    folder = work / "tasks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "mine.yaml").write_text(payload.text)
    check_tasks(BenchmarkSettings(tasks=["mine"], task_paths=[str(folder)]))


GIVE: dict[str, Callable[[Path, str, Payload], None]] = {
    "words": _give_words,
    "file": _give_file,
    "run.json": _give_record,
    MANIFEST: _give_record,
    "config.json": _give_record,
    "task": _give_task,
}
FULL = 20 * 33 + 27 + 17 + 7
"""Every payload with every target, once."""
STRIDE = 97


def run(count: int, seed: int, work: Path) -> Tally:
    """Try `count` payloads; FULL of them are one round."""
    tally = Tally("hostile", seed=seed)
    outside = work / "outside"
    outside.mkdir()
    (outside / "x.yaml").write_text("# @package _global_\narm: from outside\n")
    before = os.environ.get("HOSTILE_KEY")
    os.environ["HOSTILE_KEY"] = SECRET
    try:
        every = cases(work)
        assert len(every) % STRIDE
        compose.compose("train", *_plain())  # so that imports are not timed
        with quiet():
            for case in range(seed, seed + count):
                verb, payload = every[case * STRIDE % len(every)]
                VERBS[verb].load() if verb in VERBS else None
                tally.add(case, problem_of(work, verb, payload))
    finally:
        os.environ.pop("HOSTILE_KEY")
        if before is not None:
            os.environ["HOSTILE_KEY"] = before
    ways = {way: sum(payload.way == way for _, payload in every) for way in GIVE}
    tally.notes.append(", ".join(f"{number} by {way}" for way, number in ways.items()))
    return tally


def _plain() -> tuple[type, list[str]]:
    from train.settings import TrainSettings

    return TrainSettings, ["output=o", "arm=a", "data.tokens=t", "data.order=o"]
