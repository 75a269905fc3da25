"""Python source as training text: code without its docstrings, and the docstrings under their qualified names.

Everything is parsed with `ast`; no module is imported and no code is run.
"""

from __future__ import annotations

import ast
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

_Owner = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of the module in file `path` under the import root `root`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def split_module(text: str, name: str) -> tuple[str, str]:
    """Split a module's text into its code without docstrings and its docstrings.

    Returns (code, docstrings). The code parses to the same program without its docstrings (`pass` replaces a docstring
    that was the whole body). The docstrings are one text in source order: qualified name, then the cleaned docstring.
    Raises ValueError for text that is not Python (SyntaxError, null bytes).
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in third-party code are not our concern
        try:
            tree = ast.parse(text)
        except (SyntaxError, RecursionError) as error:
            raise ValueError(f"{name} does not parse as Python ({error}): leave it out") from error
    found = list(_owners(tree, name))
    docstrings = "\n\n".join(f"{qualified}\n{ast.get_docstring(owner)}" for qualified, owner in found)
    return _without(text, [owner for _, owner in found]), docstrings


def _owners(node: ast.AST, qualified: str) -> Iterator[tuple[str, _Owner]]:
    """Yield (qualified name, node) for everything under `node` that has a docstring, in source order."""
    if isinstance(node, _Owner) and ast.get_docstring(node, clean=False) is not None:
        yield qualified, node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _owners(child, f"{qualified}.{child.name}")
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _owners(child, qualified)


def _without(text: str, owners: list[_Owner]) -> str:
    data = text.encode()  # `ast` columns count UTF-8 bytes
    starts = [0, *itertools.accumulate(len(line) + 1 for line in data.split(b"\n"))]
    for owner in reversed(owners):
        node = owner.body[0]
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        if len(owner.body) == 1 and not isinstance(owner, ast.Module):
            data = data[:begin] + b"pass" + data[end:]
            continue
        end = _skip_semicolon(data, end)
        line = starts[node.lineno - 1]
        if not data[line:begin].strip() and data[end : end + 1] in (b"\n", b""):
            begin, end = line, end + 1
        data = data[:begin] + data[end:]
    return data.decode()


def _skip_semicolon(data: bytes, end: int) -> int:
    """Return the start of the statement after a docstring, or the end of its line."""
    rest = data[end:].split(b"\n", 1)[0]
    bare = rest.lstrip(b" \t")
    if bare.startswith(b";"):
        bare = bare[1:].lstrip(b" \t")
    return end + len(rest) - len(bare)
