"""`pdpc estimate` from the command line: the numbers by hand, where they are from, and what is refused."""

from __future__ import annotations

import json
import math

import pytest

from launch.cli import main
from launch.estimate.hardware import CARDS, PLACES
from launch.estimate.speed import coefficients, fitted_file
from train.config.groups import options_of
from train.hooks.throughput import peak_of

ALONE = ["references.weak=null", "references.strong=null"]
"""Without references, which take a composition each."""


def estimated(capsys, *words: str) -> dict:
    assert main([*words, "format=json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def found():
    from launch.estimate.estimate import estimate
    from launch.estimate.hardware import A100_80
    from launch.estimate.settings import EstimateSettings

    return estimate(EstimateSettings(cluster=A100_80(nodes=8), overrides=["experiment=pdpc_1.3b"]))


def test_known_answers_of_1_3b_on_64_gpus(found):
    assert found["parameters"]["total"] == 1_420_396_544
    products = 402_653_184 + 811_597_824 + 103_022_592
    assert found["flops_per_token"]["full_attention"] == 6 * products + 12 * 24 * 2048 * 2048
    assert found["flops_per_token"]["causal_attention"] == 6 * products + 6 * 24 * 2048 * 2048
    assert found["run"]["accumulation"] == 1024 // 64 // 8
    assert found["data"]["steps"] == round(1e11 / (1024 * 2048))
    speed = found["speed"]
    assert speed["tokens_per_s_device"] == pytest.approx(1024 * 2048 / speed["step_s"] / 64)
    full = found["flops_per_token"]["full_attention"]
    assert speed["mfu"] == pytest.approx(full * speed["tokens_per_s_device"] / 312e12)
    saved = found["checkpoints"]
    assert saved["size"] == 12 * 1_420_396_544
    mtbf_s, stall_s = 50_700 * 3600 / 64, saved["size"] / 2e9
    assert saved["young_s"] == pytest.approx(math.sqrt(2 * stall_s * mtbf_s))
    assert saved["daly_s"] == pytest.approx(saved["young_s"], rel=0.01)
    assert saved["written"] == 4 + found["data"]["steps"] // 1000


def test_the_recipe_has_all_parts_and_they_add_up(found):
    parts = {part["name"]: part for part in found["recipe"]["parts"]}
    assert list(parts) == ["reference weak", "reference strong", "scoring", "arms", "evaluation", "failures"]
    assert found["recipe"]["gpu_hours"] == pytest.approx(sum(part["gpu_hours"] for part in parts.values()))
    arms_s = 2 * (1e11 / found["speed"]["tokens_per_s"] + found["checkpoints"]["stalled_s"])
    assert parts["arms"]["hours"] == pytest.approx(arms_s / 3600)
    ratio = parts["scoring"]["gpu_hours"] / parts["arms"]["gpu_hours"]
    assert 0.5 * 0.8 / (3 * 1.3) / 2 < ratio < 0.25, (
        "(N_weak + N_strong) / (3 N) of one arm, as small models are slower"
    )


def test_every_section_says_where_it_is_from(found):
    for name in ("parameters", "flops_per_token", "memory", "speed", "checkpoints", "recipe", "hardware"):
        assert found[name]["from"] in ("formula", "fitted", "given"), name
    assert set(found["data"]["from"].values()) == {"assumed"}


def test_the_largest_micro_batch_is_the_largest_that_fits(found):
    memory = found["memory"]
    assert list(memory["by_stage"]) == ["0", "1", "2", "3"]
    for rows in memory["by_stage"].values():
        sizes = {int(size): need["total"] for size, need in rows["micro_batches"].items()}
        assert list(sizes) == [1, 2, 4, 8, 16]
        assert rows["largest_micro_batch"] == max(
            size for size, need in sizes.items() if need <= memory["usable_bytes"]
        )
    assert memory["fits"]
    assert memory["chosen"]["total"] == sum(
        memory["chosen"][kind] for kind in ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
    )


def test_the_speed_model_holds_its_errors_on_rows_kept_out():
    """The published rows, fitted without them: `python -m benchmarks.estimate_speed` repeats the fits."""
    from benchmarks.estimate_speed import others

    kept = fitted_file()["kept_out_by_size"]["all"]
    assert kept["rows"] == 36
    assert kept["median"] <= 0.03
    assert kept["p90"] <= 0.07
    for row, _ in others():
        assert row.predicted(coefficients()) == pytest.approx(row.tokens_per_s, rel=0.05), row.name


def test_the_shipped_fit_is_the_fit_to_the_shipped_rows():
    from benchmarks.estimate_speed import ROWS, errors, read_rows, summary

    rows = [row for row in read_rows(ROWS) if row.hardware.peak_tflops == 312]
    assert summary(errors(rows, coefficients())) == pytest.approx(fitted_file()["in_the_fit"], abs=2e-4)


def test_peaks_are_those_of_the_mfu_that_runs_report():
    names = {
        "a100_80": "NVIDIA A100-SXM4-80GB",
        "a800_80": "NVIDIA A800-SXM4-80GB",
        "h100_80": "NVIDIA H100 80GB HBM3",
        "h800_80": "NVIDIA H800",
        "h200_141": "NVIDIA H200",
        "a100_40": "NVIDIA A100-SXM4-40GB",
    }
    assert {name: card().peak_tflops for name, card in CARDS.items()} == {k: peak_of(v) for k, v in names.items()}


def test_every_cluster_of_launch_can_be_estimated(capsys):
    assert set(options_of("cluster")) < set(PLACES)
    slurm = estimated(capsys, "estimate", "model=demo", "cluster=slurm", "cluster.nodes=2", "gpu=a100_40", *ALONE)
    assert (slurm["hardware"]["devices"], slurm["hardware"]["memory_gib"]) == (16, 39.4)
    assert main(["estimate", "model=demo", "cluster=slurm"]) == 2
    assert "gpu=" in capsys.readouterr().err


def test_the_sizes_are_those_of_the_artifacts(capsys, tokens_folder):
    words = ["model=demo", f"data.tokens={tokens_folder}", "batch_size=64", *ALONE, "micro_batch_size=8"]
    data = estimated(capsys, "estimate", *words)["data"]
    assert (data["vocab_size"], data["seq_len"]) == (300, 32)
    assert data["from"]["seq_len"] == "data.tokens"
    assert data["validation_samples"] > 0


def test_a_table_is_printed(capsys):
    assert main(["estimate", "model=demo", "cluster=a100_40", *ALONE]) == 0
    out = capsys.readouterr().out
    for words in ("largest that fits", "mfu_causal", "(fitted)", "(formula)", "Young", "GPU hours", "(assumed)"):
        assert words in out, words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluster.nodes=0"], "cluster.nodes=0 must be at least 1"),
        (["cluster.nodes=3"], "24 GPUs do not divide the assumed batch of 1024 samples: give batch_size="),
        (["cluster.nodes=3", "batch_size=64"], "world_size=24 does not divide"),
        (["micro_batch_size=7"], "micro_batch_size=7 on 8 ranks does not divide"),
        (["train_tokens=0"], "train_tokens=0"),
        (["cluster=b300"], "b300"),
        (["gpu=a100_40"], "gpu=a100_40 has no effect"),
        (["format=xml"], "format='xml' is unknown"),
        (["references.weak=9t"], "9t"),
        (["from_run=/nope"], "/nope is not a RUN folder"),
        (["data.tokens=/nope"], "/nope"),
        (["zero.stage=4"], "zero.stage=4"),
        (["learning_rate=1"], "unknown key 'learning_rate'"),
        (["cluster.reserve_gib=90"], "cluster.reserve_gib=90"),
    ],
)
def test_bad_input_is_named(capsys, words, message):
    assert main(["estimate", "model=demo", *ALONE, *words]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in options_of("experiment") if not name.startswith("base_")])
def test_every_experiment_can_be_estimated_before_its_data_exist(name):
    from launch.estimate.estimate import estimate
    from launch.estimate.hardware import A100_80
    from launch.estimate.settings import EstimateSettings

    found = estimate(
        EstimateSettings(cluster=A100_80(), references={"weak": None, "strong": None}, overrides=[f"experiment={name}"])
    )
    assert found["speed"]["tokens_per_s"] > 0
    missing = [note for note in found["notes"] if note.endswith("does not exist yet: sizes are assumed")]
    assert len(missing) == (0 if name == "demo" else 2)
