"""Score expressions: arithmetic over sample columns in a small grammar. No code is executed.

    pd        loss_weak - loss_strong        (loss_weak - loss_strong) / loss_weak        log(length) * ppl_strong

Numbers, column names, + - * / **, parentheses, and the functions in FUNCTIONS. Python's parser turns the text into a
tree in which only these nodes are accepted; the tree is then evaluated over float32 columns.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float32]

FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "exp": (np.exp, 1),
    "log": (np.log, 1),
    "sqrt": (np.sqrt, 1),
    "abs": (np.abs, 1),
    "minimum": (np.minimum, 2),
    "maximum": (np.maximum, 2),
}
"""By name: the function, and its number of arguments."""

OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}

LARGEST = float(np.finfo(np.float32).max)
LONGEST_TEXT = 500
DEEPEST = 100
"""Largest nesting depth."""


class Expression:
    """A parsed expression. `names` are the columns it needs, in order of appearance."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > LONGEST_TEXT:
            raise ValueError(
                f"score {text[:40]!r}... has {len(text)} characters, at most {LONGEST_TEXT} are allowed: shorten it"
            )
        try:
            self._root = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(
                f"score {text!r} cannot be parsed ({error}): write arithmetic over column names"
            ) from error
        names: dict[str, None] = {}
        self._check(self._root, names, 0)
        self.names = list(names)
        if not self.names:
            raise ValueError(f"score {text!r} uses no column and would be the same for every sample: add a column name")

    def __call__(self, columns: Mapping[str, Column]) -> Column:
        """Return the score of every sample, float32 [n], from columns [n]; divisions by zero give inf or nan."""
        with np.errstate(all="ignore"):
            return np.asarray(self._value(self._root, columns)).astype(np.float32, copy=False)

    def _check(self, node: ast.expr, names: dict[str, None], depth: int) -> None:
        if depth > DEEPEST:
            raise ValueError(f"score {self.text[:40]!r}... is nested more than {DEEPEST} levels deep: simplify it")
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return
            case ast.Name(id=name):
                names.setdefault(name)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                self._check(operand, names, depth + 1)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                self._check(left, names, depth + 1)
                self._check(right, names, depth + 1)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                if len(arguments) != FUNCTIONS[name][1]:
                    raise ValueError(
                        f"score {self.text!r}: {name} takes {FUNCTIONS[name][1]} argument(s), not {len(arguments)}"
                    )
                for argument in arguments:
                    self._check(argument, names, depth + 1)
            case _:
                wrong = ast.get_source_segment(self.text.strip(), node) or ""
                raise ValueError(
                    f"score {self.text!r}: {wrong!r} is not in the grammar: use column names, numbers, "
                    f"+ - * / **, parentheses and {', '.join(FUNCTIONS)}"
                )

    def _value(self, node: ast.expr, columns: Mapping[str, Column]) -> Any:
        match node:
            case ast.Constant(value=int() | float() as value):
                return np.float32(value if abs(value) <= LARGEST else np.inf)
            case ast.Name(id=name):
                return columns[name]
            case ast.UnaryOp(op=op, operand=operand):
                value = self._value(operand, columns)
                return -value if isinstance(op, ast.USub) else value
            case ast.BinOp(left=left, op=op, right=right):
                return OPERATORS[type(op)](self._value(left, columns), self._value(right, columns))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return FUNCTIONS[name][0](*(self._value(argument, columns) for argument in arguments))
        raise AssertionError(f"{ast.dump(node)} passed the check")
