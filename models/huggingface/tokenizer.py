"""The tokenizer's part of an export: its files are copied, and tokenizer_config.json is made readable by both
transformers 4 and 5.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.huggingface.folder import check_size, read_json

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"

TOKENIZER_FILES = (
    "tokenizer.json", CONFIG, "special_tokens_map.json", "added_tokens.json", TEMPLATE, "vocab.json", "merges.txt",
    "vocab.txt", "tokenizer.model",
)  # fmt: skip
"""Files copied from a tokenizer's folder; anything else there (weights, code) is not."""

FAST_CLASS = "PreTrainedTokenizerFast"
"""A tokenizer that is its tokenizer.json, by a name that both versions know: transformers 5 says TokenizersBackend."""


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files to copy from a tokenizer's folder. Raises ValueError if it has no tokenizer."""
    present = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model"} & {path.name for path in present}:
        raise ValueError(f"{folder} contains no tokenizer.json or tokenizer.model: name a saved tokenizer's folder")
    for path in present:
        check_size(path, "save the tokenizer again")
    return present


def copy_tokenizer(files: list[Path], folder: Path) -> None:
    """Copy `tokenizer_files` to a folder. Raises ValueError if tokenizer_config.json is not JSON."""
    by_name = {path.name: path for path in files}
    for name, path in by_name.items():
        if name != CONFIG:
            shutil.copyfile(path, folder / name)
    if CONFIG in by_name:
        config = read_json(by_name[CONFIG], "save the tokenizer again")
        template = by_name[TEMPLATE].read_text(encoding="utf-8") if TEMPLATE in by_name else None
        text = json.dumps(readable_config(config, template), ensure_ascii=False, indent=2)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def readable_config(config: Mapping[str, Any], template: str | None = None) -> dict[str, Any]:
    """Return a tokenizer_config.json under the names that transformers 4 and 5 both read.

    Version 5 renamed the class, keeps other special tokens as a list `extra_special_tokens` (in version 4
    `additional_special_tokens`; there `extra_special_tokens` is a dict, in version 5 `model_specific_special_tokens`),
    and the chat template has a file of its own, `template`, that llama.cpp's converter does not read in every version.
    """
    found = dict(config)
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = FAST_CLASS
    extra = found.get("extra_special_tokens")
    if isinstance(extra, list) or extra is None:
        found.pop("extra_special_tokens", None)
        others = [*(found.get("additional_special_tokens") or []), *(extra or [])]
        if others:
            found["additional_special_tokens"] = [one for i, one in enumerate(others) if one not in others[:i]]
    named = found.pop("model_specific_special_tokens", None)
    if named:
        found["extra_special_tokens"] = {**found.get("extra_special_tokens", {}), **named}
    if template is not None:
        found.setdefault("chat_template", template)
    found.setdefault("clean_up_tokenization_spaces", False)  # version 5's default; early versions of 4 cleaned up
    return found
