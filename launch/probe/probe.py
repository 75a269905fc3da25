"""`pdpc probe RUN`: run every branch that is missing, then write the preference that they show."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from curriculum.arrange.arrange import ArrangeSettings, open_columns, warn_of_scores
from curriculum.arrange.branch import Cells, cells_of, unread, write_branch
from curriculum.artifact.files import ArtifactError, write_text
from curriculum.artifact.lock import Lock
from curriculum.artifact.outputs import BYSTANDERS, check_free
from curriculum.preference.base import ScoreCut
from curriculum.tokens.tokens import Tokens
from launch.cluster.machines import Local
from launch.probe.branches import Branch, design, emphases, order_of, run_of, step_of
from launch.probe.fit import as_csv
from launch.probe.plan import show_plan
from launch.probe.preferred import Measured
from launch.probe.results import LEAST_POINTS, Cost, Results, analysed, documents_of
from launch.probe.settings import ProbeSettings
from launch.probe.trunk import Trunk, chosen_steps, open_trunk, train_words
from launch.study.runner import Runner
from launch.study.steps import Step
from launch.study.study import command, composed, room, width
from train.report.measures import measures_of
from train.report.records import Run, finite, read_run
from train.schedule import Schedule

log = logging.getLogger(__name__)

LOCK, TABLE, PAGE, PICTURE, RESULTS = ".lock", "preference.csv", "probe.html", "preference.svg", "results.json"
SHARE_OF_RUN = 20
"""A branch has this part of the run's steps, unless `steps` says how many."""


@dataclass(frozen=True)
class Probe:
    """Everything that a probe will run."""

    trunk: Trunk
    cells: Cells
    steps: int
    """Steps of a branch."""
    branches: list[Branch]
    commands: list[Step]
    seq_len: int
    notes: list[str]

    @property
    def tokens_per_branch(self) -> int:
        """Tokens that a branch trains on."""
        return self.steps * self.trunk.order.batch_size * self.seq_len

    @property
    def trunk_tokens(self) -> int:
        """Tokens of the whole run."""
        return len(self.trunk.order) * self.seq_len


def run(settings: ProbeSettings) -> int:
    """Run the missing branches and write the results; return 0, or the exit code of the first branch that failed.

    Raises ValueError before anything starts if the run, the settings or the unread data do not allow the probe.
    """
    output = Path(settings.output)
    probe = prepared(settings)
    if settings.plan:
        show_plan(probe.trunk, probe.commands, probe.tokens_per_branch, probe.trunk_tokens, probe.notes, output)
        return 0
    own = ("orders", "runs", "done", "logs", LOCK, TABLE, PAGE, PICTURE, RESULTS)
    check_free("output", output, (*own, ".*.tmp-*", *BYSTANDERS))
    output.mkdir(parents=True, exist_ok=True)
    with Lock(output / LOCK, f"probe {output}"):
        write_orders(probe, output)
        code = run_branches(probe, output, settings.at_once)
        try:
            results = results_of(probe, settings, output)
        except ValueError as error:
            if code == 0:
                raise
            log.error("no results: %s", error)
            return code
        from launch.probe.page import headline, show, write_page

        write_text(output / TABLE, as_csv(results.fitted, results.buckets))
        write_text(output / RESULTS, json.dumps(results.as_dict(), indent=1) + "\n")
        path = write_page(results, output)
    show(results)
    print(f"{headline(results)}\nArrange by it: pdpc arrange ... {results.words}\nThe page is {path}")
    return code


def prepared(settings: ProbeSettings) -> Probe:
    """Return what a probe runs. Raises ValueError naming what does not allow it; nothing is written."""
    trunk = open_trunk(settings)
    steps = settings.steps or max(1, trunk.order.steps // SHARE_OF_RUN)
    wanted = chosen_steps(trunk, settings.progress)
    cells = _cells(settings, trunk)
    mixtures = emphases(settings.shares, cells.buckets, cells.shares)
    chosen, notes = [], []
    for step in wanted:
        left = unread(trunk.order, cells, step, 0)
        try:
            for row in mixtures.values():
                left.needed(cells, steps * trunk.order.batch_size, np.array(row))
        except ValueError as error:
            if settings.progress:
                raise ValueError(f"{error}; give fewer steps, or an earlier point of progress") from None
            notes.append(f"no branches at progress {trunk.progress(step):.2f}: {error}")
            continue
        chosen.append(step)
    if len(chosen) < LEAST_POINTS:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise ValueError(
            f"a preference needs branches at {LEAST_POINTS} checkpoints of {trunk.folder}, and {len(chosen)} can have "
            f"them{why}: give fewer steps, or a run that keeps more checkpoints (checkpoints.keep_every=N)"
        )
    branches = design(chosen, settings.shares, cells.buckets, cells.shares, settings.seeds)
    seq_len = Tokens.open(trunk.tokens, trunk.order.manifest.facts["slice"]).seq_len
    commands = _commands(trunk, branches, seq_len, Path(settings.output))
    return Probe(trunk, cells, steps, branches, commands, seq_len, notes)


def write_orders(probe: Probe, output: Path) -> None:
    """Write the ORDER of every branch that has none."""
    for (step, seed), group in groupby(sorted(probe.branches, key=_start), _start):
        left = unread(probe.trunk.order, probe.cells, step, seed)
        for one in group:
            place, shares_K = order_of(output, one), np.array(one.shares)
            write_branch(probe.trunk.order, probe.cells, left, probe.steps, shares_K, seed, place)


def run_branches(probe: Probe, output: Path, at_once: int | None) -> int:
    """Run the branches that are missing; return 0, or the exit code of the first that failed."""
    return Runner(output, probe.commands, room(Local()), at_once, command).run()


def results_of(probe: Probe, settings: ProbeSettings, output: Path) -> Results:
    """Return the results of the finished branches. Raises ValueError if no run has the measure, or too few finished."""
    finished: dict[str, Run] = {}
    for one in probe.branches:
        with suppress(ValueError):
            found = read_run(one.name, run_of(output, one))
            if found.finished and found.stages:
                finished[one.name] = found
    if not finished:
        raise ValueError(f"no branch has finished: see {output / 'logs'}")
    measures = {one.key: one for one in measures_of([found.stages[-1] for found in finished.values()])}
    measure = measures.get(settings.measure)
    if measure is None:
        raise ValueError(f"measure={settings.measure} was not recorded: use one of {', '.join(sorted(measures))}")
    measured, tokens = [], 0
    for one in probe.branches:
        value = finite(finished[one.name].stages[-1], measure.key) if one.name in finished else None
        if value is not None:
            measured.append(Measured(one, value, documents_of(finished[one.name], measure.key)))
            tokens += (
                int(finished[one.name].stages[-1]["tokens"]) - probe.trunk.checkpoint(one.from_step).facts["tokens"]
            )
    missing = len(probe.branches) - len(measured)
    notes = [*probe.notes, *([f"{missing} of {len(probe.branches)} branches have no result"] if missing else [])]
    return analysed(
        measured,
        {one.from_step: probe.trunk.progress(one.from_step) for one in probe.branches},
        measure,
        probe.cells.buckets,
        probe.cells.shares,
        settings.fit,
        run=str(probe.trunk.folder),
        words=words_of_table(settings, output / TABLE),
        cost=Cost(len(measured), tokens, probe.trunk_tokens),
        notes=notes,
    )


def words_of_table(settings: ProbeSettings, table: Path) -> str:
    """Return the words of `pdpc arrange` that use the fitted table."""
    words = ["preference=table", f"preference.file={table}", f"preference.score={settings.score}"]
    words += [f"preference.buckets={settings.buckets}"] if settings.buckets != 2 else []
    words += [f"preference.stratify_by={settings.stratify_by}"] if settings.stratify_by else []
    return shlex.join(words)


def _cells(settings: ProbeSettings, trunk: Trunk) -> Cells:
    """Cut the samples of the run's order into buckets."""
    cut = ScoreCut("probe", stratify_by=settings.stratify_by, score=settings.score, buckets=settings.buckets)
    scores = settings.scores or (trunk.scores if settings.own_scores is None else None)
    columns = open_columns(
        ArrangeSettings(
            output=settings.output,
            tokens=trunk.tokens,
            slice=trunk.order.manifest.facts["slice"],
            scores=scores,
            own_scores=settings.own_scores,
            preference=cut,
        )
    )
    theirs = trunk.order.manifest.inputs.get("tokens")
    if theirs != columns.inputs.get("tokens"):
        raise ArtifactError(
            f"{trunk.order.folder} arranges other tokens ({theirs}) than {trunk.tokens} "
            f"({columns.inputs.get('tokens')}): give tokens=FOLDER of the run"
        )
    warn_of_scores(columns)
    return cells_of(trunk.order, columns, cut)


def _start(branch: Branch) -> tuple[int, int]:
    return branch.from_step, branch.seed


def _commands(trunk: Trunk, branches: Sequence[Branch], seq_len: int, output: Path) -> list[Step]:
    """Return the command of every branch. Raises ValueError if the run's settings are no longer valid."""
    words = train_words(trunk)
    train = composed("train", [*words, "output=o", "arm=a", "data.order=o", "data.tokens=t"])
    schedule = Schedule.over(train.schedule, train.optimizer.lr, trunk.order.steps, trunk.order.batch_sizes, seq_len)
    return [step_of(one, trunk, words, schedule(one.from_step), width(train), output) for one in branches]
