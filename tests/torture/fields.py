"""A field of the settings or the data changes between two launches: refused by name, or accepted if harmless (T15).

Passed: a changed binding field is refused with its name and both values, and the run resumes once it is accepted,
unless it can never be accepted; a harmless field may change. In every second round run.json is missing, and the
checkpoint's manifest must suffice.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from curriculum.artifact.manifest import open_manifest
from tests.torture.campaign import Tally
from tests.torture.forks import served
from tests.torture.runs import PATIENCE_S, Material
from train import checkpoint
from train.config.compose import compose
from train.inputs import Inputs, open_inputs
from train.records.layout import CHECKPOINTS, RUN
from train.records.run_json import read_run
from train.resume.identity import DECODER, FINGERPRINTS, Change, binding, fixed, free
from train.resume.lineage import ChangedRun
from train.resume.runfolder import admit
from train.settings import TrainSettings

FIELDS = (*binding(), *(f"fingerprints.{n}" for n in FINGERPRINTS), *(f"decoder.{n}" for n in DECODER), *free())
FULL = 2 * len(FIELDS)


def run(count: int, seed: int, work: Path) -> Tally:
    """Change `count` fields in turn, starting at `seed` modulo their number."""
    tally = Tally("fields", seed=seed)
    material, folder = Material.make(work / "material"), work / "run"
    with served() as forks:
        ranks = material.start(forks, folder, 1, fault="loop.before_evaluation:kill")
        codes = ranks.wait(PATIENCE_S)
        if codes != [-9]:
            raise RuntimeError(f"the first launch ended with {codes}: {ranks.told()[-600:]}")
    settings = compose("train", TrainSettings, [*material.words, f"output={folder}"])
    inputs = open_inputs(settings)
    for case in range(seed, seed + count):
        name, without_record = FIELDS[case % len(FIELDS)], case // len(FIELDS) % 2 == 1
        tally.add(case, problem_with(folder, settings, inputs, name, without_record))
    kinds = {"binding": len(FIELDS) - len(free()), "harmless": len(free()), "never to be accepted": len(fixed())}
    tally.notes.append(", ".join(f"{number} fields {kind}" for kind, number in kinds.items()))
    return tally


def problem_with(folder: Path, settings: TrainSettings, inputs: Inputs, name: str, without_record: bool) -> str | None:
    """Change one field of a run; return what went wrong. `without_record`: with the checkpoint's manifest only."""
    found = open_manifest(checkpoint.candidates(folder / CHECKPOINTS)[0], checkpoint.KIND)
    facts = {} if without_record else read_run(folder)
    changed, read = changed_field(settings, inputs, name)
    where = f"{name}{' (without ' + RUN + ')' if without_record else ''}"
    try:
        accepted = admit(folder, facts, changed, read, found)
    except ChangedRun as error:
        accepting, _ = changed_field(replace(settings, accept_change=[name]), inputs, name)
        return _refusal(where, str(error), name, lambda: admit(folder, facts, accepting, read, found))
    if name in free():
        return None if accepted == [] else f"{where} passed, but was recorded as a change: {accepted}"
    return f"{where} was not refused"


def _refusal(where: str, message: str, name: str, again: Callable[[], list[Change]]) -> str | None:
    if name in free():
        return f"{where} was refused: {message}"
    if f"{name}: " not in message:
        return f"{where} is not named: {message}"
    try:
        accepted = again()
    except ChangedRun as error:
        return None if name in fixed() and fixed()[name] in str(error) else f"{where} was not accepted: {error}"
    if name in fixed():
        return f"{where} was accepted, although it must never be"
    return None if [change.field for change in accepted] == [name] else f"{where} is on record as {accepted}"


def changed_field(settings: TrainSettings, inputs: Inputs, name: str) -> tuple[TrainSettings, Inputs]:
    """Return settings and inputs with one field changed, even if the result is inconsistent."""
    group, _, leaf = name.rpartition(".")
    if group == "fingerprints":
        return settings, replace(inputs, fingerprints={**inputs.fingerprints, leaf: "0" * 32})
    if group == "decoder":
        decoder = replace(inputs.decoder, **{leaf: getattr(inputs.decoder, leaf) + 64})
        return settings, replace(inputs, decoder=decoder)
    changed = deepcopy(settings)
    part: Any = getattr(changed, group) if group else changed
    object.__setattr__(part, leaf, another(getattr(part, leaf)))
    return changed, inputs


def another(value: Any) -> Any:
    """Return a different value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value / 2 if isinstance(value, float) and value else value + 1
    if isinstance(value, list):
        return [*value, "another"]
    return 7 if value is None else f"{value}_2"
