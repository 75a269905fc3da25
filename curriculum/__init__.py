"""Which sample does the model see when? Tokens, scores, preference, plan, order, sampler."""

from curriculum.arrange.plan import plan
from curriculum.order.order import Order
from curriculum.order.sampler import CurriculumSampler
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens

__all__ = ["CurriculumSampler", "Order", "Scores", "Tokens", "plan"]
