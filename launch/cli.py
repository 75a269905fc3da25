"""The command line: `pdpc VERB [KEY=VALUE ...]`, one verb per pipeline step, with Hydra overrides throughout."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from train.config.flags import as_overrides
from train.config.help import TRAIN, asks_help, help_of
from train.config.packages import check_packages
from train.config.secrets import log_without_secrets, without_secrets
from train.distributed.entry import refusal
from train.faults import arm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verb:
    """One step of the pipeline."""

    does: str
    """One-line description."""
    load: Callable[[], tuple[type, Callable[..., object], Mapping[str, Mapping[str, type]]]]
    """Import the verb's modules; return its settings class, its function and the config groups that select a type."""
    hands_on: bool = False
    """Whether the function also takes the overrides, to pass them to other processes."""
    first: str | None = None
    """Key for a first word without "=": `pdpc inspect ORDER` is `pdpc inspect folder=ORDER`."""


def _prepare() -> Any:
    from launch import prepare

    return prepare.SharedPrepareSettings, prepare.run, {}


def _adopt() -> Any:
    from curriculum.tokens.foreign import adopt

    return adopt.AdoptSettings, adopt.run, {}


def _score() -> Any:
    from launch.score import score
    from launch.score.settings import ScoreSettings

    return ScoreSettings, score.run, {}


def _arrange() -> Any:
    from curriculum.arrange import arrange
    from curriculum.preference import PREFERENCES

    return arrange.ArrangeSettings, arrange.run, {"preference": PREFERENCES}


def _replan() -> Any:
    from curriculum.arrange import replan
    from curriculum.preference import PREFERENCES

    return replan.ReplanSettings, replan.run, {"preference": PREFERENCES}


def _train() -> Any:
    from launch import train
    from train.settings import TrainSettings

    return TrainSettings, train.run, {}


def _evaluate() -> Any:
    from launch.evaluate import evaluate
    from launch.evaluate.settings import EvaluateSettings

    return EvaluateSettings, evaluate.run, {}


def _report() -> Any:
    from train import report

    return report.ReportSettings, report.run, {}


def _export() -> Any:
    from launch import export

    return export.ExportSettings, export.run, {}


def _megatron() -> Any:
    from curriculum.tokens.foreign import megatron_export

    return megatron_export.MegatronSettings, megatron_export.run, {}


def _inspect() -> Any:
    from launch import inspect

    return inspect.InspectSettings, inspect.run, {}


def _launch() -> Any:
    from launch.cluster import launch

    return launch.LaunchSettings, launch.run, {"cluster": launch.CLUSTERS}


def _doctor() -> Any:
    from launch.doctor import doctor

    return doctor.DoctorSettings, doctor.run, {}


def _demo() -> Any:
    from launch.demo import demo

    return demo.DemoSettings, partial(demo.run, pdpc=main), {}


VERBS: dict[str, Verb] = {
    "prepare": Verb("tokenize text into TOKENS: training samples and two held-out slices", _prepare, hands_on=True),
    "adopt": Verb("wrap Megatron or datatrove token files as TOKENS, read in place", _adopt),
    "score": Verb("compute SCORES: every sample's loss under the reference models", _score, hands_on=True),
    "arrange": Verb("turn SCORES and a preference into an ORDER that uses every sample once", _arrange),
    "replan": Verb("reorder the samples of an ORDER that a run has not consumed yet", _replan, first="order"),
    "train": Verb(TRAIN, _train, hands_on=True),
    "evaluate": Verb(
        "held-out loss and benchmarks of a run or a model; repeat a failed stage; --pack tasks for offline use",
        _evaluate,
        hands_on=True,
    ),
    "report": Verb(
        "compare runs on one HTML page; with --wandb, upload a finished run to W&B", _report, first="runs.run"
    ),
    "export": Verb("export a run's newest checkpoint in Hugging Face format", _export),
    "megatron": Verb("export a slice of TOKENS as Megatron .bin and .idx files, one pair per source", _megatron),
    "inspect": Verb("show an order's plan, checks and steps, or any artifact's provenance", _inspect, first="folder"),
    "doctor": Verb("check benchmarks before a run needs them; list fault points for failure drills", _doctor),
    "launch": Verb("start a run on a cluster, with a generated hostfile or sbatch script", _launch),
    "demo": Verb("run the full pipeline on text found on this machine: two arms and a report", _demo),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code: 0 done, 2 invalid settings or inputs, 130 interrupted, else the failure's.

    Run as a program, a command that only prints exits silently on SIGPIPE (`pdpc inspect order | head`).
    """
    if not faulthandler.is_enabled():
        faulthandler.enable()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and _only_prints(words):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"pdpc {version('pdpc')}")
        return 0
    name, overrides = words[0], words[1:]
    verb = VERBS.get(name)
    if verb is None:
        print(f"pdpc: unknown verb {name!r}: use one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    log_without_secrets(logging.INFO)
    try:
        check_packages()
        arm()
        return _run(name, verb, overrides)
    except ValueError as error:
        if os.environ.get("PDPC_TRACEBACK"):
            raise
        print(refusal(name, error), file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    except OSError as error:
        if os.environ.get("PDPC_TRACEBACK"):
            raise
        print(without_secrets(f"pdpc {name}: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pdpc {name}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130


def _only_prints(words: Sequence[str]) -> bool:
    """Return whether a command only prints: it opens no socket and writes no file that could be left incomplete."""
    if not words or words[0] in ("inspect", "help", "--version") or list(words) == ["doctor", "--faults"]:
        return True
    return asks_help(words)


def _run(name: str, verb: Verb, words: list[str]) -> int:
    from train.config.compose import compose

    settings_class, run, choices = verb.load()
    if asks_help(words):
        print(help_of(name, verb.does, settings_class, choices))
        return 0
    if name == "launch":
        from launch.cluster.launch import split_overrides
        from train.settings import TrainSettings

        overrides, handed_on = split_overrides(as_overrides(words, settings_class, TrainSettings, choices=choices))
        settings: Any = replace(compose(name, settings_class, overrides, choices), overrides=handed_on)
    else:
        overrides = as_overrides(words, settings_class, first=verb.first, choices=choices)
        settings = compose(name, settings_class, overrides, choices)
    result = run(settings, overrides) if verb.hands_on else run(settings)
    return result if isinstance(result, int) else 0


def _overview() -> str:
    width = max(len(name) for name in VERBS)
    lines = [f"  {name:<{width}}  {verb.does}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "pdpc VERB [KEY=VALUE ...]    pretraining on the data a model prefers at each moment of training",
            "",
            *lines,
            "",
            "pdpc VERB --help lists a verb's keys. KEY=VALUE is a Hydra override, such as optimizer.lr=2e-4",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
