"""Read a checkpoint at any number of ranks: verify first, then each rank reads only what it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from curriculum.artifact.files import ArtifactError, reading
from curriculum.artifact.manifest import MANIFEST, Manifest, open_manifest
from models.config import DecoderConfig, Lora
from models.lora import merged, of_facts, trained
from models.lora import shapes as lora_shapes
from train.checkpoint.find import KIND, check_file, verified
from train.checkpoint.layout import KINDS, WORD, Part, check_complete, read_header
from train.distributed.collectives import Collectives, RankFailed
from train.distributed.world import World
from train.engine import Engine, Fragment
from train.faults import fault
from train.records.layout import BASE

CHUNK_BYTES = 8 << 20
"""Read size: the only memory needed apart from the target."""


def load(folder: Path, engine: Engine) -> Manifest:
    """Load an engine's weights and moments from a checkpoint written at any number of ranks and any ZeRO stage.

    Collective: each rank first hashes its share of the files, and none opens a file before all have been verified.
    Raises ArtifactError on every rank, naming what is damaged or does not belong to this model.
    """
    world = engine.world
    with _together(world, "checked"):
        manifest = open_manifest(folder, KIND)
        for name in sorted(manifest.files)[world.rank :: world.size]:
            check_file(folder / name, manifest.files[name])
    with _together(world, "read"):
        sizes = {name: shape.numel() for name, shape in trained(engine.decoder).items()}
        with _open_files(folder, manifest, sizes, KINDS) as files, torch.no_grad():
            fault("checkpoint.in_load")
            engine.prepare_state(manifest.facts["updates"])
            for fragment in engine.fragments():
                for part, descriptor in files[fragment.name]:
                    _fill(descriptor, part, fragment)
    engine.filled()
    return manifest


def fill(engine: Engine, read: Callable[[], Mapping[str, Tensor]]) -> None:
    """Give an engine the float32 weights that `read` returns by parameter name, with fresh moments.

    Collective: every rank reads, and copies what it owns. Raises ArtifactError on every rank if one cannot, or if a
    weight is not finite.
    """
    with _together(engine.world, "read"), torch.no_grad():
        state = read()
        engine.prepare_state(0)
        for fragment in engine.fragments():
            values_N = fragment.tensors["param"]
            values_N.copy_(state[fragment.name].reshape(-1)[fragment.start : fragment.start + len(values_N)])
            if not torch.isfinite(values_N).all():
                raise ArtifactError(f"{fragment.name} of the initial weights is not finite: give other weights")
    engine.filled()


def read_weights(folder: Path, kind: str = "param") -> tuple[DecoderConfig, dict[str, Tensor]]:
    """Return the decoder's configuration and its float32 weights by name; kind "ema" gives their running average.

    Adapters are merged into the weights that they adapt. Raises ArtifactError naming the damaged file, before any of it
    is used.
    """
    config, lora, state = read_trained(folder, kind)
    return config, state if lora is None else merged(read_base(folder.absolute().parent.parent, config), state, lora)


def read_trained(folder: Path, kind: str = "param") -> tuple[DecoderConfig, Lora | None, dict[str, Tensor]]:
    """Return what `read_weights` does, but of a run with adapters only these, and which they are."""
    manifest = verified(folder)
    with reading(folder / MANIFEST, "resume from another checkpoint"):
        config = DecoderConfig(**manifest.facts["model"])
        lora = of_facts(manifest.facts.get("lora"))
        stored = sum(entry.bytes for entry in manifest.files.values())
        parameters = config.parameter_count() if lora is None else lora.parameter_count(config)
        if WORD * parameters > stored:  # before building modules: about 1 ms per layer
            raise ValueError(f"its model has {parameters:,} parameters, its files only {stored:,} bytes")
    shapes = _shapes(config) if lora is None else lora_shapes(config, lora)
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    state = {name: torch.empty(size) for name, size in sizes.items()}
    with _open_files(folder, manifest, sizes, (kind,)) as files:
        for name, weights in state.items():
            for part, descriptor in files[name]:
                _fill(descriptor, part, Fragment(name, 0, {kind: weights}))
    return config, lora, {name: tensor.view(shapes[name]) for name, tensor in state.items()}


def read_base(run: Path, config: DecoderConfig) -> Mapping[str, Tensor]:
    """Return the frozen float32 weights that a run with adapters keeps. Raises ArtifactError if they are missing."""
    from models.huggingface.read import read_weights as read_folder

    with reading(run / BASE, "restore it: checkpoints of adapters need the weights that they adapt"):
        return read_folder(run / BASE, config, torch.float32)


def _shapes(config: DecoderConfig) -> dict[str, torch.Size]:
    """Return the shapes of a decoder's parameters by name, without allocating one."""
    from models.decoder import Decoder

    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in Decoder(config).named_parameters()}


@contextmanager
def _open_files(
    folder: Path, manifest: Manifest, sizes: Mapping[str, int], kinds: Sequence[str]
) -> Iterator[dict[str, list[tuple[Part, int]]]]:
    """Open the files of a verified checkpoint; yield its vectors and file descriptors by parameter.

    Raises ArtifactError unless the headers are valid and together cover the whole model.
    """
    found: dict[str, list[tuple[Part, int]]] = {name: [] for name in sizes}
    descriptors = []
    try:
        for name in sorted(manifest.files):
            descriptors.append(os.open(folder / name, os.O_RDONLY))
            for part in read_header(folder / name, descriptors[-1], sizes):
                found[part.name].append((part, descriptors[-1]))
        check_complete(folder, [part for parts in found.values() for part, _ in parts], sizes, kinds)
        yield found
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _fill(descriptor: int, part: Part, target: Fragment) -> None:
    """Copy the elements that a stored vector and a fragment have in common; nothing else is read."""
    if part.kind not in target.tensors:
        return
    values_N = target.tensors[part.kind].view(-1)
    low, high = max(part.start, target.start), min(part.stop, target.start + len(values_N))
    step = CHUNK_BYTES // WORD
    for first in range(low, high, step):
        length = min(step, high - first)
        data = bytearray(WORD * length)
        if os.preadv(descriptor, [data], part.offset + WORD * (first - part.start)) != len(data):
            raise ArtifactError(f"{part.name}/{part.kind} was truncated while it was being read: run again")
        place = first - target.start
        values_N[place : place + length].copy_(torch.frombuffer(data, dtype=torch.float32))


@contextmanager
def _together(world: World, what: str) -> Iterator[None]:
    """Run the body on every rank; an error on one of them is raised on all as ArtifactError."""
    problem: Exception | None = None
    try:
        yield
    except (ArtifactError, OSError, ValueError, KeyError, TypeError) as error:
        problem = error
    try:
        Collectives(world).gather(f"checkpoint: {what}", error=None if problem is None else str(problem))
    except RankFailed as failed:
        raise (problem if isinstance(problem, ArtifactError) else ArtifactError(str(failed))) from problem
