"""`pdpc inspect`: what is an artifact made of, is it whole, what does a step of an order hold?"""

from launch.inspect.artifact import run
from launch.inspect.settings import InspectSettings

__all__ = ["InspectSettings", "run"]
