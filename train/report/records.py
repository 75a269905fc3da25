"""Runs as the report reads them, from RUN folders or W&B: resolved config, run.json, metrics."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curriculum.artifact.files import LARGEST_RECORDS, ArtifactError, read_bytes
from train.records.config_json import CONFIG, without_checksum
from train.records.run_json import checksum_of
from train.records.skipped import SKIPPED, Lost, lost_until
from train.records.state import state_of
from train.tracking.metrics import NONFINITE

Record = dict[str, Any]
NOTHING_LOST = Lost()
KINDS = ("train", "stage")


@dataclass(frozen=True)
class Run:
    """One run (one seed of an arm): its folder and contents."""

    name: str
    folder: Path
    config: dict[str, Any]
    """config.json: every setting of the run, as resolved."""
    info: dict[str, Any]
    """run.json: seed, fingerprints, paths, versions, status."""
    train: list[Record]
    """Metrics records of kind `train`, by step."""
    stages: list[Record]
    """Metrics records of kind `stage`, by step."""
    notes: list[str]
    """Problems found while reading: torn lines, repeated records, missing files."""
    from_wandb: bool = False
    """Read from W&B: `folder` is the address there, and there are no answers, no order and no artifacts."""
    lost: Lost | None = NOTHING_LOST
    """Steps that the weights have not learnt from; None: unknown."""
    partly: bool = False
    """`config` has only the settings that bind a run: config.json is missing, or the run was read from W&B."""
    contradictions: list[str] = field(default_factory=list)
    """Settings in which config.json differs from run.json, with both values; `config` has those of run.json."""

    @property
    def finished(self) -> bool:
        """Whether run.json says that the run finished; unknown for a run in W&B, which is assumed to have finished."""
        return self.from_wandb or self.info.get("status") == "finished"

    @property
    def seed(self) -> int | None:
        """The seed from run.json or config.json; None if neither has one."""
        value = self.info.get("seed", self.config.get("seed"))
        return value if type(value) is int else None

    @property
    def steps(self) -> int:
        """Steps taken, according to the last record; those that a guard skipped are among them."""
        return max((int(r["step"]) for r in (*self.train, *self.stages)), default=0)

    @property
    def tokens(self) -> int:
        """Tokens read, according to the last record; those of steps that a guard skipped are among them."""
        return max((int(r["tokens"]) for r in (*self.train, *self.stages)), default=0)

    def fact(self, *keys: str) -> Any:
        """Return the value at `keys` in run.json; None if absent."""
        value: Any = self.info
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


def read_run(name: str, folder: Path) -> Run:
    """Read the RUN folder of the arm `name`.

    Raises ValueError if the folder or metrics.jsonl is missing or a file in it cannot be read. A torn last line and a
    missing run.json or config.json become notes, because a killed run can leave them.
    """
    if not folder.is_dir():
        raise ValueError(f"runs.{name}: {folder} is not a folder: give a run folder (one with metrics.jsonl)")
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(
            f"runs.{name}: {path} is missing: give the folder of a run that has started, or train it first"
        )
    records, notes = read_metrics(path)
    found: dict[str, dict[str, Any]] = {}
    for file in (CONFIG, "run.json"):
        found[file] = _read_object(folder / file)
        if not found[file]:
            notes.append(f"{file} is missing, so its contents are not shown")
    info = found["run.json"]
    _check_sum(folder / "run.json", info)
    if info:
        info["status"] = state_of(folder, info)
    if info and info.get("status") != "finished":
        notes.append(f"the run is not finished (status: {info.get('status', 'unknown')}); results so far are shown")
    if info.get("arm", name) != name:
        notes.append(f"run.json calls this arm {info['arm']!r}")
    config, contradictions = _settings(without_checksum(folder / CONFIG, found[CONFIG]), info.get("identity") or {})
    train, repeated_train = _last_of_each_step(r for r in records if r["kind"] == "train")
    stages, repeated_stages = _last_of_each_step(r for r in records if r["kind"] == "stage")
    if repeated := repeated_train + repeated_stages:
        notes.append(f"{repeated} record(s) were rewritten by a resume or an evaluation; the later ones are shown")
    others = sorted({str(r["kind"]) for r in records if r["kind"] not in KINDS})
    if others:
        count = sum(r["kind"] in others for r in records)
        notes.append(f"{count} record(s) of other kinds ({', '.join(others)}) are not shown")
    notes += _non_finite(train, stages)
    last = max((record["step"] for record in (*train, *stages)), default=0)
    lost = Lost()
    if (folder / SKIPPED).is_file():
        try:
            lost = lost_until(folder / SKIPPED, last)
        except ArtifactError as error:
            notes.append(f"{error}; skipped steps are counted from the metrics")
    partly = bool(config) and not found[CONFIG]
    return Run(
        *(name, folder, config, info, train, stages, notes),
        lost=_with_counts(lost, train),
        partly=partly,
        contradictions=contradictions,
    )


def read_wandb(name: str, spec: str) -> Run:
    """Read a run of the arm `name` from W&B: its records, and the settings that were sent there.

    Raises ValueError if there is no such run or no API key, OSError if W&B is unreachable.
    """
    from train.report.wandb.read import read_wandb_run
    from train.resume.identity import FINGERPRINTS

    found = read_wandb_run(spec)
    prints = {key: found.config[key] for key in FINGERPRINTS if isinstance(found.config.get(key), str)}
    config = {key: value for key, value in found.config.items() if key not in FINGERPRINTS and key != "replay_of"}
    info: dict[str, Any] = {"fingerprints": prints, "status": "in W&B", "arm": found.name}
    train, _ = _last_of_each_step(r for r in found.records if r["kind"] == "train")
    stages, _ = _last_of_each_step(r for r in found.records if r["kind"] == "stage")
    missing = "its per-item answers, order, scores and tokens are unknown, and so is whether it finished"
    notes = [f"read from W&B ({spec}): {missing}", *_non_finite(train, stages)]
    lost = _with_counts(None, train)
    return Run(name, Path(spec), config, info, train, stages, notes, from_wandb=True, lost=lost, partly=True)


def read_metrics(path: Path) -> tuple[list[Record], list[str]]:
    """Return the records of a metrics.jsonl in file order, and notes on problems.

    Raises ValueError with the line number for a line that is not a record. Only the last line may be torn, and only
    without a newline at its end: that is what a killed process leaves.
    """
    lines = read_bytes(path, LARGEST_RECORDS).split(b"\n")
    records: list[Record] = []
    notes: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(_record(line))
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise ValueError(
                    f"{path}: line {number} is not a metrics record ({error}): fix or remove that line, "
                    "or train the run again"
                ) from None
            notes.append(f"the last line of metrics.jsonl (line {number}) is torn and was ignored")
    return records, notes


def finite(record: Record, key: str) -> float | None:
    """Return the number at `key`; None if it is absent, not a number or not finite."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def is_non_finite(record: Record, key: str) -> bool:
    """Tell whether the value at `key` was recorded as NaN or infinite: listed under `nonfinite`, or in older files."""
    value, odd = record.get(key), record.get(NONFINITE)
    return (isinstance(odd, dict) and key in odd) or (isinstance(value, float) and not math.isfinite(value))


def _record(line: bytes) -> Record:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, not an object")
    if not isinstance(value.get("kind"), str):
        raise ValueError("no kind")
    if value["kind"] in KINDS:
        for key in ("step", "tokens"):
            if type(value.get(key)) is not int or value[key] < 0:
                raise ValueError(f"{key} is {value.get(key)!r}, not an integer of at least 0")
    return value


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): restore the file, or remove it to report without it") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object: restore the file")
    return value


def _check_sum(path: Path, value: dict[str, Any]) -> None:
    """Raise ValueError if a run.json does not match its own checksum."""
    if "checksum" in value and value["checksum"] != checksum_of(value):
        raise ValueError(f"{path} does not match its own checksum: it is damaged or was edited; restore the file")


def _settings(config: dict[str, Any], identity: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a run, and where config.json contradicts run.json, which has a checksum."""
    if not config:
        return identity, []
    merged: dict[str, Any] = {**config}
    found: list[str] = []
    for key, value in identity.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            merged[key], inner = _settings(config[key], value)
            found += [f"{key}.{text}" for text in inner]
        elif key not in config or config[key] != value:
            merged[key] = value
            found.append(f"{key} {config.get(key)!r}, in run.json {value!r}")
    return merged, found


def _with_counts(lost: Lost | None, train: list[Record]) -> Lost | None:
    """Return what a run lost: at least as many skipped steps as its last record counts. Unknown without a count."""
    found = [finite(train[-1], key) for key in ("guard/not_finite", "guard/spike")] if train else []
    counts = [int(count) for count in found if count is not None]
    if not counts or (lost is not None and sum(counts) <= lost.skipped):
        return lost
    known = lost or Lost()
    return Lost(sum(counts), known.rollbacks, max(sum(counts), known.steps), None if any(counts) else 0)


def _last_of_each_step(records: Any) -> tuple[list[Record], int]:
    """Return records by step, the later one if a step occurs twice, and the number of records replaced."""
    by_step: dict[int, Record] = {}
    count = 0
    for record in records:
        by_step[record["step"]] = record
        count += 1
    return [by_step[step] for step in sorted(by_step)], count - len(by_step)


def _non_finite(train: list[Record], stages: list[Record]) -> list[str]:
    broken = sum(_holds_non_finite(record) for record in (*train, *stages))
    return [f"{broken} record(s) contain non-finite values, which are left out"] if broken else []


def _holds_non_finite(record: Record) -> bool:
    """Tell whether a record has non-finite values: under `nonfinite`, or as numbers in older files."""
    return bool(record.get(NONFINITE)) or any(
        isinstance(value, float) and not math.isfinite(value) for value in record.values()
    )
