"""The top of the page: model, data, orders, dates; and whether an order moves the mix of sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from curriculum.tokens.tokens import Tokens
from train.report.arms import Arm
from train.report.axes import some
from train.report.measures import short_tokens
from train.report.records import Run
from train.report.views import Exposure

MOST_SOURCES = 6
PARTS = 4
"""Parts of the run between which mixes are compared."""
LEAST_MOVE = 0.02
"""A source whose share changes by less does not move."""
SIGMAS = 4.0
"""Nor does one whose change is within this many standard deviations of a random draw."""


def about(arms: Sequence[Arm], tokens: Tokens | None) -> list[tuple[str, str]]:
    """Return labels and texts: model, data, orders, dates. What the runs do not record is left out."""
    runs = [run for arm in arms for run in arm.runs]
    rows = [
        ("Model", _distinct(_model(run) for run in runs)),
        ("Data", _data(tokens) if tokens is not None else ""),
        ("Training", _distinct(_training(run) for run in runs)),
        ("Orders", some([f"{arm.name}: {text}" for arm in arms if (text := _distinct(map(_order, arm.runs)))])),
        ("Date", _dates(runs)),
    ]
    return [(label, text) for label, text in rows if text]


def mix_sentences(exposures: Mapping[str, Exposure], sources: Sequence[str]) -> list[str]:
    """Return, for each arm, which source's share moves most over the run, or that the mix stays the same."""
    result, still = [], []
    for arm, view in exposures.items():
        if view.sources is None or len(sources) < 2:
            continue
        parts = [part.mean(axis=0) for part in np.array_split(view.sources, PARTS) if len(part)]
        table = np.stack(parts)
        mean = table.mean(axis=0)
        noise = np.sqrt(2 * mean * (1 - mean) / max(1.0, view.content[0] / len(parts)))
        moved = np.ptp(table, axis=0)
        moved = np.where((moved > LEAST_MOVE) & (moved > SIGMAS * noise), moved, 0.0)
        if moved.any():
            most = int(np.argmax(moved))
            shares = ", ".join(f"{100 * share:.0f}" for share in table[:, most])
            result.append(
                f"In {arm} the mix of sources moves with the order: the share of {sources[most]} is {shares}% in the "
                f"{len(parts)} parts of the run. What the arm gains or loses may be due to the mix."
            )
        else:
            still.append(arm)
    if still:
        result.append(f"In {' and '.join(still)} the mix of sources stays the same over the whole run.")
    return result


def _distinct(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(text for text in texts if text))


def _model(run: Run) -> str:
    parameters, model = run.fact("parameters"), run.config.get("model") or {}
    parts = [f"{parameters:,} parameters"] if isinstance(parameters, int) else []
    parts += [f"{model[key]} {word}" for key, word in (("layers", "layers"), ("width", "wide")) if model.get(key)]
    return ", ".join(parts)


def _data(tokens: Tokens) -> str:
    sizes = [len(tokens.samples_of(index)) for index in range(len(tokens.sources))]
    largest = sorted(range(len(sizes)), key=lambda index: (-sizes[index], tokens.sources[index]))
    named = ", ".join(tokens.sources[index] for index in largest[:MOST_SOURCES])
    more = f" and {len(sizes) - MOST_SOURCES} more" if len(sizes) > MOST_SOURCES else ""
    what = f"{short_tokens(tokens.tokens)} tokens in {len(tokens):,} samples of {tokens.seq_len:,}"
    return f"{what}, from {len(sizes)} source{'s' * (len(sizes) != 1)} ({named}{more})"


def _training(run: Run) -> str:
    optimizer = run.config.get("optimizer") or {}
    rate = optimizer.get("lr")
    if not run.steps:
        return ""
    lost = f" ({run.lost.steps:,} without an update)" if run.lost and run.lost.steps else ""
    return f"{run.steps:,} steps{lost}" + (f", learning rate {rate:g}" if isinstance(rate, int | float) else "")


def _order(run: Run) -> str:
    preference = run.fact("arranged", "preference")
    if not isinstance(preference, dict):
        return ""
    parts = [str(preference.get("name"))]
    parts = [f"the {twin} twin of", *parts] if (twin := run.fact("arranged", "twin")) else parts
    parts += [f"{word} {preference[key]}" for key, word in (("score", "by"), ("stratify_by", "within each"))
              if preference.get(key)]  # fmt: skip
    return " ".join(parts)


def _dates(runs: Sequence[Run]) -> str:
    """Return the days on which the attempts of the runs began."""
    days = sorted({str(life.get("started_at", ""))[:10] for run in runs for life in run.fact("lives") or []} - {""})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
