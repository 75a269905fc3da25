"""Which sample does the model see when? Tokens, scores, preference, plan, order, sampler."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curriculum.arrange.plan import plan
    from curriculum.order.order import Order
    from curriculum.order.sampler import CurriculumSampler
    from curriculum.scores.scores import Scores
    from curriculum.tokens.tokens import Tokens

_HOMES = {
    "CurriculumSampler": "curriculum.order.sampler",
    "Order": "curriculum.order.order",
    "Scores": "curriculum.scores.scores",
    "Tokens": "curriculum.tokens.tokens",
    "plan": "curriculum.arrange.plan",
}

__all__ = ["CurriculumSampler", "Order", "Scores", "Tokens", "plan"]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562): who needs only batches loads only `curriculum.order`."""
    if name not in _HOMES:
        raise AttributeError(f"module 'curriculum' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
