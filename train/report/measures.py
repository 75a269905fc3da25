"""The measures in a stage record: labels, groups, direction, and number formatting."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from train.report.records import Record, finite

GROUPS = {
    "held-out": "Held-out loss",
    "source": "Held-out loss by source",
    "benchmark": "Benchmarks",
}
MINUS = "\u2212"
_LABELS = {
    "val/loss": "All held-out text",
    "val/low_pd/loss": "Low-PD half",
    "val/high_pd/loss": "High-PD half",
    "val/bits_per_byte": "All held-out text, bits per byte",
    "val/low_pd/bits_per_byte": "Low-PD half, bits per byte",
    "val/high_pd/bits_per_byte": "High-PD half, bits per byte",
    "bench/avg": "Benchmark average",
}
HEADLINES = ("acc_norm", "acc", "exact_match", "em", "f1")
"""`bench/avg` uses the first of these metrics that a task has, as in train/evaluation/harness/benchmarks.py."""
_RESOLUTION = {"nats": 5e-5, "bits": 5e-5, "share": 5e-4, "number": 5e-5}
_WORDS = {"nats": "nats per token", "bits": "bits per byte", "share": "percentage points", "number": ""}
_LOWER_IS_BETTER = ("loss", "ppl", "perplexity", "bits_per_byte", "brier", "brier_score", "error_rate")
"""Ends of the names of metrics, without a filter."""
_LOWER_TOO = ("ter", "wer", "cer", "mse", "rmse", "mae", "likelihood_diff", "pct_stereotype", "toxicity")
"""Whole names, without a filter."""
_SHARES = ("acc", "exact_match", "em", "f1", "avg", "pass@", "score")


@dataclass(frozen=True)
class Measure:
    """One number in a stage record."""

    key: str
    """Key in metrics.jsonl."""
    label: str
    """Name shown to the reader."""
    group: str
    """A key of GROUPS."""
    unit: str
    """`nats` (per token), `bits` (per byte), `share` (0 to 1, written in percent) or `number`."""
    lower_is_better: bool

    @property
    def words(self) -> str:
        """The unit of a difference, in words."""
        return _WORDS[self.unit]

    @property
    def resolution(self) -> float:
        """Differences below this are not visible in the written numbers and count as zero."""
        return _RESOLUTION[self.unit]

    def write(self, value: float | None) -> str:
        """Format a value; None becomes an em dash."""
        if value is None:
            return "\u2014"
        if self.unit == "share":
            return f"{100 * value:.1f}%".replace("-", MINUS)
        return f"{value:.4f}".replace("-", MINUS)

    def write_difference(self, value: float | None) -> str:
        """Format a signed difference: nats, percentage points or the number itself."""
        if value is None:
            return "\u2014"
        text = f"{100 * value:+.1f} pt" if self.unit == "share" else f"{value:+.4f}"
        return _unsigned_zero(text).replace("-", MINUS)

    def write_interval(self, low: float | None, high: float | None) -> str:
        """Format both ends of the interval of a difference; empty without an interval."""
        if low is None or high is None:
            return ""
        scale, digits = (100, 1) if self.unit == "share" else (1, 4)
        ends = [_unsigned_zero(f"{scale * value:+.{digits}f}").replace("-", MINUS) for value in (low, high)]
        return f"{ends[0]} to {ends[1]}"


def measures_of(records: Iterable[Record]) -> list[Measure]:
    """Return every measure in the stage records: held-out losses first, then sources and benchmarks by name.

    A failed benchmark (`bench/<task>/error`) is also a measure, with an error message instead of a value.
    """
    keys: set[str] = set()
    for record in records:
        for key in record:
            measured = key.startswith(("val/", "bench/")) and not key.endswith("_stderr")
            if measured and finite(record, key) is not None:
                keys.add(key)
    failed = {key for record in records for key in record if key.startswith("bench/") and key.endswith("/error")}
    for key in failed:
        task = key.removesuffix("/error")
        if not any(known.rsplit("/", 1)[0] == task for known in keys):
            keys.add(f"{task}/acc")
    return sorted((_measure(key) for key in keys), key=_rank)


def short_tokens(tokens: float) -> str:
    """Format a number of tokens: 950, 81.9k, 4.19M, 1.00B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            digits = 2 - min(2, int(math.log10(tokens / size)))
            return f"{tokens / size:.{digits}f}{letter}"
    return f"{tokens:.0f}"


def _measure(key: str) -> Measure:
    parts = key.split("/")
    if key.startswith("val/source/"):
        name = "/".join(parts[2:-1])
        label = {"loss": name, "bits_per_byte": f"{name}, bits per byte"}.get(parts[-1], f"{name} ({parts[-1]})")
        return Measure(key, label, "source", _unit(parts[-1]), True)
    group = "benchmark" if parts[0] == "bench" else "held-out"
    label = _LABELS.get(key) or _label(parts)
    metric = parts[-1].split(",")[0].split(".")[0]
    return Measure(key, label, group, _unit(parts[-1]), metric.endswith(_LOWER_IS_BETTER) or metric in _LOWER_TOO)


def _label(parts: list[str]) -> str:
    if parts[0] == "bench" and len(parts) > 2:
        return f"{'/'.join(parts[1:-1])} ({parts[-1].removesuffix(',none')})"
    return " ".join(parts[1:]).replace("_", " ")


def _unit(name: str) -> str:
    if name.endswith("loss"):
        return "nats"
    if name == "bits_per_byte":
        return "bits"
    return "share" if name.startswith(_SHARES) else "number"


def _rank(measure: Measure) -> tuple[int, int, str]:
    known = list(_LABELS)
    place = known.index(measure.key) if measure.key in known else len(known)
    return list(GROUPS).index(measure.group), place, measure.key


def _unsigned_zero(text: str) -> str:
    """Write +0.0000 and -0.0000 as 0.0000."""
    return text[1:] if not any(letter in "123456789" for letter in text) else text
