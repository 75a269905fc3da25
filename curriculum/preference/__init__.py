"""Preferences: how much is each bucket of the corpus wanted at each moment of training?"""

from curriculum.preference.base import FOLD, SOURCE, Cut, Preference, Shuffled
from curriculum.preference.by_score import Frame, Linear, Pdpc, Sorted, Tilt, TwoStage
from curriculum.preference.by_share import Mixture, Table

PREFERENCES: dict[str, type[Preference]] = {
    "shuffled": Shuffled,
    "sorted": Sorted,
    "tilt": Tilt,
    "pdpc": Pdpc,
    "linear": Linear,
    "two_stage": TwoStage,
    "frame": Frame,
    "mixture": Mixture,
    "table": Table,
}
"""The preferences that a config may choose from, by name."""

__all__ = [
    "FOLD",
    "PREFERENCES",
    "SOURCE",
    "Cut",
    "Frame",
    "Linear",
    "Mixture",
    "Pdpc",
    "Preference",
    "Shuffled",
    "Sorted",
    "Table",
    "Tilt",
    "TwoStage",
]
