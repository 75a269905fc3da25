"""The trunk: a run on shuffled data, its order, its settings and the checkpoints to branch at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.arrange.twin import TWIN_OF
from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import Manifest, open_manifest
from curriculum.order.order import Order, ancestors
from launch.probe.settings import ProbeSettings
from launch.study.words import words_of
from train.records.config_json import read_config
from train.records.layout import CHECKPOINTS
from train.records.run_json import read_run

NEAR = 0.02
"""Distance in progress up to which a checkpoint stands for a point that was asked for."""
KEEP = "train it with checkpoints.keep_every=N or checkpoints.keep_stages=true"


@dataclass(frozen=True)
class Trunk:
    """A run to branch from."""

    folder: Path
    facts: Mapping[str, Any]
    """run.json."""
    config: Mapping[str, Any]
    """config.json: every setting."""
    order: Order
    tokens: str
    scores: str | None
    """The run's data.scores."""
    checkpoints: dict[int, Path]
    """Step to folder, of every kept checkpoint before the end."""

    def progress(self, step: int) -> float:
        """Return the share of the run's samples that were read after `step` steps."""
        return self.order.cursor_after(step) / len(self.order)

    def checkpoint(self, step: int) -> Manifest:
        """Return the manifest of a checkpoint: its facts have `tokens`, and `records` as they were then."""
        from train.checkpoint import KIND

        return open_manifest(self.checkpoints[step], KIND)


def open_trunk(settings: ProbeSettings) -> Trunk:
    """Open the run. Raises ValueError unless it was trained on shuffled data and keeps checkpoints before its end."""
    from train import checkpoint

    folder = Path(settings.run)
    facts, config = read_run(folder), read_config(folder)
    paths = facts["paths"]
    order = Order.open(_place(settings.order or paths.get("order"), "order", folder))
    if order.fingerprint != facts["fingerprints"].get("order"):
        raise ArtifactError(
            f"run={folder} was trained on order {facts['fingerprints'].get('order')}, but {order.folder} is "
            f"{order.fingerprint}: give the run's own order, order=FOLDER"
        )
    kind = (order.manifest.config.get("preference") or {}).get("name")
    if kind != "shuffled" or ancestors(order) or TWIN_OF in order.manifest.inputs:
        what = "replanned" if ancestors(order) else "a twin" if TWIN_OF in order.manifest.inputs else f"by {kind}"
        raise ValueError(
            f"run={folder} was trained on {order.folder}, an order that is {what}: a probe branches from a run on "
            "shuffled data; train one on an order with preference=shuffled"
        )
    kept = {checkpoint.step_of(path): path for path in checkpoint.candidates(folder / CHECKPOINTS)}
    kept = {step: kept[step] for step in sorted(kept) if step < order.steps}
    if not kept:
        raise ValueError(f"run={folder} keeps no checkpoint before its end: {KEEP}")
    tokens = str(_place(settings.tokens or paths.get("tokens"), "tokens", folder))
    return Trunk(folder, facts, config, order, tokens, paths.get("scores"), kept)


def chosen_steps(trunk: Trunk, wanted: Sequence[float]) -> list[int]:
    """Return the steps of the checkpoints nearest to `wanted` points of progress; all of them if there are none.

    Raises ValueError naming a point without a checkpoint.
    """
    if not wanted:
        return list(trunk.checkpoints)
    steps = []
    for point in sorted(wanted):
        step = min(trunk.checkpoints, key=lambda step: abs(trunk.progress(step) - point))
        if abs(trunk.progress(step) - point) > NEAR:
            kept = ", ".join(f"{trunk.progress(step):.2f}" for step in trunk.checkpoints)
            raise ValueError(
                f"progress={point:g}: {trunk.folder} keeps checkpoints at {kept}, none within {NEAR:g} of it: give "
                f"those, or {KEEP}"
            )
        steps.append(step)
    if len(set(steps)) < len(steps):
        raise ValueError(f"progress={list(wanted)}: two points have the same nearest checkpoint: give fewer points")
    return steps


def train_words(trunk: Trunk) -> list[str]:
    """Return the run's settings as overrides of `pdpc train`: those that differ from the defaults."""
    from train.config.compose import defaults_of
    from train.config.keys import keys_of
    from train.settings import TrainSettings

    usual = defaults_of("train", TrainSettings, {})
    keys = keys_of(TrainSettings, {})
    leaves = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    found = {}
    for key in leaves:
        value: Any = trunk.config
        for part in key.split("."):
            value = value.get(part, usual.get(key)) if isinstance(value, Mapping) else usual.get(key)
        if value != usual.get(key):
            found[key] = value.replace("$", "$$") if isinstance(value, str) else value
    initial = trunk.facts.get("initial")
    if initial is not None:
        found["init"] = str(initial["folder"]).replace("$", "$$")
    for key in ("output", "arm", "data.order", "data.tokens", "data.scores", "branch_of", "accept_change"):
        found.pop(key, None)
    return words_of(found, {})


def _place(path: str | None, key: str, run: Path) -> Path:
    """Return the folder of an input of the run. Raises ValueError if it is not where it was."""
    if path is None or not Path(path).is_dir():
        raise ValueError(f"the {key} of run={run} is not at {path} any more: give {key}=FOLDER")
    return Path(path)
