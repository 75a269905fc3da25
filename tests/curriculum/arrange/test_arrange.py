import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.artifact import spool
from curriculum.artifact.create import create
from curriculum.artifact.drafts import machine
from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import verify
from curriculum.audit.audit import audit
from curriculum.order.order import Order
from curriculum.preference import Mixture, Pdpc, Shuffled, Sorted, Table, Tilt, TwoStage
from curriculum.scores.writer import SliceWriter
from curriculum.tokens.tokens import Tokens
from tests.scores import write_slice

ROOT = Path(__file__).resolve().parents[3]
PLAIN = Pdpc(stratify_by=None, floor=0.0, ceiling=1.0)


@pytest.fixture
def settings(tokens_folder, scores_folder, tmp_path):
    def make(**changes):
        base = {
            "tokens": str(tokens_folder),
            "scores": str(scores_folder),
            "output": str(tmp_path / "order"),
            "preference": Pdpc(),
            "batch_size": 16,
        }
        return ArrangeSettings(**{**base, **changes})

    return make


@pytest.mark.parametrize("preference", [Shuffled(), Pdpc(), PLAIN, Pdpc(floor=0.3, ceiling=0.7, steepness=-4)])
def test_every_sample_stands_once_and_the_plan_is_kept(settings, tokens_folder, preference):
    order = run(settings(preference=preference))
    tokens = Tokens.open(tokens_folder)
    assert sorted(order[0 : len(order)].tolist()) == list(range(len(tokens)))
    for step in range(order.steps):
        labels = order.bucket[step * 16 : (step + 1) * 16]
        assert np.bincount(labels, minlength=len(order.buckets)).tolist() == order.counts[step : step + 1][0].tolist()
    cells = np.abs(np.cumsum(order.cell_counts[:] - order.cell_plan[:].astype(np.float64), axis=0))
    assert cells.max() < 1.01
    verify(order.folder)


def test_pdpc_moves_from_low_to_high_pd(settings, scores):
    order = run(settings(preference=PLAIN))
    pd = scores.column("pd")[order[0 : len(order)]]
    third = len(order) // 3
    assert pd[:third].mean() < pd[third : 2 * third].mean() < pd[2 * third :].mean()
    low, high = order.buckets
    assert low.high == high.low
    assert (scores.column("pd")[order[0 : len(order)]][order.bucket[0 : len(order)] == 0] <= low.high).all()


def test_stratified_pdpc_moves_inside_every_source_and_keeps_the_mix(settings, scores, tokens_folder):
    order = run(settings())
    tokens, ids = Tokens.open(tokens_folder), order[:]
    pd, source = scores.column("pd")[ids], tokens.source_of(ids)
    thirds = np.array_split(np.arange(len(ids)), 3)
    for number in range(len(tokens.sources)):
        means = [pd[third][source[third] == number].mean() for third in thirds]
        assert means[0] < means[1] < means[2]
    shares = [(source[third] == 1).mean() for third in thirds]
    assert np.ptp(shares) < 0.02


def test_buckets_have_equal_tokens(settings, tokens_folder):
    order = run(settings(preference=PLAIN))
    tokens = Tokens.open(tokens_folder).real_tokens(order[0 : len(order)])
    shares = np.bincount(order.bucket[0 : len(order)], weights=tokens) / tokens.sum()
    assert abs(shares[0] - 0.5) < 32 / tokens.sum() * 2


def test_the_same_seed_gives_the_same_order_and_another_seed_another(settings, tmp_path):
    orders = [run(settings(seed=seed, output=str(tmp_path / name))) for seed, name in ((3, "a"), (3, "b"), (4, "c"))]
    first, second, third = (order[0 : len(order)] for order in orders)
    assert (first == second).all()
    assert orders[0].fingerprint == orders[1].fingerprint
    assert (first == third).mean() < 0.05


def test_a_subset_is_the_same_for_every_preference_and_is_counted(settings, tmp_path, tokens_folder):
    some = [
        run(settings(preference=preference, max_tokens=3200, output=str(tmp_path / preference.name)))
        for preference in (Shuffled(), Pdpc())
    ]
    ids = [set(order[0 : len(order)].tolist()) for order in some]
    assert ids[0] == ids[1]
    assert len(ids[0]) == len(some[0]) == 100
    assert some[0].manifest.facts["left_out"] == len(Tokens.open(tokens_folder)) - 100


def test_more_tokens_than_there_are_arrange_all_with_a_warning(settings, tokens_folder, caplog):
    samples = len(Tokens.open(tokens_folder))
    assert len(run(settings(max_tokens=32 * samples + 1))) == samples
    assert f"max_tokens={32 * samples + 1} is more than the {32 * samples} tokens of {samples} samples" in caplog.text


def test_stages_part_the_run_and_every_position_knows_its_own(settings):
    order = run(settings(stages=3))
    assert order.stage_ends[-1] == order.steps
    assert np.unique(order.stage[0 : len(order)]).tolist() == [1, 2, 3]
    assert order.stage[order.stage_ends[0] * 16 - 1] == 1
    assert order.stage[order.stage_ends[0] * 16] == 2


def test_a_whole_order_is_reused_and_another_one_refused(settings):
    order = run(settings())
    stamp = (order.folder / "ids.bin").stat().st_mtime_ns
    run(settings())
    assert (order.folder / "ids.bin").stat().st_mtime_ns == stamp
    with pytest.raises(ArtifactError, match=r"seed: found 0, requested 1.*another output"):
        run(settings(seed=1))


def test_scores_of_other_tokens_are_refused(settings, tmp_path):
    foreign = tmp_path / "foreign"
    with create(foreign, "scores", config={}, inputs={"tokens/train": "0" * 32}) as draft:
        write_slice(draft.path, "train", {"weak": np.ones(5), "strong": np.ones(5)}, np.full(5, 32))
    with pytest.raises(ArtifactError, match=r"scores other tokens .* run pdpc score on these tokens"):
        run(settings(scores=str(foreign)))


def test_a_score_that_is_not_finite_is_named(settings, tokens_folder, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    tokens = Tokens.open(tokens_folder)
    loss = np.ones(len(tokens), dtype=np.float32)
    loss[7] = np.nan
    counts = {"tokens": np.full(len(tokens), 32), "bytes": np.full(len(tokens), 99)}
    with (
        SliceWriter(tmp_path, "train", ["weak"]) as writer,
        pytest.raises(ValueError, match="gives sample 7 of slice 'train' a loss of nan"),
    ):
        writer.add(counts | {"loss_weak": loss})
    with create(tmp_path / "bad", "scores", config={}, inputs={"tokens/train": tokens.fingerprint}) as draft:
        pq.write_table(pa.table({"loss_weak": loss, "loss_strong": np.ones_like(loss)}), draft.path / "train.parquet")
    with pytest.raises(ValueError, match=r"not finite for 1 samples of .*bad: sample 7 \(pd=nan\)"):
        run(settings(scores=str(tmp_path / "bad")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "preference=pdpc cuts by 'pd': give scores=FOLDER"),
        ({"scores": None, "preference": Pdpc(score="length +")}, r"score 'length \+' cannot be parsed"),
        ({"preference": Pdpc(uses={"hihg": 2})}, "uses names hihg, but the buckets are low, high"),
        ({"preference": Pdpc(uses={"unscored": 2})}, "uses names unscored, but the buckets are low, high"),
        ({"preference": Pdpc(uses={"low": 0, "high": 0})}, "uses leaves out every sample"),
        ({"preference": Mixture(shares={0.0: {"esay": 1.0}})}, "shares names esay, but the sources are easy, hard"),
        ({"preference": Mixture(shares={0.0: {"easy": 1.0}})}, "bucket hard has .* samples, but no step wants it"),
        (
            {"preference": TwoStage(stratify_by="source", switch=0.1)},
            r"bucket low of (easy|hard) has \d+ samples, but the \d+ steps that want it \(from step 0 to \d+ of \d+\)",
        ),
        ({"preference": Tilt(buckets=60_000, stratify_by="source")}, "60000 buckets in 2 strata exceed 65000 cells"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"workers": 0}, "workers=0"),
        ({"nonfinite": "ignore"}, "nonfinite='ignore' must be one of fail, bucket"),
        ({"tokens": None}, "scores=FOLDER needs tokens=FOLDER: give both"),
        ({"tokens": None, "scores": None}, "give scores=FOLDER .* or own_scores=FILE"),
        ({"batch_size": 10**6}, "fewer than 4 stages of one batch of 1000000"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"stages": 0}, "stages=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"slice": "nothing"}, "nothing"),
        ({"tokens": "/nowhere"}, "/nowhere does not exist"),
    ],
)
def test_bad_settings_are_named(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        run(settings(**changes))


def test_an_order_opens_by_position(settings):
    order = run(settings())
    assert order[3] == order[0:5][3]
    assert order[-1] == order[len(order) - 1 : len(order)][0]
    assert order[0:10:2].tolist() == order[0:10].tolist()[::2]
    with pytest.raises(IndexError, match="outside an order"):
        order[len(order)]
    assert Order.open(order.folder).fingerprint == order.fingerprint


def test_length_needs_no_scores(settings, tokens_folder):
    order = run(settings(scores=None, preference=Sorted(score="-abs(length)", edges=[-31.5])))
    lengths = Tokens.open(tokens_folder).real_tokens(order[:])
    assert (np.diff(lengths) <= 0).all()


def test_equal_scores_follow_the_seed_not_the_corpus(settings, tokens_folder, tmp_path):
    by_length = Sorted(score="-abs(length)", edges=[-31.5])
    first, second = (
        run(settings(scores=None, preference=by_length, seed=seed, output=str(tmp_path / str(seed)))) for seed in (0, 1)
    )
    lengths = Tokens.open(tokens_folder).real_tokens(np.arange(len(first)))
    full = int(np.count_nonzero(lengths == lengths.max()))
    assert full > 50
    assert first[:full].tolist() != second[:full].tolist()
    assert sorted(first[:full].tolist()) == sorted(second[:full].tolist()) != first[:full].tolist()


def test_a_sorted_order_of_before_stays_valid_but_is_not_reused(settings, edit_manifest):
    order = run(settings(preference=Sorted()))
    edit_manifest(order.folder, lambda fields: fields["config"].pop("ties"))
    assert Order.open(order.folder).fingerprint == order.fingerprint
    assert audit(Order.open(order.folder)).sound
    with pytest.raises(ArtifactError, match=r"ties: found .*requested 'random'.*remove the folder to recreate it"):
        run(settings(preference=Sorted()))


def test_a_table_changed_under_its_name_is_another_preference(settings, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("progress,low,high\n0,1,2\n1,2,1\n")
    first = run(settings(preference=Table(file=str(path))))
    assert run(settings(preference=Table(file=str(path)))).fingerprint == first.fingerprint
    path.write_text("progress,low,high\n0,2,1\n1,1,2\n")
    with pytest.raises(ArtifactError, match=r"written with other settings or inputs \(preference\.file: found"):
        run(settings(preference=Table(file=str(path))))


def test_samples_without_a_score_stand_evenly_and_shuffled_or_not_at_all(tmp_path, parquet):
    scores = np.random.default_rng(0).normal(size=2000)
    scores[::4] = np.nan
    own = parquet(tmp_path / "own.parquet", quality=scores)
    common = {"own_scores": own, "nonfinite": "bucket", "batch_size": 40}
    for name, preference in (
        ("pdpc", Pdpc(score="quality", stratify_by=None)),
        ("sorted", Sorted(score="quality", buckets=4)),
    ):
        order = run(ArrangeSettings(output=str(tmp_path / name), preference=preference, **common))
        assert order.buckets[-1].name == "unscored"
        assert (order.counts[:][:, -1] == 10).all()
        unscored = order[:][np.isnan(scores[order[:]])]
        assert sorted(unscored) == list(range(0, 2000, 4))
        assert abs(np.corrcoef(unscored, np.arange(500))[0, 1]) < 0.2
    without = run(
        ArrangeSettings(
            output=str(tmp_path / "without"),
            preference=Pdpc(score="quality", stratify_by=None, uses={"unscored": 0}),
            **common,
        )
    )
    assert sorted(without[:]) == np.flatnonzero(np.isfinite(scores)).tolist()
    assert without.manifest.facts["left_out"] == 500


def test_a_source_that_cannot_be_parted_is_spread_evenly_whatever_is_wished(tmp_path, parquet):
    source = ["many"] * 200 + ["alike"] * 100
    own = parquet(tmp_path / "own.parquet", quality=[*range(200), *[7] * 100], source=source)
    preference = TwoStage(score="quality", stratify_by="source", switch=0.5)
    order = run(ArrangeSettings(output=str(tmp_path / "order"), own_scores=own, preference=preference, batch_size=30))
    assert order.manifest.facts["spread_evenly"] == ["alike"]
    assert [sum(sample >= 200 for sample in order[at : at + 30]) for at in range(0, 300, 30)] == [10] * 10
    assert [sum(100 <= sample < 200 for sample in order[at : at + 30]) for at in range(0, 300, 30)] == [0] * 5 + [
        20
    ] * 5


BUILD = """
import sys
from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.artifact.manifest import ArtifactError
from curriculum.preference import Sorted

print("ready", flush=True)
sys.stdin.readline()
try:
    run(ArrangeSettings(output=sys.argv[2], own_scores=sys.argv[1], preference=Sorted(score="quality"), batch_size=10))
except (ArtifactError, OSError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def builder(own, output, before=""):
    """Start a process that arranges once it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", before + BUILD, own, str(output)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def own(tmp_path, parquet):
    return parquet(tmp_path / "own.parquet", quality=np.random.default_rng(0).normal(size=50_000))


def test_of_two_builders_at_once_one_wins_and_the_other_is_told_or_uses_it(own, tmp_path):
    folder = tmp_path / "out" / "order"
    processes = [builder(own, folder) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=120)[1] for process in processes]
    failed = [error for process, error in zip(processes, errors, strict=True) if process.returncode]
    assert len(failed) <= 1
    assert all("ArtifactError" in error and "order " in error for error in failed)
    assert [path.name for path in folder.parent.iterdir()] == ["order"]
    verify(folder)
    assert sorted(Order.open(folder)[:].tolist()) == list(range(50_000))


@pytest.mark.parametrize("limit", [1000, 150_000])
def test_a_full_disk_leaves_nothing_behind(own, tmp_path, limit):
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    process = builder(own, tmp_path / "out" / "order", before)
    _, error = process.communicate("go\n", timeout=120)
    assert process.returncode == 1
    assert "File too large after" in error
    assert "free disk space there, or choose an output on another disk" in error
    assert list((tmp_path / "out").iterdir()) == []


def test_a_spool_that_finds_no_space_leaves_nothing_behind(own, tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool, "HELD_BYTES", 1000)
    monkeypatch.setattr(spool.os, "write", full)
    asked = ArrangeSettings(
        output=str(tmp_path / "out" / "order"), own_scores=own, preference=Sorted(score="quality"), batch_size=10
    )
    with pytest.raises(OSError, match=r"No space left on device after \d+ bytes of order .*free disk space there"):
        run(asked)
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    assert len(run(asked)) == 50_000


def test_what_a_killed_builder_left_is_removed_by_the_next(own, tmp_path):
    folder = tmp_path / "out" / "order"
    kill = (
        "import os, signal, curriculum.arrange.interleave as compose\n"
        "compose.OrderWriter.positions = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = builder(own, folder, kill)
    process.communicate("go\n", timeout=120)
    assert process.returncode == -signal.SIGKILL
    left = [path.name for path in folder.parent.iterdir()]
    assert len(left) == 1
    assert left[0].startswith(f".order.tmp-{machine()}-{process.pid}-")
    process = builder(own, folder)
    process.communicate("go\n", timeout=120)
    assert process.returncode == 0
    assert [path.name for path in folder.parent.iterdir()] == ["order"]
