"""Twins are found by the fingerprints of their orders, and their parts are those that were put in."""

from pathlib import Path
from typing import Any

import pytest

from tests.train.report.conftest import answer, records_of, write_run
from train.report import ReportSettings, make
from train.report.arms import arm_of
from train.report.gains import compute
from train.report.page import draw, render
from train.report.records import read_run
from train.report.twins import twins_of

DIRECTION, STRENGTH = -0.06, 0.02
SHIFTS = {"late": STRENGTH + DIRECTION, "early": STRENGTH - DIRECTION, "level": 0.0}
TWINS = {"early": "mirrored", "level": "tied"}
SEEDS = 3


def write(folder: Path, **configs: dict[str, Any]) -> dict[str, list[str]]:
    """Write an order and its twins, all with the same seeds and documents; return the places by arm."""
    places = {}
    for arm, shift in SHIFTS.items():
        places[arm] = [str(folder / f"{arm}-{seed}") for seed in range(SEEDS)]
        for seed, place in enumerate(places[arm]):
            records = records_of(arm, stages=2)
            for record in records:
                for key in [key for key in record if key.endswith("loss")]:
                    record[key] += 0.03 * seed + shift + 0.001 * (seed * len(arm) % 3)
            inputs = {"twin_of": f"late-{seed}"} if arm in TWINS else {}
            arranged = {"inputs": inputs, **({"twin": TWINS[arm]} if arm in TWINS else {})}
            config = {"seed": seed, **configs.get(arm, {})}
            prints = {"order": f"{arm}-{seed}"}
            run = write_run(Path(place), arm, records, seed=seed, arranged=arranged, fingerprints=prints, config=config)
            answer(run, seed)
    return places


def test_direction_and_strength_are_those_that_were_put_in(tmp_path: Path) -> None:
    report = make(ReportSettings(runs=write(tmp_path), baseline="level"))
    (twins,) = report.twins
    assert (twins.order, twins.mirrored, twins.tied) == ("late", "early", "level")
    split = next(split for split in twins.splits if split.measure.key == "val/loss")
    assert split.seeds == SEEDS
    for part, known in ((split.direction, DIRECTION), (split.strength, STRENGTH)):
        assert part.value == pytest.approx(known, abs=0.003)
        assert part.interval is not None
        assert part.interval.low < known < part.interval.high
        assert part.interval.method == "items and seeds"
    page = render(report, draw(report))
    assert "Direction and strength of late" in page
    assert "early = level + strength &minus; direction" in page


def test_what_does_not_belong_together_is_not_split(tmp_path: Path) -> None:
    """A mirrored order of another parent; one that was trained with another schedule; two that both could be meant."""
    for number, (order, config, copies) in enumerate(
        (("other-0", {}, 1), ("", {"schedule": {"name": "wsd"}}, 1), ("", {}, 2))
    ):
        places = write(tmp_path / str(number), early=config)
        arms = [arm_of(arm, [read_run(arm, Path(place)) for place in found]) for arm, found in places.items()]
        if order:
            arms[1].runs[0].info["arranged"]["inputs"]["twin_of"] = order
        arms += [arm_of("again", arms[1].runs)] * (copies - 1)
        assert twins_of(arms, compute(arms, "level")) == []
