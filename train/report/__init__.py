"""Comparison of arms: a self-contained HTML page, a table on the terminal, and the numbers as JSON and CSV.

from train.report import ReportSettings, run
run(ReportSettings(runs={"shuffled": "runs/shuffled", "pdpc": "runs/pdpc"}))
"""

from train.report.contents import Report
from train.report.making import make, run
from train.report.settings import ReportSettings

__all__ = ["Report", "ReportSettings", "make", "run"]
