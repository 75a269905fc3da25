"""Which sample does the model see when? Tokens, scores, preference, plan, order, sampler."""

from curriculum.order import Order
from curriculum.plan import plan
from curriculum.sampler import CurriculumSampler
from curriculum.scores import Scores
from curriculum.tokens import Tokens

__all__ = ["CurriculumSampler", "Order", "Scores", "Tokens", "plan"]
