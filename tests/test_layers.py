"""Imports run down: launch, train, curriculum, models; and no file imports itself by way of others."""

import ast
import subprocess
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = ("models", "curriculum", "train", "launch")


def modules():
    """Return the path of every module of the product, by dotted name."""
    paths = [path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def written(path):
    """Return the imports in a file, anywhere in it: (module, name), or (module, None) for `import module`."""
    pairs = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            pairs |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            pairs |= {(alias.name, None) for alias in node.names}
    return pairs


def imported(path, known):
    """Return the modules of the product that a file imports: late and for types only too."""
    names = {full if name and (full := f"{module}.{name}") in known else module for module, name in written(path)}
    return names & set(known)


def test_imports_run_down_and_not_in_circles():
    known = modules()
    graph = {name: imported(path, known) for name, path in known.items()}
    assert len(graph) > 250
    up = [
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in targets
        if LAYERS.index(target.split(".")[0]) > LAYERS.index(name.split(".")[0])
    ]
    assert up == []
    faces = {name for name, path in known.items() if path.name == "__init__.py"}
    files = {name: targets - faces for name, targets in graph.items() if name not in faces}
    assert len(list(TopologicalSorter(files).static_order())) >= len(files)  # CycleError names a circle


def folders(known, inside):
    """Return which children of a folder import which others: files of it and folders below it."""
    graph = {}
    prefix = f"{inside}."
    for name, path in known.items():
        if not name.startswith(prefix) or path.name == "__init__.py":
            continue
        child = name.removeprefix(prefix).split(".")[0]
        others = {
            other.removeprefix(prefix).split(".")[0] for other in imported(path, known) if other.startswith(prefix)
        }
        graph.setdefault(child, set()).update(others - {child})
    return graph


def test_folders_do_not_import_each_other_in_circles():
    known = modules()
    for inside in [*LAYERS, *sorted({name.rpartition(".")[0] for name in known if name.count(".") > 1})]:
        graph = folders(known, inside)
        assert set(TopologicalSorter(graph).static_order()) >= set(graph)  # CycleError names a circle


def test_every_package_is_found_by_the_build():
    listed = subprocess.run(
        ["git", "ls-files", "--", *(f"{layer}/*.py" for layer in LAYERS)], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    missing = {str(Path(name).parent) for name in listed if not (ROOT / name).with_name("__init__.py").exists()}
    assert missing == set()
