"""Which share of the text that a run scores has been read by the run, or by those that its weights come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import open_manifest
from curriculum.tokens.samples import Samples
from curriculum.tokens.tokens import SLICES, Tokens
from train.records.layout import RUN
from train.records.run_json import read_run


def overlaps(facts: Mapping[str, Any], tokens: Mapping[str, Samples]) -> dict[str, float]:
    """Return, by slice, the share of its documents that a run was trained on, if the run's TOKENS still exist.

    Only TOKENS of the same text can be compared: documents are identified by their number in the text. Documents of the
    runs that its initial weights come from count too.
    """
    seen: dict[str, npt.NDArray[np.bool_]] = {}
    for run in _lineage(facts):
        try:
            folder = Path(run["paths"]["tokens"])
            theirs = {name: Tokens.open(folder, name) for name in SLICES}
            trained = next(part for part in theirs.values() if part.fingerprint == run["fingerprints"]["tokens"])
            text = _text_of(folder)
        except (ArtifactError, KeyError, StopIteration, TypeError, ValueError):
            continue
        for name, part in tokens.items():
            if isinstance(part, Tokens) and text and text == _text_of(part.folder) and part.documents:
                found_N = np.isin(part.origins, trained.origins)
                seen[name] = found_N | seen[name] if name in seen else found_N
    return {name: float(found_N.mean()) for name, found_N in seen.items()}


def _lineage(facts: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a run's facts, and those of the runs that its initial weights come from, as far as they still exist."""
    seen: set[Path] = set()
    while True:
        yield facts
        if "initial" not in facts:
            return
        folder = Path(facts["initial"]["folder"])
        run = next((place for place in (folder, folder.parent, folder.parent.parent) if (place / RUN).is_file()), None)
        if run is None or run in seen:
            return
        seen.add(run)
        try:
            facts = read_run(run)
        except ArtifactError:
            return


def _text_of(folder: Path) -> dict[str, str]:
    inputs = open_manifest(folder, "tokens").inputs
    return {name: value for name, value in inputs.items() if name.startswith("text/")}
