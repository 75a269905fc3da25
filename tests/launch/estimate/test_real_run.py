"""`pdpc estimate --from RUN`: a run that was slower and larger than its estimate corrects both."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from curriculum.artifact.files import ArtifactError
from launch.cli import main
from launch.estimate.estimate import correction_of, estimate
from launch.estimate.hardware import A100_80, H100_80
from launch.estimate.known import training
from launch.estimate.real_run import read_real_run
from launch.estimate.settings import EstimateSettings, split_overrides
from train.records.config_json import config_text
from train.records.run_json import as_text, checksum_of

WORDS = ["model=1.3b", "micro_batch_size=8", "zero.stage=1"]
TRAIN = training(WORDS)
DECODER = TRAIN.model.decoder_config(50_257, 2048, None)


def write_run(folder: Path, tokens_per_s: float, peak_bytes: float, device: str = "NVIDIA A100-SXM4-80GB") -> Path:
    """Write a RUN of 8 ranks with two records: a first, slow one, and one at this speed."""
    folder.mkdir()
    facts = {
        "format": 2,
        "arm": "a",
        "fingerprints": {},
        "identity": {},
        "parameters": DECODER.parameter_count(),
        "paths": {},
        "seed": 0,
        "status": "finished",
        "versions": {},
        "device": device,
        "decoder": asdict(DECODER),
        "world_size": 8,
        "accumulation": 2,
        "micro_batch_size": 8,
        "zero_stage": 1,
    }
    (folder / "run.json").write_text(as_text({**facts, "checksum": checksum_of(facts)}))
    (folder / "config.json").write_text(config_text(asdict(TRAIN)))
    records = [
        {"kind": "step", "step": step, "throughput/tokens_per_s_device": speed, "memory/peak_gib": peak_bytes / 2**30}
        for step, speed in ((10, 1.0), (20, tokens_per_s))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def plain(from_run: Path | None = None) -> dict:
    where = A100_80()
    name = None if from_run is None else str(from_run)
    return estimate(EstimateSettings(cluster=where, batch_size=128, from_run=name, references={}, overrides=WORDS))


def test_a_run_corrects_speed_and_memory(tmp_path):
    before = plain()
    speed, peak = before["speed"]["tokens_per_s_device"], before["memory"]["chosen"]["total"]
    after = plain(write_run(tmp_path / "run", 0.8 * speed, peak + 5e9))
    assert after["measured"]["speed_over_estimate"] == pytest.approx(0.8, rel=1e-6)
    assert after["memory"]["correction_bytes"] == pytest.approx(5e9, abs=2)
    assert after["speed"]["tokens_per_s_device"] == pytest.approx(0.8 * speed, rel=1e-6)
    assert after["recipe"]["gpu_hours"] == pytest.approx(
        before["recipe"]["gpu_hours"] / 0.8, rel=1e-3
    )  # the stalls do not scale
    for section in ("speed", "memory", "recipe"):
        assert "measured" in after[section]["from"]
    assert before["measured"] is None


def test_a_run_as_estimated_corrects_nothing(tmp_path):
    before = plain()
    run = write_run(tmp_path / "run", before["speed"]["tokens_per_s_device"], before["memory"]["chosen"]["total"])
    found = correction_of(read_real_run(run), A100_80())
    assert found.speed == pytest.approx(1.0)
    assert abs(found.bytes) <= 1


def test_a_run_on_something_else_is_rejected(tmp_path):
    run = read_real_run(write_run(tmp_path / "run", 1e4, 1e10))
    with pytest.raises(ValueError, match="ran on NVIDIA A100-SXM4-80GB, which is not the GPU that is estimated"):
        correction_of(run, H100_80())
    with pytest.raises(ValueError, match="ran on cpu"):
        correction_of(replace(run, device="cpu"), A100_80())


def test_what_is_missing_is_named(tmp_path):
    run = write_run(tmp_path / "run", 1e4, 1e10)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(ArtifactError, match="no record with throughput/tokens_per_s_device"):
        read_real_run(run)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(ArtifactError, match=r"has no metrics\.jsonl"):
        read_real_run(run)


def test_from_is_a_flag_with_any_path():
    assert split_overrides(["from=runs/a", "model=demo", "cluster.nodes=2"]) == (
        ["from_run=runs/a", "cluster.nodes=2"],
        ["model=demo"],
    )


def test_the_flag_reaches_the_estimate(tmp_path, capsys):
    run = write_run(tmp_path / "a run", 1e4, 1e10)
    words = [
        "estimate",
        *WORDS,
        "batch_size=128",
        "references.weak=null",
        "references.strong=null",
        "--from",
        str(run),
        "format=json",
    ]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["measured"]["tokens_per_s_device"] == 1e4
