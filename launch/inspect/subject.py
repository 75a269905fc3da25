"""What `pdpc inspect` looks at: an order, what it was made of, and the run that read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from curriculum.artifact.files import ArtifactError
from curriculum.order.order import Order
from curriculum.scores.columns import SampleColumns
from curriculum.scores.own import OwnScores
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens

if TYPE_CHECKING:
    from train.report.records import Run


@dataclass(frozen=True)
class Subject:
    """An order with what is known about its samples."""

    order: Order
    columns: SampleColumns | None = None
    """None where neither tokens nor own scores are given."""
    run: Run | None = None
    notes: list[str] = field(default_factory=list)
    """What could not be opened, and why."""

    @property
    def tokens(self) -> Tokens | None:
        """TOKENS, where they are given."""
        return self.columns.tokens if self.columns is not None else None


def open_order(folder: Path, tokens: str | None, scores: str | None, own_scores: str | None) -> Subject:
    """Open an ORDER and what the user says it was made of. Raises ArtifactError where that is something else."""
    order = Order.open(folder)
    if scores is not None and tokens is None:
        raise ValueError("scores are of TOKENS: give tokens=FOLDER too")
    slice_name = order.manifest.facts["slice"]
    opened = Tokens.open(tokens, slice_name) if tokens is not None else None
    return Subject(order, _columns(order, opened, _scores(scores, slice_name), _own(own_scores)))


def open_run(folder: Path, tokens: str | None, scores: str | None, own_scores: str | None) -> Subject:
    """Open a RUN's order, tokens and scores where its record says they are, or where the user says.

    Raises ArtifactError when the order is gone; what else is gone is a note.
    """
    from train.report.material import open_material
    from train.report.records import read_run

    run = read_run("run", folder)
    material = open_material([run])
    order = material.orders.get("run")
    if order is None:
        raise ArtifactError(f"run {folder}: {material.missing['order/run']} Put it back, or inspect an order itself")
    slice_name = order.manifest.facts["slice"]
    opened = Tokens.open(tokens, slice_name) if tokens is not None else material.tokens
    given = _scores(scores, slice_name) if scores is not None else material.scores if opened is not None else None
    notes = [
        text.replace("The run run", "The run")
        for what, text in material.missing.items()
        if not {"tokens": tokens, "scores": scores}.get(what)
    ]
    return Subject(order, _columns(order, opened, given, _own(own_scores)), run, notes)


def _scores(folder: str | None, slice_name: str) -> Scores | None:
    return Scores.open(folder, slice_name) if folder is not None else None


def _own(path: str | None) -> OwnScores | None:
    return OwnScores(path) if path is not None else None


def _columns(order: Order, tokens: Tokens | None, scores: Scores | None, own: OwnScores | None) -> SampleColumns | None:
    """Join them, and compare their fingerprints with the order's inputs."""
    if tokens is None and own is None:
        return None
    columns = SampleColumns(tokens, scores, own)
    theirs = order.manifest.inputs
    for name, print_ in columns.inputs.items():
        if theirs.get(name, print_) != print_:
            raise ArtifactError(
                f"{order.folder} was made of other {name.replace('_', ' ')} ({theirs[name]}) than {name}="
                f"{_place(columns, name)} ({print_}): give those that it was made of"
            )
    return columns


def _place(columns: SampleColumns, name: str) -> Path | None:
    if name == "scores" and columns.scores is not None:
        return columns.scores.folder
    if name == "own_scores" and columns.own is not None:
        return columns.own.path
    return columns.tokens.folder if columns.tokens is not None else None
