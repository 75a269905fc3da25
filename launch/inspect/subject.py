"""The subject of `pdpc inspect`: an order, its inputs, and the run that reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from curriculum.artifact.files import ArtifactError
from curriculum.order.order import Order
from curriculum.pairs.pairs import open_samples
from curriculum.scores.columns import SampleColumns
from curriculum.scores.own import OwnScores
from curriculum.scores.scores import Scores
from curriculum.tokens.samples import Samples
from curriculum.tokens.tokens import Tokens

if TYPE_CHECKING:
    from train.report.records import Run


@dataclass(frozen=True)
class Subject:
    """An order with the known columns of its samples."""

    order: Order
    columns: SampleColumns | None = None
    """None if neither TOKENS nor own scores are given."""
    run: Run | None = None
    notes: list[str] = field(default_factory=list)
    """Inputs that could not be opened, and why."""

    @property
    def tokens(self) -> Tokens | None:
        """TOKENS, if given."""
        found = self.columns.tokens if self.columns is not None else None
        return found if isinstance(found, Tokens) else None


def open_order(folder: Path, tokens: str | None, scores: str | None, own_scores: str | None) -> Subject:
    """Open an ORDER and the inputs given by the user. Raises ArtifactError if the order was built from other inputs."""
    order = Order.open(folder)
    if scores is not None and tokens is None:
        raise ValueError(f"scores={scores} needs the TOKENS that were scored: give tokens=FOLDER too")
    slice_name = order.manifest.facts["slice"]
    opened = open_samples(tokens, slice_name) if tokens is not None else None
    return Subject(order, _columns(order, opened, _scores(scores, slice_name), _own(own_scores)))


def open_run(folder: Path, tokens: str | None, scores: str | None, own_scores: str | None) -> Subject:
    """Open a RUN's order, tokens and scores at the paths in its record, or at those given by the user.

    Raises ArtifactError if the order is missing; other missing inputs become notes.
    """
    from train.report.material import open_material
    from train.report.records import read_run

    run = read_run("run", folder)
    material = open_material([run])
    order = material.orders.get("run")
    if order is None:
        raise ArtifactError(f"run {folder}: {material.missing['order/run']} Restore it, or inspect the order directly")
    slice_name = order.manifest.facts["slice"]
    opened = open_samples(tokens, slice_name) if tokens is not None else material.tokens
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


def _columns(
    order: Order, tokens: Samples | None, scores: Scores | None, own: OwnScores | None
) -> SampleColumns | None:
    """Join the columns, and compare their fingerprints with the order's inputs."""
    if tokens is None and own is None:
        return None
    columns = SampleColumns(tokens, scores, own)
    theirs = order.manifest.inputs
    for name, print_ in columns.inputs.items():
        if theirs.get(name, print_) != print_:
            raise ArtifactError(
                f"{order.folder} was built from other {name.replace('_', ' ')} ({theirs[name]}) than {name}="
                f"{_place(columns, name)} ({print_}): give those it was built from"
            )
    return columns


def _place(columns: SampleColumns, name: str) -> Path | None:
    if name == "scores" and columns.scores is not None:
        return columns.scores.folder
    if name == "own_scores" and columns.own is not None:
        return columns.own.path
    return columns.tokens.folder if columns.tokens is not None else None
