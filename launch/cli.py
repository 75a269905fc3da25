"""The command line: `pdpc VERB [KEY=VALUE ...]`, one verb per pipeline step, with Hydra overrides throughout."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # before anything else is imported: from here, and not from the current folder
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    from train.config.safe_path import leave_current_folder

    leave_current_folder()
    del sys.path[0]

import faulthandler
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from curriculum.work.printable import printable
from curriculum.work.streams import lost_output, open_streams
from train.config.flags import as_overrides
from train.config.help import TRAIN, asks_help, help_of
from train.config.packages import check_packages
from train.config.safe_path import leave_current_folder
from train.config.secrets import log_without_secrets, without_secrets
from train.config.shown import asks_config
from train.distributed.entry import refusal
from train.distributed.exit_codes import DONE, FAILED, exit_code_of
from train.faults import arm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verb:
    """A verb. Its defaults are in `configs/NAME.yaml`; paths have the form MODULE:NAME and are imported lazily."""

    name: str
    """One word, or two: `pairs prepare`, whose file is `configs/pairs_prepare.yaml`."""
    does: str
    """One-line description."""
    settings: str
    """Path of its settings class."""
    run: str
    """Path of its function, which takes the settings."""
    takes: str | None = None
    """Second argument of the function: overrides, to pass to other processes, or pdpc, which runs a verb."""
    first: str | None = None
    """Key for a first word without "=": `pdpc inspect ORDER` is `pdpc inspect folder=ORDER`."""
    named: str | None = None
    """Instead: path of a function that turns all words without "=" into overrides."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Config groups that select a type, with the path of each registry."""
    also: Sequence[str] = ()
    """Paths of other settings classes whose keys are accepted."""
    split: str | None = None
    """Path of a function that splits the words into the verb's own and those for its key `overrides`."""
    handed: str | None = None
    """Path of a function that returns what the latter compose to, for `--cfg job`."""

    def load(self) -> tuple[type, Callable[..., object], dict[str, Mapping[str, type]]]:
        """Import the verb's modules; return its settings class, its function and the groups that select a type."""
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
            "tokenize text into TOKENS: training samples and two held-out slices",
            "launch.prepare:SharedPrepareSettings",
            "launch.prepare:run",
            takes="overrides",
        ),
        Verb(
            "adopt",
            "wrap Megatron or datatrove token files as TOKENS, read in place",
            "curriculum.tokens.foreign.adopt:AdoptSettings",
            "curriculum.tokens.foreign.adopt:run",
        ),
        Verb(
            "score",
            "compute SCORES: every sample's loss under the reference models",
            "launch.score.settings:ScoreSettings",
            "launch.score.score:run",
            takes="overrides",
        ),
        Verb(
            "arrange",
            "turn SCORES and a preference into an ORDER that uses every sample once",
            "curriculum.arrange.arrange:ArrangeSettings",
            "curriculum.arrange.arrange:run",
            choices={"preference": "curriculum.preference:PREFERENCES"},
        ),
        Verb(
            "replan",
            "reorder the samples of an ORDER that a run has not consumed yet",
            "curriculum.arrange.replan:ReplanSettings",
            "curriculum.arrange.replan:run",
            first="order",
            choices={"preference": "curriculum.preference:PREFERENCES"},
        ),
        Verb(
            "pairs prepare",
            "tokenize prompts with chosen and rejected answers into PAIRS",
            "curriculum.pairs.prepare:PreparePairsSettings",
            "curriculum.pairs.prepare:run",
        ),
        Verb(
            "pairs score",
            "compute the margins of PAIRS: explicit, implicit and M_AP",
            "launch.score.pairs_settings:ScorePairsSettings",
            "launch.score.pairs:run",
            takes="overrides",
        ),
        Verb(
            "pairs select",
            "keep the top share of PAIRS by a margin, or a random share",
            "curriculum.pairs.select:SelectSettings",
            "curriculum.pairs.select:run",
            first="pairs",
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
            "compute held-out loss and benchmarks; repeat failed stages; with --pack, pack tasks for offline use",
            "launch.evaluate.settings:EvaluateSettings",
            "launch.evaluate.evaluate:run",
            takes="overrides",
        ),
        Verb(
            "doctor",
            "check machine, cluster, inputs and settings before a run needs them; --faults lists fault points",
            "launch.doctor.doctor:DoctorSettings",
            "launch.doctor.doctor:run",
            choices={"cluster": "launch.cluster.launch:CLUSTERS"},
            also=["train.settings:TrainSettings"],
            split="launch.doctor.doctor:split_overrides",
            handed="launch.cluster.launch:shown_training",
        ),
        Verb(
            "report",
            "compare runs on one HTML page; with --wandb, upload a run to W&B",
            "train.report:ReportSettings",
            "train.report:run",
            named="train.report.settings:named_by_arm",
        ),
        Verb(
            "export",
            "export a run's newest checkpoint in Hugging Face format",
            "launch.export:ExportSettings",
            "launch.export:run",
            first="run",
        ),
        Verb(
            "megatron",
            "export a slice of TOKENS as Megatron .bin and .idx files, one pair per source",
            "curriculum.tokens.foreign.megatron_export:MegatronSettings",
            "curriculum.tokens.foreign.megatron_export:run",
        ),
        Verb(
            "inspect",
            "show an order's plan, checks and steps, or any artifact's provenance",
            "launch.inspect:InspectSettings",
            "launch.inspect:run",
            first="folder",
        ),
        Verb(
            "launch",
            "start a run on a cluster, with a generated hostfile or sbatch script",
            "launch.cluster.launch:LaunchSettings",
            "launch.cluster.launch:run",
            choices={"cluster": "launch.cluster.launch:CLUSTERS"},
            also=["train.settings:TrainSettings"],
            split="launch.cluster.launch:split_overrides",
            handed="launch.cluster.launch:shown_training",
        ),
        Verb(
            "estimate",
            "estimate memory, speed, hours and checkpoints of a recipe; --from RUN corrects by a run's metrics",
            "launch.estimate.settings:EstimateSettings",
            "launch.estimate.estimate:run",
            choices={"cluster": "launch.estimate.hardware:PLACES"},
            also=["train.settings:TrainSettings"],
            split="launch.estimate.settings:split_overrides",
            handed="launch.estimate.estimate:shown_training",
        ),
        Verb(
            "study",
            "run arms x seeds x schedules from one file, each as an ordinary run; --plan shows what it takes",
            "launch.study.settings:StudySettings",
            "launch.study.study:run",
            first="file",
            choices={"cluster": "launch.cluster.launch:CLUSTERS"},
        ),
        Verb(
            "probe",
            "branch a shuffled run at its checkpoints to find the preferred share of each bucket by progress",
            "launch.probe.settings:ProbeSettings",
            "launch.probe.probe:run",
            first="run",
        ),
        Verb(
            "demo",
            "run the full pipeline on text found on this machine: two arms and a report",
            "launch.demo.demo:DemoSettings",
            "launch.demo.demo:run",
            takes="pdpc",
        ),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code: 0 done, 2 invalid settings or inputs, 130 interrupted, else the failure's.

    Run as a program (without `arguments`), no failing write to the standard streams ends its work. A command that only
    prints exits silently on SIGPIPE (`pdpc inspect order | head`), and with 1 if its output is lost in another way.
    """
    if arguments is not None:
        return _main(list(arguments))
    leave_current_folder()
    open_streams()
    words = sys.argv[1:]
    only_prints = _only_prints(words)
    if only_prints:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    code = _main(words)
    if why := lost_output():
        print(f"pdpc: output was lost: standard output cannot be written to ({why})", file=sys.stderr)
    return FAILED if why and only_prints and code == DONE else code


def _main(words: list[str]) -> int:
    if not faulthandler.is_enabled():
        faulthandler.enable()
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"pdpc {version('pdpc')}")
        return 0
    if words[0] == "completion":
        return _complete(words[1:])
    name, overrides = split_verb(words)
    verb = VERBS.get(name)
    if verb is None and (below := [other for other in VERBS if other.startswith(f"{name} ")]):
        if asks_help(overrides[:1]):
            print("\n".join(f"pdpc {other}: {VERBS[other].does}" for other in below))
            return 0
        print(f"pdpc: {' '.join(words[:2])!r} is not a verb: use one of {', '.join(below)}", file=sys.stderr)
        return 2
    if verb is None:
        print(f"pdpc: unknown verb {name!r}: use one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    log_without_secrets(logging.INFO)
    try:
        _check_folder()
        check_packages()
        arm()
        return _run(verb, overrides)
    except ValueError as error:
        if os.environ.get("PDPC_TRACEBACK"):
            raise
        print(refusal(name, error), file=sys.stderr)
        return exit_code_of(error)
    except (OSError, RuntimeError) as error:
        expected = isinstance(error, OSError) or hasattr(error, "exit_code")
        if os.environ.get("PDPC_TRACEBACK") or not expected:
            raise
        print(printable(without_secrets(f"pdpc {name}: {error}")), file=sys.stderr)
        return exit_code_of(error)
    except KeyboardInterrupt:
        print(f"pdpc {name}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130


def split_verb(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the verb, of one word or two, that a command starts with, and its other words."""
    two = " ".join(words[:2])
    return (two, list(words[2:])) if two in VERBS else (words[0], list(words[1:]))


def _check_folder() -> None:
    """Raise ValueError if the current folder was removed: paths are relative to it, and libraries ask for it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ValueError("the current folder was removed: change to one that exists") from None


def _only_prints(words: Sequence[str]) -> bool:
    """Return whether a command only prints: it opens no socket and writes no file that could be left incomplete."""
    if (
        not words
        or words[0] in ("inspect", "estimate", "help", "--version", "completion")
        or list(words) == ["doctor", "--faults"]
    ):
        return True
    return asks_help(words) or any(word.partition("=")[0] in ("--cfg", "-c") for word in words)


def _run(verb: Verb, words: list[str]) -> int:
    from train.config.compose import compose, configuration_of
    from train.config.groups import options_of

    shown, words = asks_config(words)
    settings_class, run, choices = verb.load()
    schemas = [settings_class, *map(_imported, verb.also)]
    given = [word for word in words if "=" in word] if asks_help(words) else words
    named = _imported(verb.named) if verb.named else None
    overrides = as_overrides(given, *schemas, first=verb.first, choices=choices, named=named)
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
    if shown:
        print(configuration_of(verb.name, settings_class, overrides, choices))
        if handed_on is not None and verb.handed is not None:
            print(_imported(verb.handed)(handed_on))
        return 0
    settings: Any = compose(verb.name, settings_class, overrides, choices)
    if handed_on is not None:
        settings = replace(settings, overrides=handed_on)
    extra = {"overrides": overrides, "pdpc": main}
    result = run(settings) if verb.takes is None else run(settings, extra[verb.takes])
    return result if isinstance(result, int) else 0


def _complete(words: Sequence[str]) -> int:
    """Print the completion script of a shell, from the table of verbs and their settings; return the exit code."""
    from train.config.completion import script
    from train.config.groups import groups_of
    from train.config.keys import keys_of

    keys: dict[str, list[str]] = {}
    values: dict[tuple[str, str], list[str]] = {}
    for name, verb in VERBS.items():
        settings, _, choices = verb.load()
        groups = {group: options for group, (_, options) in groups_of(name).items()}
        found = {*keys_of(settings, choices), *(key for also in verb.also for key in keys_of(_imported(also), {}))}
        groups |= {group: options for group, (_, options) in groups_of("train").items()} if verb.also else {}
        keys[name] = sorted(found | groups.keys())
        values |= {(name, group): options for group, options in groups.items()}
    try:
        print(script(words[0] if words else "", keys, values), end="")
    except ValueError as error:
        print(f"pdpc {error}", file=sys.stderr)
        return 2
    return 0


def _overview() -> str:
    width = max(len(name) for name in VERBS)
    lines = [f"  {name:<{width}}  {verb.does}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "pdpc VERB [KEY=VALUE ...]    pretraining on the data a model prefers at each moment of training",
            "",
            *lines,
            "",
            "pdpc completion bash|zsh prints a script for the shell: source <(pdpc completion bash)",
            "pdpc VERB --cfg job prints the composed configuration and where each value was set.",
            "pdpc VERB --help lists a verb's keys. KEY=VALUE is a Hydra override, such as optimizer.lr=2e-4",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
