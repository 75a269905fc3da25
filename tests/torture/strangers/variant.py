"""What a variant gets: a folder to start commands in, a canary, and how commands are run there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.torture.forks import ROOT, Forks

LIMIT_S = 120.0


@dataclass(frozen=True)
class Ground:
    """The folders of one case, and the fork server."""

    work: Path
    forks: Forks

    def __post_init__(self) -> None:
        self.here.mkdir(parents=True)
        (self.work / "bin").mkdir()

    @property
    def here(self) -> Path:
        """The folder in which commands start."""
        return self.work / "here"

    @property
    def canary(self) -> Path:
        """The file that a stranger's code writes."""
        return self.work / "canary"

    @property
    def code(self) -> str:
        """Python that writes the canary."""
        return f"open({str(self.canary)!r}, 'a').write('run\\n')\n"

    def program(self, name: str, body: str) -> None:
        """Put a program on the path of commands."""
        path = self.work / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a Python command in `here`: the words after `python`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PDPC_", "WANDB"))}
        known = {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "HOME": str(self.work), "HF_HUB_OFFLINE": "1"}
        known["PATH"] = f"{self.work / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.here,
            env={**inherited, **known, **environment},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def pdpc(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `pdpc` in `here` as its script does, whose own folder is on Python's path."""
        script = self.work / "bin" / "pdpc.py"
        script.write_text("import sys\nfrom launch.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
        return self.run(str(script), *words, **environment)


Variant = Callable[[Ground], str | None]
"""Puts something in place and runs a command; returns what went wrong, apart from the canary."""


def table(*variants: tuple[str, Variant]) -> Mapping[str, Variant]:
    """Return variants by name; no name occurs twice."""
    found = dict(variants)
    assert len(found) == len(variants)
    return found


def not_ended(done: subprocess.CompletedProcess[str], code: int, *words: str) -> str | None:
    """Return how a command did not end as expected: exit code, words in its output, no traceback."""
    told = done.stdout + done.stderr
    lacking = [word for word in words if word not in told]
    if done.returncode != code or lacking or "Traceback" in told:
        return f"ended with {done.returncode}, without {lacking}: {told[-800:]}"
    return None
