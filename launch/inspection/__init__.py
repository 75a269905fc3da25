"""`pdpc inspect`: what is an artifact made of, is it whole, what does a step of an order hold?"""

from launch.inspection.settings import InspectSettings
from launch.inspection.show import run

__all__ = ["InspectSettings", "run"]
