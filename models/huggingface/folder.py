"""Find and read the files of a Hugging Face folder: JSON and safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.huggingface.names import INDEX, WEIGHTS

LARGEST_TEXT = 1 << 28
"""Most bytes of a file that is not a weight file: it is read as a whole."""


class UnlikeDecoderError(ValueError):
    """A complete model that our decoder would compute differently; transformers may support it."""


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model; ValueError if there are none or the index lists missing ones."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        found = f"; it has {', '.join(pickled[:3])}, but pickles are never loaded" if pickled else ""
        raise ValueError(f"{folder} contains no {WEIGHTS} or {INDEX}{found}: save the model as safetensors")
    weight_map = read_json(folder / INDEX, "download the folder again").get("weight_map")
    files = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
    for name in files:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise ValueError(
                f"{folder / INDEX} lists {name!r}, which is not a safetensors file in the folder: download it again"
            )
    if not files:
        raise ValueError(f"{folder / INDEX} has no weight_map: download the folder again")
    return [folder / name for name in files]


def check_size(path: Path, fix: str) -> None:
    """Raise ValueError, with the fix, for a file of more than LARGEST_TEXT bytes."""
    if (size := path.stat().st_size) > LARGEST_TEXT:
        raise ValueError(f"{path} has {size:,} bytes, more than the {LARGEST_TEXT:,} that it may have: {fix}")


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """Return the JSON object in a file; ValueError, with the fix, if there is none."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: {fix}")
    check_size(path, fix)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): {fix}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object: {fix}")
    return value


def stored_tensors(folder: Path) -> tuple[int, int]:
    """Return how many tensors the weight files hold, and their bytes; only the files' headers are read.

    Raises ValueError for a file that is not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    tensors = size = 0
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                tensors += len(file.keys())
        except SafetensorError as error:
            raise ValueError(f"{path} is not a valid safetensors file ({error}): download it again") from error
        size += path.stat().st_size
    return tensors, size


def check_layers(path: Path, layers: object, tensors: int) -> None:
    """Raise ValueError if a config.json describes more layers than there are tensors: building them takes memory."""
    if isinstance(layers, int) and layers > tensors:
        raise ValueError(
            f"{path} describes {layers:,} layers, but the weights in the folder have only {tensors:,} tensors: "
            "download the folder again"
        )
