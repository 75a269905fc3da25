"""Checkpoints: float32 weights and AdamW's moments by parameter name, in safetensors, published whole or not at all.

A checkpoint is a folder `step_XXXXXXXX` with one file a rank, which holds that rank's fragments under
`<parameter>/<tensor>` and their offsets. Any number of ranks can read it. There is no pointer to the newest: the newest
folder whose manifest verifies wins.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from curriculum.artifact import (
    ArtifactError,
    Manifest,
    open_manifest,
    publish,
    sync,
    verify,
    write_manifest,
)
from models.config import DecoderConfig
from train.engine import MOMENTS, Engine, Fragment
from train.world import World

log = logging.getLogger(__name__)

KIND = "checkpoint"
TEMPORARY = ".writing_"
"""What the folder of a checkpoint that is being written begins with."""


def folder_of(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return checkpoints / f"step_{step:08d}"


def save(
    checkpoints: Path,
    engine: Engine,
    world: World,
    *,
    step: int,
    cursor: int,
    consumed_hash: str,
    tokens: int,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    hooks: Mapping[str, Mapping[str, Any]],
) -> Path:
    """Write the checkpoint after `step` steps; return its folder, the same on every rank.

    Every rank writes and syncs its file; when all have, rank 0 hashes them, writes the manifest and renames the folder.
    When a rank could not write (a full disk), all of them raise and nothing is left behind: OSError where the cause is
    known, else OtherRankFailed. Needs the run's lock: nobody else writes here.
    """
    folder = folder_of(checkpoints, step)
    temporary = checkpoints / f"{TEMPORARY}{folder.name}"
    facts = {
        "step": step,
        "cursor": cursor,
        "consumed_hash": consumed_hash,
        "tokens": tokens,
        "hooks": dict(hooks),
        "updates": engine.updates(),
        "world_size": world.size,
        "model": asdict(replace(engine.decoder.config, attention="auto")),  # a reader may be another machine
    }

    def commit() -> None:
        write_manifest(temporary, KIND, config=config, inputs=inputs, facts=facts)
        publish(temporary, folder)

    try:
        world.first_does(lambda: temporary.mkdir(parents=True))
        _write_on_every_rank(temporary, engine, world)
        world.first_does(commit)
    except OSError as error:
        if world.first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"checkpoint {folder} could not be written ({error}): free space and run again") from error
    return folder


def _write_on_every_rank(temporary: Path, engine: Engine, world: World) -> None:
    """Write this rank's file; raise OSError on every rank when one of them could not."""
    problem: OSError | None = None
    try:
        _write_rank_file(temporary / f"rank_{world.rank:05d}.safetensors", engine)
    except OSError as error:
        problem = error
    if not world.agree(problem is None):
        raise problem or OSError("another rank could not write its part")


def _write_rank_file(path: Path, engine: Engine) -> None:
    tensors: dict[str, Tensor] = {}
    starts: dict[str, int] = {}
    for fragment in engine.fragments():
        starts[fragment.name] = fragment.start
        for kind, tensor in fragment.tensors.items():
            tensors[f"{fragment.name}/{kind}"] = tensor.detach().cpu().clone()
    try:
        save_file(tensors, path, metadata={"starts": json.dumps(starts)})
        sync(path)
    except Exception as error:  # safetensors has an error class of its own for a failed write
        raise OSError(f"{path}: {error}") from error


def clean(checkpoints: Path, step: int) -> None:
    """Remove what killed saves left, and every checkpoint after `step`: those were found damaged and are made again.

    Needs the run's lock: nobody else writes here.
    """
    if not checkpoints.is_dir():
        return
    for left in checkpoints.glob(f"{TEMPORARY}*"):
        shutil.rmtree(left)
    for folder in candidates(checkpoints):
        if folder.name > folder_of(checkpoints, step).name:
            log.warning("checkpoint %s is removed: the run goes on from step %s", folder, step)
            shutil.rmtree(folder)


def prune(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for folder in candidates(checkpoints)[keep:]:
        shutil.rmtree(folder)


def candidates(checkpoints: Path) -> list[Path]:
    """Return the checkpoint folders, newest first, unchecked."""
    return sorted(checkpoints.glob("step_*"), reverse=True) if checkpoints.is_dir() else []


def newest(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint whose files all match their checksums; damaged ones are named in the log."""
    for folder in candidates(checkpoints):
        try:
            verify(folder)
            return folder
        except ArtifactError as error:
            log.warning("checkpoint passed over: %s", error)
    return None


def load(folder: Path, engine: Engine) -> Manifest:
    """Fill an engine's weights and moments from a checkpoint written at any number of ranks."""
    manifest = open_manifest(folder, KIND)
    engine.prepare_state(manifest.facts["updates"])
    mine = {fragment.name: fragment for fragment in engine.fragments()}
    parameters = dict(engine.decoder.named_parameters())
    seen: dict[str, int] = dict.fromkeys(parameters, 0)
    with torch.no_grad():
        for part in _read(folder, manifest, ("param", *MOMENTS)):
            if part.name not in parameters:
                raise ArtifactError(
                    f"{folder} has a parameter {part.name!r} that the model lacks: the run's model was changed"
                )
            flat = parameters[part.name].data.view(-1)
            weights = part.tensors["param"]
            flat[part.start : part.start + len(weights)].copy_(weights)
            seen[part.name] += len(weights)
            if part.name in mine:
                _copy_overlap(part, mine[part.name])
    _check_complete(folder, seen, {name: parameter.numel() for name, parameter in parameters.items()})
    return manifest


def _copy_overlap(source: Fragment, target: Fragment) -> None:
    """Copy the elements that two fragments of one parameter share."""
    length = len(target.tensors["param"])
    low = max(source.start, target.start)
    high = min(source.start + len(source.tensors["param"]), target.start + length)
    if low < high:
        for kind, tensor in target.tensors.items():
            tensor[low - target.start : high - target.start].copy_(
                source.tensors[kind][low - source.start : high - source.start]
            )


def read_weights(folder: Path) -> tuple[DecoderConfig, dict[str, Tensor]]:
    """Return the decoder's configuration and its float32 weights by name."""
    manifest = open_manifest(folder, KIND)
    config = DecoderConfig(**manifest.facts["model"])
    with torch.device("meta"):
        from models.decoder import Decoder

        shapes = {name: parameter.shape for name, parameter in Decoder(config).named_parameters()}
    state = {name: torch.empty(shape.numel()) for name, shape in shapes.items()}
    seen = dict.fromkeys(shapes, 0)
    for part in _read(folder, manifest, ("param",)):
        weights = part.tensors["param"]
        state[part.name][part.start : part.start + len(weights)] = weights
        seen[part.name] += len(weights)
    _check_complete(folder, seen, {name: shape.numel() for name, shape in shapes.items()})
    return config, {name: tensor.view(shapes[name]) for name, tensor in state.items()}


def _read(folder: Path, manifest: Manifest, kinds: tuple[str, ...]) -> Iterator[Fragment]:
    for name in sorted(manifest.files):
        with safe_open(folder / name, framework="pt") as file:
            for parameter, start in json.loads(file.metadata()["starts"]).items():
                yield Fragment(parameter, start, {kind: file.get_tensor(f"{parameter}/{kind}") for kind in kinds})


def _check_complete(folder: Path, seen: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if seen[name] != size:
            raise ArtifactError(
                f"{folder} holds {seen[name]} of {size} elements of {name}: it is not of this model or not whole"
            )
