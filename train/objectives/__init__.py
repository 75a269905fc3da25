"""What a run minimises: an objective builds micro-batches and computes their loss."""

from train.objectives.objective import Objective, objective_of

__all__ = ["Objective", "objective_of"]
