"""What a run minimises: an objective makes micro-batches of samples and says what they cost."""

from train.objectives.objective import Objective, objective_of

__all__ = ["Objective", "objective_of"]
