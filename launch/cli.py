"""The command line: `pdpc VERB [KEY=VALUE ...]`, one verb a step, the same Hydra overrides everywhere."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from curriculum.work.printable import printable
from train.config.flags import as_overrides
from train.config.help import TRAIN, asks_help, help_of
from train.config.packages import check_packages
from train.config.secrets import log_without_secrets, without_secrets
from train.distributed.entry import refusal
from train.faults import arm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verb:
    """A row of the table of verbs. Its defaults are `configs/NAME.yaml`; a path is MODULE:NAME, imported late."""

    name: str
    does: str
    """What it does, in a line."""
    settings: str
    """Path of its settings class."""
    run: str
    """Path of its function, which takes the settings."""
    takes: str | None = None
    """What the function takes as well: overrides, to hand them on to other processes, or pdpc, which runs a verb."""
    first: str | None = None
    """Key that the first word without a "=" stands for: `pdpc inspect ORDER` is `pdpc inspect folder=ORDER`."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Groups whose type depends on the choice: the path of each one's registry."""
    also: Sequence[str] = ()
    """Paths of other settings classes whose keys its words may name."""
    split: str | None = None
    """Path of a function that splits the words into the verb's own and those that its `overrides` hand on."""

    def load(self) -> tuple[type, Callable[..., object], dict[str, Mapping[str, type]]]:
        """Import what the verb needs; return its settings class, its function and the groups that choose a type."""
        choices = {group: _imported(path) for group, path in self.choices.items()}
        return _imported(self.settings), _imported(self.run), choices


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "prepare",
            "text to TOKENS: documents, sources and samples, two slices held out",
            "launch.prepare:SharedPrepareSettings",
            "launch.prepare:run",
            takes="overrides",
        ),
        Verb(
            "adopt",
            "Megatron's and datatrove's token files to TOKENS that read them where they lie",
            "curriculum.tokens.foreign.adopt:AdoptSettings",
            "curriculum.tokens.foreign.adopt:run",
        ),
        Verb(
            "score",
            "TOKENS to SCORES: every sample's loss under the reference models",
            "launch.score.settings:ScoreSettings",
            "launch.score.score:run",
            takes="overrides",
        ),
        Verb(
            "arrange",
            "SCORES and a preference to an ORDER that uses every sample once",
            "curriculum.arrange.arrange:ArrangeSettings",
            "curriculum.arrange.arrange:run",
            choices={"preference": "curriculum.preference:PREFERENCES"},
        ),
        Verb(
            "replan",
            "a new order for what an ORDER has not been read of yet",
            "curriculum.arrange.replan:ReplanSettings",
            "curriculum.arrange.replan:run",
            first="order",
            choices={"preference": "curriculum.preference:PREFERENCES"},
        ),
        Verb(
            "train",
            TRAIN,
            "train.settings:TrainSettings",
            "launch.train:run",
            takes="overrides",
        ),
        Verb(
            "evaluate",
            "held-out loss and benchmarks of a run or a model; failed stages again; with --pack, tasks for offline use",
            "launch.evaluate.settings:EvaluateSettings",
            "launch.evaluate.evaluate:run",
            takes="overrides",
        ),
        Verb(
            "doctor",
            "whether benchmarks will run, before a run needs them; the fault points of a drill",
            "launch.doctor.doctor:DoctorSettings",
            "launch.doctor.doctor:run",
        ),
        Verb(
            "report",
            "a page that shows arms beside each other; with --wandb, a run replayed to W&B",
            "train.report:ReportSettings",
            "train.report:run",
            first="runs.run",
        ),
        Verb(
            "export",
            "a run's newest checkpoint as a Hugging Face folder",
            "launch.export:ExportSettings",
            "launch.export:run",
        ),
        Verb(
            "megatron",
            "a slice of TOKENS as Megatron's .bin and .idx, a pair a source",
            "curriculum.tokens.foreign.megatron_export:MegatronSettings",
            "curriculum.tokens.foreign.megatron_export:run",
        ),
        Verb(
            "inspect",
            "an order's plan, checks and steps; of any artifact, what made it",
            "launch.inspect:InspectSettings",
            "launch.inspect:run",
            first="folder",
        ),
        Verb(
            "launch",
            "a hostfile or an sbatch script, and the run on a cluster",
            "launch.cluster.launch:LaunchSettings",
            "launch.cluster.launch:run",
            choices={"cluster": "launch.cluster.launch:CLUSTERS"},
            also=["train.settings:TrainSettings"],
            split="launch.cluster.launch:split_overrides",
        ),
        Verb(
            "demo",
            "the whole road on the text of this machine, both arms, a page at the end",
            "launch.demo.demo:DemoSettings",
            "launch.demo.demo:run",
            takes="pdpc",
        ),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code: 0 done, 2 refused at the door, 130 interrupted, else the failure's.

    As a program, what only prints ends silently by SIGPIPE when nobody reads it any more (`pdpc inspect order | head`).
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
        return _run(verb, overrides)
    except ValueError as error:
        if os.environ.get("PDPC_TRACEBACK"):
            raise
        print(refusal(name, error), file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    except OSError as error:
        if os.environ.get("PDPC_TRACEBACK"):
            raise
        print(printable(without_secrets(f"pdpc {name}: {error}")), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pdpc {name}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def _only_prints(words: Sequence[str]) -> bool:
    """Tell whether a command does nothing but print: no socket, and no file that it would leave half written."""
    if not words or words[0] in ("inspect", "help", "--version") or list(words) == ["doctor", "--faults"]:
        return True
    return asks_help(words)


def _run(verb: Verb, words: list[str]) -> int:
    from train.config.compose import compose, options_of

    settings_class, run, choices = verb.load()
    schemas = [settings_class, *map(_imported, verb.also)]
    overrides = as_overrides(
        [word for word in words if not asks_help([word])], *schemas, first=verb.first, choices=choices
    )
    if "preference" in choices:
        from curriculum.preference.own import with_own

        files = options_of("preference")
        overrides, choices["preference"] = with_own(overrides, choices["preference"], files)
    if asks_help(words):
        print(help_of(verb.name, verb.does, settings_class, choices))
        return 0
    handed_on: list[str] | None = None
    if verb.split is not None:
        overrides, handed_on = _imported(verb.split)(overrides)
    settings: Any = compose(verb.name, settings_class, overrides, choices)
    if handed_on is not None:
        settings = replace(settings, overrides=handed_on)
    extra = {"overrides": overrides, "pdpc": main}
    result = run(settings) if verb.takes is None else run(settings, extra[verb.takes])
    return result if isinstance(result, int) else 0


def _overview() -> str:
    width = max(len(name) for name in VERBS)
    lines = [f"  {name:<{width}}  {verb.does}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "pdpc VERB [KEY=VALUE ...]    pretraining where the order of the data is what counts",
            "",
            *lines,
            "",
            "pdpc VERB --help lists a verb's keys. Overrides are Hydra's: experiment=pdpc_1.3b optimizer.lr=2e-4",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
