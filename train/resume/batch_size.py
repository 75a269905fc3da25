"""A batch size that changes between two attempts: which orders allow it, and the command that makes one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import Manifest
from curriculum.order.order import Order, ancestors
from curriculum.preference import PREFERENCES
from curriculum.preference.own import recorded
from train.config.typed import quoted
from train.resume.lineage import ChangedRun
from train.settings import TrainSettings


def check_batch_size(
    run: Path, facts: Mapping[str, Any], settings: TrainSettings, order: Order, found: Manifest | None
) -> None:
    """Raise ChangedRun when the steps of a run and of `order` do not hold the same number of samples.

    `facts`: the run's; `found`: the checkpoint it resumes from, None at its start. A replanned order may change the
    batch size at a checkpoint; the message has the command for it.
    """
    step = int(found.facts["step"]) if found is not None else 0
    if step < order.first_step:
        sizes = ", then ".join(f"{size} from step {first}" for first, size in order.batch_sizes)
        remedy = f"replan with from_step={step}, the newest checkpoint" if step else "give the order of a new run"
        raise ChangedRun(
            f"order {order.folder} has batches of {sizes}, so a run can only resume with it after step "
            f"{order.first_step}, but {run} is at step {step}: {remedy}"
        )
    if found is None or found.inputs.get("order") in (order.fingerprint, *ancestors(order)):
        return
    cursor = int(found.facts["cursor"])
    if order.cursor_after(step) == cursor or cursor == facts.get("cursor"):
        return
    raise ChangedRun(
        f"run {run} has consumed {cursor} samples in {step} steps, but order {order.folder} has "
        f"{order.cursor_after(step)} in {min(step, order.steps)} steps of {order.batch_size}: a run "
        f"changes its batch size with an order replanned from its own. {_remedy(facts, settings, order, found)}"
    )


def _remedy(facts: Mapping[str, Any], settings: TrainSettings, order: Order, found: Manifest) -> str:
    """Return the commands that resume the run with the preference and batch size of `order`."""
    own, step = found.inputs.get("order"), found.facts["step"]
    folder = Path(facts.get("paths", {}).get("order") or "ORDER")
    before = "Run"
    try:
        there = Order.open(folder).fingerprint == own
    except (ArtifactError, OSError):
        there = False
    if not there:
        folder, before = Path("ORDER"), f"Restore that order (fingerprint {own}) as ORDER and run"
    output = folder.with_name(f"{folder.name}_batch_{order.batch_size}_from_{step}")
    words = ["pdpc", "replan", f"order={quoted(folder)}", f"from_step={step}", f"batch_size={order.batch_size}"]
    words += [*_inputs(settings, order), *_preference(order), f"output={quoted(output)}"]
    return f"{before} `{shlex.join(words)}`, then the run's own command with data.order={shlex.quote(quoted(output))}"


def _inputs(settings: TrainSettings, order: Order) -> list[str]:
    """Return the words for what `order` was arranged from, placeholders for what a run does not know."""
    inputs, words = order.manifest.inputs, []
    if "tokens" in inputs:
        words.append(f"tokens={quoted(settings.data.tokens)}")
    if "scores" in inputs:
        words.append(f"scores={quoted(settings.data.scores) if settings.data.scores else 'SCORES'}")
    if "own_scores" in inputs:
        words.append("own_scores=FILE")
    if order.manifest.config.get("nonfinite", "fail") != "fail":
        words.append(f"nonfinite={order.manifest.config['nonfinite']}")
    return words


def _preference(order: Order) -> list[str]:
    """Return the words for the preference of an order, without defaults."""
    config = dict(order.manifest.config["preference"])
    name = config.pop("name")
    if recorded(order.manifest.config) is not None or name not in PREFERENCES:
        return ["preference=CODE"]
    defaults = {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(PREFERENCES[name])
    }
    changed = {key: value for key, value in config.items() if key in defaults and value != defaults[key]}
    return [f"preference={name}", *(f"preference.{key}={_value(value)}" for key, value in changed.items())]


def _value(value: Any) -> str:
    """Return a JSON value as the value of a Hydra override."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(key)}:{_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_value, value)) + "]"
    return json.dumps(value)


def _key(key: str) -> str:
    """Return a key of a JSON object as one of a Hydra override: JSON holds a point of progress as text."""
    try:
        return str(float(key))
    except ValueError:
        return quoted(key)
