"""The config groups: folders of YAML files in `configs/`, one file per option."""

from __future__ import annotations

from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
"""The folder of YAML groups in the checkout."""


def file_of(verb: str) -> str:
    """Return the name, without its extension, of the file in `configs/` with a verb's defaults."""
    return verb.replace(" ", "_")


def groups_of(verb: str) -> dict[str, tuple[str, list[str]]]:
    """Return, by name, the config groups of a verb: the default and all files of `configs/GROUP`."""
    from yaml import safe_load

    listed = safe_load((CONFIGS / f"{file_of(verb)}.yaml").read_text("utf-8")).get("defaults", [])
    return {
        group: (str(option or "null"), options_of(group))
        for entry in listed
        if isinstance(entry, dict)
        for group, option in entry.items()
        if options_of(group)
    }


def options_of(group: str) -> list[str]:
    """Return the names of a group's files in `configs/`; [] if there is no such group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
