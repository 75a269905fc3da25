"""`pdpc inspect`: provenance and integrity of any artifact; plan and steps of an order."""

from launch.inspect.artifact import run
from launch.inspect.settings import InspectSettings

__all__ = ["InspectSettings", "run"]
