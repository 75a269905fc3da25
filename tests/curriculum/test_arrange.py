import numpy as np
import pytest

from curriculum import arrange as module
from curriculum.arrange import ArrangeSettings, compose, run
from curriculum.artifact import ArtifactError, create, verify
from curriculum.order import Order
from curriculum.preference import Pdpc, Shuffled
from curriculum.scores import write_slice
from curriculum.tokens import Tokens


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


@pytest.mark.parametrize("preference", [Shuffled(), Pdpc(), Pdpc(floor=0.3, ceiling=0.7, steepness=-4)])
def test_every_sample_stands_once_and_the_plan_is_kept(settings, tokens_folder, preference):
    order = run(settings(preference=preference))
    tokens = Tokens.open(tokens_folder)
    assert sorted(order[0 : len(order)].tolist()) == list(range(len(tokens)))
    for step in range(order.steps):
        labels = order.bucket[step * 16 : (step + 1) * 16]
        assert np.bincount(labels, minlength=len(order.buckets)).tolist() == order.counts[step].tolist()
    assert np.abs(np.cumsum(order.counts, axis=0) - np.cumsum(order.plan, axis=0, dtype=np.float64)).max() < 1.01
    verify(order.folder)


def test_pdpc_moves_from_low_to_high_pd(settings, scores):
    order = run(settings())
    pd = scores.column("pd")[order[0 : len(order)]]
    third = len(order) // 3
    assert pd[:third].mean() < pd[third : 2 * third].mean() < pd[2 * third :].mean()
    low, high = order.buckets
    assert low.high == high.low
    assert (scores.column("pd")[order[0 : len(order)]][order.bucket[0 : len(order)] == 0] <= low.high).all()


def test_buckets_have_equal_tokens(settings, tokens_folder):
    order = run(settings())
    tokens = Tokens.open(tokens_folder).real_tokens(order[0 : len(order)])
    shares = np.bincount(order.bucket[0 : len(order)], weights=tokens) / tokens.sum()
    assert abs(shares[0] - 0.5) < 32 / tokens.sum() * 2


def test_the_same_seed_gives_the_same_order_and_another_seed_another(settings, tmp_path):
    orders = [run(settings(seed=seed, output=str(tmp_path / name))) for seed, name in ((3, "a"), (3, "b"), (4, "c"))]
    first, second, third = (order[0 : len(order)] for order in orders)
    assert (first == second).all()
    assert orders[0].fingerprint == orders[1].fingerprint
    assert (first == third).mean() < 0.05


def test_chunking_does_not_change_the_order(monkeypatch):
    rng = np.random.default_rng(0)
    bucket = rng.integers(0, 2, 500)
    counts = np.full((50, 2), 5)
    high = int(bucket.sum())
    counts[:, 1], counts[:, 0] = high // 50, 10 - high // 50
    counts[: high % 50] += [-1, 1]
    whole = [np.concatenate(part) for part in zip(*compose(np.arange(500), bucket, counts, 1), strict=True)]
    monkeypatch.setattr(module, "CHUNK_POSITIONS", 30)
    parts = [np.concatenate(part) for part in zip(*compose(np.arange(500), bucket, counts, 1), strict=True)]
    assert (whole[0] == parts[0]).all()
    assert (whole[1] == parts[1]).all()
    assert sorted(whole[0]) == list(range(500))


def test_a_subset_is_the_same_for_every_preference_and_is_counted(settings, tmp_path, tokens_folder):
    some = [
        run(settings(preference=preference, max_tokens=3200, output=str(tmp_path / preference.name)))
        for preference in (Shuffled(), Pdpc())
    ]
    ids = [set(order[0 : len(order)].tolist()) for order in some]
    assert ids[0] == ids[1]
    assert len(ids[0]) == len(some[0]) == 100
    assert some[0].manifest.facts["left_out"] == len(Tokens.open(tokens_folder)) - 100


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
    with pytest.raises(ArtifactError, match=r"seed: there 0, asked for 1.*another output"):
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
    with pytest.raises(ValueError, match="gives sample 7 of slice 'train' a loss of nan"):
        write_slice(tmp_path, "train", {"weak": loss}, np.full(len(tokens), 32))
    with create(tmp_path / "bad", "scores", config={}, inputs={"tokens/train": tokens.fingerprint}) as draft:
        pq.write_table(pa.table({"loss_weak": loss, "loss_strong": np.ones_like(loss)}), draft.path / "train.parquet")
    with pytest.raises(ValueError, match="not finite for 1 samples, the first is sample 7"):
        run(settings(scores=str(tmp_path / "bad")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "preference=pdpc cuts by 'pd': give scores=FOLDER"),
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
