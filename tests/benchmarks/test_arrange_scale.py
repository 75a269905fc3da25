"""The benchmark without peers runs from end to end at a small size."""

import json
from pathlib import Path

import pytest

from benchmarks import arrange_scale, report


def test_arrange_scale_checks_all_its_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrange_scale, "finish", lambda result, keep: report.finish(result, keep=keep, folder=tmp_path))
    sizes = ["--samples", "20000", "--small", "2000", "--batch-size", "64", "--rounds", "1", "--opens", "2"]
    arrange_scale.main([*sizes, "--work", str(tmp_path / "work")])
    found = json.loads((tmp_path / "arrange_scale.json").read_text("utf-8"))
    assert [check["target"] for check in found["checks"]] == [2.0, 2048.0, 50.0, 64.0, 2.0]
    assert found["sides"]["arrange"]["rounds"][0]["bytes"] >= 5 * 20_000
    assert len(found["sides"]["open"]["rounds"]) == 2
    assert len(found["ratios"]["arrange / disk"]["rounds"]) == 1
    assert "work" not in found["settings"]
    left = {path.name for path in (tmp_path / "work").iterdir() if path.suffix in (".parquet", ".bin") or path.is_dir()}
    assert left == {"scores-20000-0-none.parquet", "scores-2000-0-none.parquet"}
