"""What a check is: a call that returns facts, raises Skipped, or fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Row = dict[str, Any]
Check = Callable[[], Mapping[str, Any]]
"""Returns facts. `error` and `bound`: the check has failed unless error <= bound. Raises Skipped with a reason."""


class Skipped(Exception):
    """A check cannot run here; the message says why."""
