"""Sources of the demo's text: Python's standard library and the installed packages.

Nothing is imported or run: code is parsed with `ast`, help topics are read as a literal, packages through metadata.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import Distribution, distributions
from pathlib import Path

from launch.demo.python_text import module_name, split_module

PACKAGES = (
    "accelerate", "datasets", "deepspeed", "fsspec", "huggingface_hub", "hydra", "jinja2", "lm_eval", "matplotlib",
    "networkx", "numpy", "omegaconf", "pandas", "sympy", "torch", "transformers", "wandb", "yaml",
)  # fmt: skip
PACKAGE_CODE_BYTES = 330_000
"""Maximum bytes of source files per package."""

SKIPPED_FOLDERS = {"test", "tests", "testing", "idle_test", "__pycache__", "site-packages", "dist-packages"}
SKIPPED_STDLIB = {"encodings", "lib2to3", "pydoc_data", "turtledemo"}  # code tables, a grammar's copies, help topics
TEST_FILE = re.compile(r"(test_.*|.*_test|conftest)\.py")
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|authors|copyright)", re.IGNORECASE)
NOT_A_TEXT = {".py", ".pyi", ".pyc", ".json", ".html", ".so"}
OWN_PACKAGE = "pdpc"  # left out: its README changes between commits, and the text must not

Document = tuple[str, str]
"""(id, text)"""


@dataclass(frozen=True)
class Places:
    """The two import roots that the text is read from."""

    standard_library: Path
    packages: Path

    @classmethod
    def of_this_python(cls) -> Places:
        """Return the import roots of the running interpreter."""
        paths = sysconfig.get_paths()
        return cls(Path(paths["stdlib"]), Path(paths["purelib"]))


def read_sources(places: Places, skipped: Counter[str]) -> dict[str, list[Document]]:
    """Read every source of `places`: documents sorted by name; skipped files are counted by reason."""
    files = sorted(python_files(places.standard_library, SKIPPED_STDLIB))
    code, docstrings = read_modules(files, places.standard_library, skipped)
    package_files = [file for name in PACKAGES for file in chosen_files(places.packages, name, skipped)]
    package_code, package_docstrings = read_modules(package_files, places.packages, skipped)
    installed = installed_packages(places.packages, skipped)
    return {
        "help_topics": list(help_topics(places.standard_library / "pydoc_data" / "topics.py")),
        "licences": list(licences(installed, skipped)),
        "package_code": package_code,
        "package_descriptions": list(descriptions(installed)),
        "package_docstrings": package_docstrings,
        "stdlib_code": code,
        "stdlib_docstrings": docstrings,
    }


def python_files(root: Path, leave_out: Iterable[str] = ()) -> Iterator[Path]:
    """Yield the .py files under `root` that are not tests, in no particular order."""
    left_out = SKIPPED_FOLDERS | set(leave_out)
    for path in root.rglob("*.py"):
        if left_out.isdisjoint(path.relative_to(root).parts[:-1]) and not TEST_FILE.fullmatch(path.name):
            yield path


def chosen_files(packages: Path, name: str, skipped: Counter[str]) -> list[Path]:
    """Return files of one package, drawn by a hash of their names up to PACKAGE_CODE_BYTES, sorted."""
    files = sorted(python_files(packages / name), key=lambda path: rank(path.relative_to(packages).as_posix()))
    if not files:
        skipped["packages not installed"] += 1
    chosen, size = [], 0
    for path in files:
        size += path.stat().st_size
        if size > PACKAGE_CODE_BYTES:
            break
        chosen.append(path)
    return sorted(chosen)


def read_modules(files: list[Path], root: Path, skipped: Counter[str]) -> tuple[list[Document], list[Document]]:
    """Return the code and the docstrings of Python files, one document of each per module."""
    code, docstrings = [], []
    for path in files:
        text = read_text(path, skipped)
        if text is None:
            continue
        name = module_name(path, root)
        try:
            one_code, one_docstrings = split_module(text, name)
        except ValueError:
            skipped["files that do not parse"] += 1
            continue
        code.append((name, one_code))
        docstrings.append((name, one_docstrings))
    return code, docstrings


def read_text(path: Path, skipped: Counter[str]) -> str | None:
    """Return a file's text with LF newlines; None, and counted, if it cannot be read or is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except OSError:
        skipped["files that cannot be read"] += 1
    except UnicodeDecodeError:
        skipped["files that are not UTF-8"] += 1
    return None


def help_topics(path: Path) -> Iterator[Document]:
    """Yield Python's built-in help topics from the literal in pydoc_data/topics.py; nothing if it is absent."""
    if not path.is_file():
        return
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from sorted(ast.literal_eval(node.value).items())


def installed_packages(packages: Path, skipped: Counter[str]) -> dict[str, Distribution]:
    """Return the packages installed in a folder by name, sorted, without this project's package."""
    found = {}
    for one in distributions(path=[str(packages)]):
        try:
            name = one.metadata["Name"]
        except UnicodeDecodeError:
            skipped["files that are not UTF-8"] += 1
            continue
        if name is None:
            skipped["packages without a name"] += 1
        elif name.lower() != OWN_PACKAGE:
            found[name.lower()] = one
    return dict(sorted(found.items()))


def descriptions(installed: Mapping[str, Distribution]) -> Iterator[Document]:
    """Yield the long description of each installed package."""
    for name, one in installed.items():
        body = one.metadata.get_payload() or one.metadata["Description"]  # type: ignore[attr-defined]
        yield name, str(body or "")


def licences(installed: Mapping[str, Distribution], skipped: Counter[str]) -> Iterator[Document]:
    """Yield the license, notice and authors files listed by the installed packages."""
    for one in installed.values():
        for file in sorted(one.files or [], key=str):
            if ".." in file.parts or file.suffix in NOT_A_TEXT or not LICENCE_FILE.match(file.name):
                continue
            text = read_text(Path(str(one.locate_file(file))), skipped)
            if text is not None:
                yield file.as_posix(), text


def rank(name: str) -> bytes:
    """Return the sort key for drawing documents and files: a hash of the name, the same on every machine."""
    return blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
