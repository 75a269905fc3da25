"""Find and read the files of a Hugging Face folder: JSON and safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.huggingface.names import INDEX, WEIGHTS


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


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """Return the JSON object in a file; ValueError, with the fix, if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: {fix}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): {fix}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object: {fix}")
    return value
