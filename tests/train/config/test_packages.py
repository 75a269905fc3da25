"""The lock file matches the installed packages, and a run reports when versions have changed."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from train.config.packages import RECORDED, drift, versions

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


PINNED = {plain(name): pin.strip() for name, pin in LOCKED.items()}


def direct() -> list[str]:
    return sorted({Requirement(line).name for line in (*PROJECT["dependencies"], *EXTRAS["dev"])})


@pytest.mark.parametrize("name", direct())
def test_every_direct_dependency_is_locked_and_installed_as_locked(name):
    assert plain(name) in PINNED, f"constraints.txt does not name {name}"
    found = version(name).partition("+")[0]
    assert found == PINNED[plain(name)], f"{name} {found} is installed, constraints.txt says {PINNED[plain(name)]}"


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *EXTRAS["dev"]])
def test_the_lock_satisfies_the_projects_requirements(line):
    asked = Requirement(line)
    assert asked.specifier.contains(PINNED[plain(asked.name)]), f"{line} does not allow the version in constraints.txt"


def test_indirect_dependencies_are_locked_too():
    missing = []
    for name in direct():
        for line in requires(name) or []:
            needed = Requirement(line)
            if (needed.marker is None or needed.marker.evaluate({"extra": ""})) and plain(needed.name) not in PINNED:
                try:
                    version(needed.name)
                except PackageNotFoundError:
                    continue
                missing.append(f"{needed.name} (of {name})")
    assert [one for one in missing if not one.startswith(("setuptools ", "pip ", "wheel "))] == []


def test_versions_of_the_software_that_computes_a_run():
    assert set(versions()) == {"pdpc", "python", *RECORDED}
    assert versions()["torch"] == version("torch")


@pytest.mark.parametrize("name", ["pdpc", "python", *RECORDED])
def test_drift_names_both_versions(name):
    now = versions()
    assert list(drift(now)) == []
    assert list(drift({**now, name: "0.0.1"})) == [f"{name} was 0.0.1 and is {now[name]} now: last digits may differ"]


def test_versions_that_an_older_run_does_not_record_are_no_drift():
    now = versions()
    del now["transformers"]
    assert list(drift(now)) == []
