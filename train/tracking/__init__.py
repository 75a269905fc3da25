"""Tracking: metrics.jsonl is authoritative; W&B and TensorBoard get the same records from background threads."""

from train.records.layout import METRICS
from train.tracking.metrics import MetricsFile, Record, read_metrics
from train.tracking.settings import TrackerSettings
from train.tracking.tracker import NullTracker, Tracker, check_tracker, start_tracker

__all__ = [
    "METRICS",
    "MetricsFile",
    "NullTracker",
    "Record",
    "Tracker",
    "TrackerSettings",
    "check_tracker",
    "read_metrics",
    "start_tracker",
]
