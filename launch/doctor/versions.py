"""Are the installed packages those that PDPC needs, and do they fit each other?"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from launch.doctor.check import Finding, Subject, failure, ok, refused, warning
from train.config.safe_path import HOME

OPTIONAL = {"flash-attn": "flash_attn", "liger-kernel": "liger_kernel"}
"""Optional packages with compiled parts, and the module of each."""


def packages(_subject: Subject) -> Iterator[Finding]:
    """Compare every installed package with PDPC's requirement on it."""
    bad = 0
    wanted = _requirements()
    for requirement, extra in wanted:
        found = _installed(requirement.name)
        if found is None and extra is None:
            bad += 1
            yield failure("is not installed", f"pip install '{_plain(requirement)}'", requirement.name)
        elif found is not None and not requirement.specifier.contains(found, prereleases=True):
            bad += 1
            what = f"{found} is installed, but PDPC requires {requirement.specifier}"
            say = failure if extra is None else warning
            yield say(what, f"pip install '{_plain(requirement)}'", requirement.name)
    if not bad:
        yield ok(f"{sum(extra is None for _, extra in wanted)} required packages have the versions that PDPC requires")


def tested(_subject: Subject) -> Iterator[Finding]:
    """Compare PDPC's direct requirements, triton and Liger with constraints.txt."""
    path = Path(HOME) / "constraints.txt"
    if not path.is_file():
        return
    lines = [one.strip() for one in path.read_text("utf-8").splitlines() if "==" in one and not one.startswith("#")]
    pinned = {_canonical(name): pin for name, _, pin in (one.partition("==") for one in lines)}
    names = {_canonical(requirement.name) for requirement, extra in _requirements() if extra in (None, "gpu")}
    other = []
    for name in sorted((names | {"triton"}) & pinned.keys()):
        found = _installed(name)
        if found is not None and Version(found).public != Version(pinned[name]).public:
            other.append(f"{name} {found} ({pinned[name]})")
    if other:
        yield warning(
            f"other versions than those that PDPC was tested with: {', '.join(other)}",
            f"pip install -c {path} {' '.join(one.split()[0] for one in other)}, or run the tests with these",
        )
    else:
        yield ok("as in constraints.txt")


def torch(_subject: Subject) -> Iterator[Finding]:
    """Compare triton and NCCL with what torch's own package requires, and import torch."""
    import torch as library

    needs = {_canonical(one.name): one for one in map(Requirement, requires("torch") or [])}
    for name in ("triton", *(one for one in needs if one.startswith("nvidia-nccl"))):
        found, need = _installed(name), needs.get(name)
        if found and need and not need.specifier.contains(found, prereleases=True):
            yield failure(
                f"{name} {found} is installed, but torch {version('torch')} requires {need.specifier}",
                f"pip install '{_plain(need)}'",
                name,
            )
    if library.__version__.partition("+")[0] != version("torch").partition("+")[0]:
        yield failure(
            f"import torch loads {library.__version__} from {Path(library.__file__).parent}, pip lists "
            f"{version('torch')}",
            "remove one of the two installations, or the folder from PYTHONPATH",
        )
    cuda = library.version.cuda
    nccl = ".".join(map(str, library.cuda.nccl.version())) if cuda and library.distributed.is_nccl_available() else None
    built = f"CUDA {cuda}, NCCL {nccl}" if cuda else "the CPU"
    yield ok(f"torch {library.__version__}, built for {built}")


def deepspeed(subject: Subject) -> Iterator[Finding]:
    """Look up every internal of DeepSpeed in the table (train/engine/patches.py) that these settings use."""
    from train.engine.communication import load
    from train.engine.patches import UnknownDeepSpeed, applying, check

    rows = applying(subject.settings)
    try:
        load()
        check(rows)
    except UnknownDeepSpeed as error:
        yield failure(*_split(str(error)))
        return
    zero, precision = subject.settings.zero.stage, subject.settings.precision
    yield ok(f"DeepSpeed {version('deepspeed')} has all {len(rows)} internals that ZeRO {zero} in {precision} uses")


def kernels(subject: Subject) -> Iterator[Finding]:
    """Load the optional packages that are installed, and choose as the run will."""
    import torch as library

    from models.kernels import check
    from train.backends import chosen_backends

    cuda = library.cuda.is_available()
    for name, module in OPTIONAL.items():
        if _installed(name) is None or (module == "liger_kernel" and not cuda):
            continue
        try:
            import_module(module)
        except Exception as error:  # an extension built for another torch raises ImportError, OSError or RuntimeError
            what = " ".join(str(error).split())
            yield failure(
                f"{name} {_installed(name)} does not load with torch {library.__version__} ({what})",
                f"reinstall it for this torch (pip install --no-build-isolation --force-reinstall {name}), or remove",
                name,
            )
    try:
        check(subject.settings.execution.kernels, cuda=cuda)
        for chosen in chosen_backends(subject.settings):
            yield ok(chosen.partition(": ")[2], chosen.partition(": ")[0])
    except ValueError as error:
        yield refused(error)


def _requirements() -> list[tuple[Requirement, str | None]]:
    """Return PDPC's requirements, each with its extra; those of the checkout, or else of the installed package."""
    path = Path(HOME) / "pyproject.toml"
    if path.is_file():
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        found = [(Requirement(one), None) for one in project["dependencies"]]
        return found + [
            (Requirement(one), extra) for extra, some in project["optional-dependencies"].items() for one in some
        ]
    made = []
    for one in map(Requirement, requires("pdpc") or []):
        extra = re.search(r"extra == ['\"](\w+)['\"]", str(one.marker or ""))
        made.append((one, extra.group(1) if extra else None))
    return made


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _plain(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _split(text: str) -> tuple[str, str]:
    """Return what an error says and its remedy, which follows the last colon."""
    what, _, remedy = text.rpartition(": ")
    return what, remedy
