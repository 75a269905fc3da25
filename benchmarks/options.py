"""Command-line options shared by the benchmarks: sizes, rounds, seed, data folder, and whether to keep the result."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the shared options; `doc`, the module's docstring, is its help."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=size, default=5, help="how often each side is measured, in turn (default 5)")
    made.add_argument("--seed", type=int, default=0, help="seed of the data and of every shuffle (default 0)")
    made.add_argument("--keep", action="store_true", help="write the result to the folder tracked by git")
    made.add_argument("--work", type=Path, help="folder for data, kept for later runs (default: temporary)")
    return made


def add_sizes(made: argparse.ArgumentParser, sizes: Mapping[str, tuple[int, str]]) -> None:
    """Add an option for each size, given as its name, default and meaning."""
    for name, (default, meaning) in sizes.items():
        option = f"--{name.replace('_', '-')}"
        made.add_argument(option, type=size, default=default, help=f"{meaning} (default {default})")


def size(text: str) -> int:
    """Parse a positive integer: 1000000, 1_000_000 or 1e6. Raises argparse's error for anything else."""
    try:
        value = float(text) if "e" in text.lower() else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: use 1000000 or 1e6") from None
    if not 1 <= value < 2**53 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at least 1")
    return int(value)


@contextmanager
def work_folder(chosen: Path | None) -> Iterator[Path]:
    """Yield the folder for data: the given one, or a temporary one that is removed afterwards."""
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
        return
    with tempfile.TemporaryDirectory(prefix="pdpc-benchmark-") as folder:
        yield Path(folder)


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that a result records: all except where the data and the result are written."""
    return {name: value for name, value in vars(options).items() if name not in ("keep", "work")}


def say(line: str) -> None:
    """Print a progress line to stderr."""
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
