"""A few attempts of every campaign of kills and changes; `make torture` runs them in full."""

import subprocess
import sys

import numpy as np
import pytest

from curriculum.artifact.manifest import open_manifest
from tests.torture import (
    canaries,
    evaluation,
    fields,
    kills,
    meeting,
    mixed,
    oom,
    red,
    shrink,
    straggler,
    study,
    swap,
    torn,
    worlds,
)
from tests.torture.campaign import Tally, campaigns, case_seeds
from tests.torture.forks import ROOT
from tests.torture.runs import BATCH, Material, difference, forget, prepared


@pytest.fixture(scope="module", autouse=True)
def server(forks):
    """The session's fork server, which the campaigns reuse."""
    return forks


def passes(tally: Tally, attempts: int) -> None:
    assert tally.good, tally.failures
    assert tally.attempts >= attempts


def shorter(monkeypatch, campaign) -> None:
    """Half as many steps per run, and one undisturbed run: the server has done the imports that slow the first ones."""
    monkeypatch.setattr(campaign, "LAUNCHES", 1)
    monkeypatch.setattr(campaign, "SAMPLES", 150)


def test_kills_of_all_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "KILLS", 2)
    shorter(monkeypatch, kills)
    passes(kills.run(2, 1, tmp_path), 2)


def test_kills_of_one_rank_in_its_write(tmp_path):
    passes(torn.run(1, 1, tmp_path), 1)


def test_world_sizes_that_do_not_divide_each_other(tmp_path):
    """Up and down, with every size once; the campaign covers every pair."""
    pairs = [(1, 3), (4, 2)]
    passes(worlds.run_cases([worlds.PAIRS.index(pair) for pair in pairs], tmp_path), len(pairs))


def test_out_of_memory(tmp_path):
    passes(oom.run(1, 1, tmp_path), 1)


def test_a_rank_that_waits_for_one_out_of_memory_exits_with_its_code(tmp_path, server):
    material = Material.make(tmp_path / "material")
    ranks = material.start(server, tmp_path / "run", fault="engine.states:rank=1:memory")
    assert ranks.wait(60) == [71, 71], ranks.told()  # rank 0 waits in a DeepSpeed call without a connection
    assert "rank 0 exits: another rank exited with code 71" in ranks.told()


def test_files_damaged_during_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(shrink, "LAUNCHES", 1)
    passes(shrink.run(1, 1, tmp_path), 1)


def test_every_field(tmp_path):
    assert len(fields.binding()) + len(fields.FINGERPRINTS) + len(fields.DECODER) >= 40
    assert len(fields.free()) >= 20
    passes(fields.run(fields.FULL, 0, tmp_path), fields.FULL)


def test_repeated_faults(tmp_path, monkeypatch):
    monkeypatch.setattr(mixed, "FAULTS", 3)
    shorter(monkeypatch, mixed)
    passes(mixed.run(1, 3, tmp_path), 1)


def test_a_kill_with_the_optimizer_on_disk(tmp_path):
    tally = swap.run(1, 11, tmp_path)
    passes(tally, 1)
    assert "1 times SIGKILL" in tally.notes[0]


def test_a_slow_rank_is_named(tmp_path, server):
    steps = straggler.SLOW_FROM[1] + straggler.WITHIN + 4
    material = Material.make(tmp_path / "material", samples=steps * BATCH)
    waited, problem = straggler.one_run(server, material, tmp_path / "run", 2)
    assert problem is None
    assert len(waited) == 1


def test_a_rank_of_an_earlier_launch_at_the_rendezvous(tmp_path, server):
    with prepared(tmp_path, meeting.RANKS) as ground:
        (tmp_path / "case" / "tmp").mkdir(parents=True)
        assert meeting.stale_rank(ground, tmp_path / "case", np.random.default_rng(1)) is None


def test_a_benchmark_that_loses_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "SOFT", ())
    monkeypatch.setattr(evaluation, "HARD", ())
    passes(evaluation.run(1, 1, tmp_path), 1)


def test_a_run_writes_no_secret(tmp_path, server):
    material, tasks = canaries.material_of(tmp_path)
    (tmp_path / "round").mkdir()
    one = canaries.Round(server, material, tasks, tmp_path / "round", np.random.default_rng(5))
    assert one.launch("tests.torture.forks:train", one.words, output=str(one.run)) == 0, one.told()
    assert one.left() is None


def test_the_negative_control_fails(tmp_path):
    tally = red.run(1, 1, tmp_path)
    passes(tally, 1)
    assert "1 of 1 resumes failed" in tally.notes[0]


def test_tokenizing_resumes_with_any_number_of_ranks(tmp_path, server):
    from launch.cli import main
    from tests.conftest import write_text

    write_text(tmp_path / "text", 200)
    words = ["prepare", f"input.paths=[{tmp_path}/text]", "tokenizer.name=train:280", "seq_len=32", "chunk_bytes=4000"]
    assert main([*words, "processes=1", f"output={tmp_path}/plain"]) == 0
    for ranks, drill, code in ((2, "chunk.before_rename:nth=3", -9), (1, "chunk.after_write:nth=2", -9), (3, "", 0)):
        arguments = {"words": [*words, f"output={tmp_path}/tokens"]}
        launch = server.start("tests.torture.forks:work", arguments, ranks, tmp_path / "log", {"PDPC_FAULT": drill})
        codes = launch.wait(60)
        assert code in codes, launch.told()
        assert set(codes) <= {code, 1 if code else 0}, launch.told()  # 1: the other rank was killed first
    assert "chunks are already done" in launch.told()
    plain, tokens = (open_manifest(tmp_path / name, "tokens").fingerprint for name in ("plain", "tokens"))
    assert plain == tokens
    assert not (tmp_path / "tokens.chunks").exists()


def test_kills_of_a_study(tmp_path):
    """The steps are stand-ins here; the campaign kills real runs."""
    passes(study.run(2, 1, tmp_path, small=True), 2)


def test_the_comparison_of_the_campaigns_can_fail(tmp_path, server):
    from tests.torture.runs import Ending

    material = Material.make(tmp_path / "material")
    assert material.finish(server, tmp_path / "run") is None
    whole = Ending.of(tmp_path / "run")
    assert difference(tmp_path / "run", material, whole) is None
    record = next((tmp_path / "run" / "consumed").glob("world_*_rank_00001_*.bin"))
    data = record.read_bytes()
    record.write_bytes(data[: len(data) // 2])
    assert "samples lost" in difference(tmp_path / "run", material, whole)
    record.write_bytes(data)
    forget(tmp_path / "run")
    assert material.finish(server, tmp_path / "run", words=["seed=4"]) is None
    assert difference(tmp_path / "run", material, whole) == "the final weights differ"


def test_seeds_replay():
    seeds = case_seeds(5, 4)
    assert seeds[0] == 5
    assert len(set(seeds)) == 4
    assert seeds[:2] == case_seeds(5, 2)
    assert case_seeds(seeds[2], 1) == [seeds[2]]


def test_a_long_campaign_prints_its_progress(capsys, monkeypatch):
    tally = Tally("kills")
    tally.add(1, None)
    assert capsys.readouterr().err == ""
    tally.add(2, "lost a sample")
    assert capsys.readouterr().err == "kills: failed: seed 2: lost a sample\n"
    monkeypatch.setattr("tests.torture.campaign.LINE_EVERY_S", 0.0)
    tally.add(3, None)
    assert capsys.readouterr().err == "kills: 2 of 3 passed so far\n"


def test_the_campaigns_are_listed():
    words = [sys.executable, "-m", "tests.torture", "--list"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(campaigns())
