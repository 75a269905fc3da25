"""Settings of a training run, composed once per process for the same words: Hydra takes a quarter of a second."""

from functools import cache

from train.config.compose import compose
from train.settings import TrainSettings

NEEDED = ("output=o", "arm=a", "data.tokens=t", "data.order=o")
"""Words without which nothing is composed."""


@cache
def train_settings(*words: str) -> TrainSettings:
    return compose("train", TrainSettings, list(words))
