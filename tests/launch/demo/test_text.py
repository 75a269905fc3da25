import ast
import json
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import open_manifest, verify
from curriculum.text.files import find_files
from launch.demo import sources
from launch.demo import text as demo_text
from launch.demo.python_text import module_name, split_module
from launch.demo.sources import Places, read_sources

STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
OWNERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def without_docstrings(text: str) -> str:
    """Return the syntax tree without docstrings, the expected result of cutting them from the text."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, OWNERS) and ast.get_docstring(node, clean=False) is not None:
            rest = node.body[1:]
            node.body = rest if rest or isinstance(node, ast.Module) else [ast.Pass()]
    return ast.dump(tree)


HARD_CASES = '''"""Module
text."""; import os
class Empty: "only a docstring"
class One:
    ("in " "brackets")
    def f(self): """é two; statements""" ; return "kept"  # kept too
    async def g(self):
        r"""raw \\d
        on two lines"""
        def inner():
            """Inner."""
            # a comment stays
            return """not a docstring"""
        return inner
if os:
    def h():
        "first"
        "second is no docstring"
'''


def test_docstrings_leave_the_code_and_keep_their_names() -> None:
    code, docstrings = split_module(HARD_CASES, "pkg.mod")
    assert ast.dump(ast.parse(code)) == without_docstrings(HARD_CASES)
    names = [block.splitlines()[0] for block in docstrings.split("\n\n")]
    assert names == [
        "pkg.mod", "pkg.mod.Empty", "pkg.mod.One", "pkg.mod.One.f", "pkg.mod.One.g", "pkg.mod.One.g.inner", "pkg.mod.h"
    ]  # fmt: skip
    assert "é two; statements" in docstrings
    assert "é two" not in code
    assert "# a comment stays" in code
    assert "# kept too" in code
    assert "second is no docstring" in code


@pytest.mark.parametrize(
    "name", ["argparse", "dataclasses", "decimal", "enum", "typing", "asyncio/tasks", "json/decoder"]
)
def test_docstrings_leave_modules_of_the_standard_library(name: str) -> None:
    text = (STANDARD_LIBRARY / f"{name}.py").read_text("utf-8")
    code, _ = split_module(text, name)
    assert ast.dump(ast.parse(code)) == without_docstrings(text)


def test_text_that_is_not_python_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"pkg\.old does not parse"):
        split_module("print 'python 2'", "pkg.old")


def test_module_names(tmp_path: Path) -> None:
    assert module_name(tmp_path / "json" / "decoder.py", tmp_path) == "json.decoder"
    assert module_name(tmp_path / "json" / "__init__.py", tmp_path) == "json"


def put(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def machine(tmp_path: Path) -> Places:
    """A small machine: a standard library of four modules and two installed packages."""
    long = "\n\n".join(f"def f{i}():\n    return {i} * {i}" for i in range(60))
    lib, packages = tmp_path / "lib", tmp_path / "packages"
    put(lib / "b.py", f'"""{"Docstring. " * 40}"""\n{long}')
    put(lib / "a.py", long + "\nA = 1")
    put(lib / "test" / "a.py", long + "\nNEVER = 1")
    put(lib / "latin.py", b"# \xe9\xff\nx = 1")
    put(lib / "broken.py", "def (:")
    put(lib / "pydoc_data" / "topics.py", "topics = {'with': " + repr("The with statement. " * 30) + "}")
    put(packages / "yaml" / "core.py", long + "\nY = 1")
    put(packages / "yaml" / "tests" / "test_core.py", long + "\nNEVER = 1")
    put(packages / "yaml" / "copy_of_core.py", long + "\nY = 1")
    for name, text in (("PyYAML", "A YAML parser. " * 40), ("pdpc", "Our own README. " * 40)):
        info = packages / f"{name.lower()}-1.0.dist-info"
        put(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n{text}")
        put(info / "licenses" / "LICENSE", "Permission is hereby granted. " * 20 + name)
        put(info / "RECORD", f"{info.name}/METADATA,,\n{info.name}/licenses/LICENSE,,\n../../etc/LICENSE,,\n")
    return Places(lib, packages)


def test_sources_of_a_machine(machine: Places) -> None:
    skipped: Counter[str] = Counter()
    kept = demo_text.arrange_sources(read_sources(machine, skipped), demo_text.BUDGETS, skipped)
    names = {source: [name for name, _ in documents] for source, documents in kept.items()}
    assert names == {
        "help_topics": ["with"],
        "licences": ["pyyaml-1.0.dist-info/licenses/LICENSE"],
        "package_code": ["yaml.copy_of_core"],  # the first of two equal files
        "package_descriptions": ["pyyaml"],
        "stdlib_code": ["a", "b"],
        "stdlib_docstrings": ["b"],
    }
    assert "Docstring." not in dict(kept["stdlib_code"])["b"]
    assert "NEVER" not in json.dumps(kept)
    assert skipped["files that are not UTF-8"] == 1
    assert skipped["files that do not parse"] == 1
    assert skipped["exact duplicates"] == 1
    assert skipped["packages not installed"] == len(sources.PACKAGES) - 1


def test_order_does_not_depend_on_the_file_system(machine: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_sources(machine, Counter())
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: sorted(rglob(self, pattern), reverse=True))
    assert read_sources(machine, Counter()) == before


def test_budget_draws_the_same_documents_from_any_order() -> None:
    documents = [(f"d{i:02}", f"{i} " * 200) for i in range(40)]
    skipped: Counter[str] = Counter()
    kept = demo_text.arrange_sources({"s": documents}, {"s": 6_000}, skipped)["s"]
    again = demo_text.arrange_sources({"s": documents[::-1]}, {"s": 6_000}, Counter())["s"]
    assert kept == again == sorted(kept)
    assert sum(len(text) for _, text in kept) <= 6_000
    assert skipped["documents over the budget"] == 40 - len(kept) > 0
    assert [name for name, _ in kept] != [f"d{i:02}" for i in range(len(kept))]


def test_long_documents_are_cut_at_blank_lines_and_lose_nothing() -> None:
    text = "\n\n".join(f"paragraph {i} " + "word " * 100 for i in range(80)) + "\n"
    pieces = list(demo_text.cut(("long", text)))
    assert [name for name, _ in pieces] == [f"long#{i + 1}" for i in range(len(pieces))]
    assert len(pieces) > 3
    assert all(len(piece) <= demo_text.LONGEST + 1 for _, piece in pieces)
    assert all(piece.startswith("paragraph") for _, piece in pieces)
    assert "".join(piece for _, piece in pieces).split() == text.split()
    assert list(demo_text.cut(("short", "one\n"))) == [("short", "one\n")]
    unbroken = "x" * (demo_text.LONGEST * 2 + 5)
    assert "".join(piece.strip() for _, piece in demo_text.cut(("line", unbroken))) == unbroken


def test_lone_surrogates_and_short_documents_are_counted() -> None:
    skipped: Counter[str] = Counter()
    documents = [("bad", "\udc80" + "text " * 100), ("short", "hi"), ("good", "text " * 100)]
    kept = demo_text.arrange_sources({"s": documents}, {"s": 10_000}, skipped)
    assert [name for name, _ in kept["s"]] == ["good"]
    assert skipped["documents that are not UTF-8"] == 1
    assert skipped["documents too short"] == 1


def test_a_stripped_machine_is_refused(machine: Places) -> None:
    kept = demo_text.arrange_sources(read_sources(machine, Counter()), demo_text.BUDGETS, Counter())
    with pytest.raises(ValueError, match="install a full Python"):
        demo_text.check(kept)


def test_collect_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "text"
    demo_text.collect(folder)
    printed = capsys.readouterr().out
    manifest = open_manifest(folder, "text")
    verify(folder)
    rows = manifest.facts["sources"]
    total = sum(row["bytes"] for row in rows.values())
    assert len(rows) >= 5
    assert 4_000_000 <= total <= 4_800_000
    assert max(row["bytes"] for row in rows.values()) <= 0.45 * total
    texts = set()
    for source, row in rows.items():
        lines = [json.loads(line) for line in (folder / f"{source}.jsonl").read_text("utf-8").split("\n")[:-1]]
        assert {line["source"] for line in lines} == {source}
        assert len({line["id"] for line in lines}) == len(lines) == row["documents"]
        assert sum(len(line["text"].encode()) for line in lines) == row["bytes"]
        assert all(demo_text.SHORTEST <= len(line["text"]) <= demo_text.LONGEST + 1 for line in lines)
        texts.update(line["text"] for line in lines)
        assert source in printed
    assert len(texts) == sum(row["documents"] for row in rows.values())

    assert {file.path.name for file in find_files([str(folder)], [])} == {f"{source}.jsonl" for source in rows}
    written = (folder / "manifest.json").read_bytes()
    demo_text.collect(folder)  # a second call reuses the artifact
    assert (folder / "manifest.json").read_bytes() == written
    assert capsys.readouterr().out == printed
    (folder / "licences.jsonl").write_text("torn")
    with pytest.raises(ArtifactError, match="it is damaged"):
        demo_text.collect(folder)
