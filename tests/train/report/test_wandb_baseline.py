"""A run in W&B as the baseline: its records are used, and what W&B does not store is reported as unknown."""

import json
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from train.report import ReportSettings, make, page

SPEC = "wandb:entity/project/1a2b3c"


@dataclass(frozen=True)
class WandbRecords:
    name: str
    config: dict[str, Any]
    records: list[dict[str, Any]]


@pytest.fixture
def wandb_holds(monkeypatch, metrics):
    """Put a run into a fake W&B: wandb_holds(**config)."""

    def build(**config):
        module = ModuleType("train.report.wandb.read")

        def read_wandb_run(spec):
            if spec != SPEC:
                raise ValueError(f"{spec} is not in W&B")
            base = {"arm": "shuffled", "seed": 1, "optimizer": {"lr": 1e-3}, "tokens": "a" * 32, "order": "o" * 32}
            return WandbRecords("shuffled", base | config, metrics("shuffled"))

        module.read_wandb_run = read_wandb_run
        monkeypatch.setitem(sys.modules, "train.report.wandb.read", module)

    return build


def test_a_run_in_wandb_is_a_baseline_like_any_other(wandb_holds, make_run):
    wandb_holds()
    report = make(ReportSettings(runs={"shuffled": SPEC, "pdpc": str(make_run("pdpc"))}))
    cell = report.gains.final("pdpc", report.gains.headline_measure())
    assert cell.difference == pytest.approx(0.1)
    assert cell.verdict == "no error bar"
    assert report.gains.cells["bench/echo/acc"][-1]["pdpc"].gain.method == "standard errors"
    assert report.headlines[0].startswith(
        "After 4.00k tokens (1 seed each), pdpc is 0.1000 nats per token (2.5%) above shuffled"
    )
    (run,) = report.arms[0].runs
    assert (run.seed, str(run.folder), run.fact("fingerprints", "tokens")) == (1, SPEC, "a" * 32)


def test_the_page_says_what_is_unknown_about_it(wandb_holds, make_run):
    wandb_holds()
    report = make(ReportSettings(runs={"shuffled": SPEC, "pdpc": str(make_run("pdpc"))}))
    html = page.render(report, page.draw(report))
    assert f"shuffled: read from W&amp;B ({SPEC}): its per-item answers, order, scores and tokens are unknown" in html
    assert "shuffled was read from W&amp;B, which records no order." in html
    assert "For shuffled, only the settings stored in W&amp;B are compared." in html


def test_only_settings_stored_in_wandb_are_compared(wandb_holds, make_run):
    wandb_holds(optimizer={"lr": 2e-3})
    report = make(ReportSettings(runs={"shuffled": SPEC, "pdpc": str(make_run("pdpc"))}))
    unfair = [difference.what for difference in report.differences if difference.kind == "unfair"]
    assert unfair == ["optimizer.lr"]


def test_a_wrong_address_is_a_one_line_error(wandb_holds, make_run):
    wandb_holds()
    with pytest.raises(ValueError, match="wandb:entity/project/other is not in W&B"):
        make(ReportSettings(runs={"shuffled": "wandb:entity/project/other", "pdpc": str(make_run("pdpc"))}))


def test_the_numbers_of_a_wandb_baseline_are_written(wandb_holds, make_run):
    from train.report import writing

    wandb_holds()
    report = make(ReportSettings(runs={"shuffled": SPEC, "pdpc": str(make_run("pdpc"))}))
    value = json.loads(writing.as_json(report))
    assert value["places"]["shuffled"] == SPEC
    assert "method,paired_seeds" in writing.as_csv(report).splitlines()[0]
