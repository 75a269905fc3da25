"""Training steps compared with peers: the same work for every side, and the checks on the measurements."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import step_memory, step_models, train_step

SIZES = (
    "--layers 1 --width 32 --heads 2 --kv-heads 1 --ffn 48 --vocabulary 97 --length 48 --batch-size 2 --document 12"
    " --rounds 1 --threads 1"
)
SETTINGS = vars(train_step._options(SIZES.split()))


def test_batches_hold_documents_and_are_the_same_for_the_same_seed() -> None:
    single, packed = (step_models.batches(SETTINGS, packed=packed) for packed in (False, True))
    assert single.shape == packed.shape == (4, 2, 49)
    assert torch.equal(packed, step_models.batches(SETTINGS, packed=True))
    starts = [(ids[..., :-1] == step_models.END_OF_TEXT).sum(dim=-1) for ids in (single, packed)]
    assert (starts[0] == 1).all()
    assert starts[1].float().mean() > 2
    assert int(packed.max()) < 97


def test_positions_restart_in_every_document() -> None:
    ids = torch.tensor([[0, 5, 5, 0, 0, 5], [5, 5, 0, 5, 5, 5]])
    assert step_models.positions(ids).tolist() == [[0, 1, 2, 0, 0, 1], [0, 1, 0, 1, 2, 3]]


def test_both_sides_compute_the_same_on_packed_samples(tmp_path: Path) -> None:
    from models.decoder import build
    from models.huggingface import export

    config = step_models.decoder_config(SETTINGS)
    ours, theirs = build(config, 0).eval(), step_models.llama(SETTINGS).eval()
    export(tmp_path / "hf", config, ours.state_dict(), dtype=torch.float32, tokenizer_folder=None, card=None)
    theirs = type(theirs).from_pretrained(tmp_path / "hf", config=theirs.config, dtype=torch.float32)
    ids_BT = step_models.batches(SETTINGS, packed=True)[0, :, :-1]
    with torch.no_grad():
        packed = theirs(input_ids=ids_BT, position_ids=step_models.positions(ids_BT)).logits
        torch.testing.assert_close(packed, ours.logits(ids_BT), atol=1e-4, rtol=0)
        assert not torch.allclose(theirs(input_ids=ids_BT).logits, packed, atol=1e-3)


def test_litgpt_has_as_many_parameters_as_ours() -> None:
    pytest.importorskip("litgpt")
    module = step_models.litgpt_with_losses(SETTINGS)
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count == step_models.decoder_config(SETTINGS).parameter_count()
    ids_BS = step_models.batches(SETTINGS, packed=False)[0]
    assert float(module(ids_BS).total) / ids_BS[:, 1:].numel() == pytest.approx(4.6, abs=0.3)  # log(97)


def test_a_run_measures_steps_and_writes_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.report.finish.__kwdefaults__", {"console": None, "folder": tmp_path})
    train_step.main([*SIZES.split(), "--steps", "1", "--sides", "pdpc_packed", "trainer_packed"])
    result = json.loads((tmp_path / "train_step.json").read_text())
    for side in ("pdpc_packed", "trainer_packed"):
        (facts,) = result["sides"][side]["rounds"]
        assert facts["tokens"] == 2 * 48
        assert facts["tokens_per_s"] == pytest.approx(96 / facts["seconds"])
        assert facts["loss"] == pytest.approx(4.6, abs=0.4)
        assert facts["step_bytes"] > 0
    assert result["settings"]["parameters"] == step_models.decoder_config(SETTINGS).parameter_count()
    assert [check["target"] for check in result["checks"]] == [1.3]


def test_an_implausible_loss_is_an_error() -> None:
    meter = train_step.Meter(SETTINGS)
    meter.seconds = 1.0
    assert meter.facts(4.5)["tokens_per_s"] == 3 * 2 * 48
    with pytest.raises(ValueError, match=r"the last loss is nan, far from log\(vocabulary\) = 4\.57"):
        meter.facts(float("nan"))


def rounds(tokens_per_s: list[float], **facts: float) -> list[dict[str, Any]]:
    return [{"tokens_per_s": value, "processor_s": 1.0, **facts} for value in tokens_per_s]


def test_checks_are_medians_of_ratios_within_a_round() -> None:
    ours = {"matmul_share": 0.6, "matmul_share_full": 0.7, "matmul_per_s": 1e11}
    measured = {
        "pdpc": rounds([120.0, 100.0, 240.0], **ours),
        "trainer": rounds([100.0, 100.0, 100.0]),
        "litgpt": rounds([120.0, 125.0, 200.0]),
        "pdpc_packed": rounds([130.0, 140.0, 150.0], **ours),
        "trainer_packed": rounds([100.0, 100.0, 100.0]),
    }
    compared, checks, notes = train_step.conclude(measured)
    assert compared["speed of pdpc / trainer"] == [1.2, 1.0, 2.4]
    assert {check.name: (round(check.value, 3), check.held) for check in checks} == {
        "pdpc as fast as trainer": (1.2, True),
        "pdpc_packed as fast as trainer_packed": (1.4, True),
        "pdpc as fast as litgpt": (1.0, True),
        "share of the matrix-product rate": (0.6, True),
    }
    assert "100 GFLOP/s in bf16" in notes[-1]
    assert [check.name for check in train_step.conclude({"pdpc": measured["pdpc"]})[1]] == [checks[-1].name]


def test_memory_is_measured_without_the_c_librarys_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(module: str, side: str, settings: Any, work: Path, environment: dict[str, str]) -> dict[str, Any]:
        assert (module, environment["MALLOC_MMAP_THRESHOLD_"], settings["steps"]) == ("train_step", "131072", 1)
        size = 70 << 20 if side.startswith("pdpc") else 100 << 20
        return {"seconds": 1.0, "peak_bytes": size, "step_bytes": size}

    monkeypatch.setattr(step_memory, "measure", measure)
    monkeypatch.setattr("benchmarks.report.finish.__kwdefaults__", {"console": None, "folder": tmp_path})
    step_memory.main(SIZES.split())
    result = json.loads((tmp_path / "step_memory.json").read_text())
    assert [(check["value"], check["held"]) for check in result["checks"]] == [(0.7, True), (0.7, True)]
