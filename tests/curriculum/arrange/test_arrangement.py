"""For any preference, scores and sources: the order holds what was planned, and the plan what was wanted.

PDPC_EXAMPLES=200 python -m pytest tests/curriculum runs ten times as many. Shapes: N samples, S steps, C cells.
"""

import dataclasses
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from curriculum.arrange import deal, interleave
from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.artifact import spool
from curriculum.order.order import Order
from curriculum.preference import (
    Frame,
    Linear,
    Mixture,
    Pdpc,
    Preference,
    Shuffled,
    Sorted,
    Table,
    Tilt,
    TwoStage,
)
from curriculum.scores import columns

EXAMPLES = settings().max_examples
SOURCES = ["arts", "code", "math", "news", "web"]
STRATA = st.sampled_from([None, "source"])
FOLDS = st.integers(1, 3)
SCORES = {"score": st.sampled_from(["quality", "quality + 0.5 * other", "-abs(quality)"])}
SHARES = {
    "floor": st.one_of(st.just(0.0), st.floats(1e-6, 0.45)),
    "ceiling": st.one_of(st.just(1.0), st.floats(0.55, 0.999)),
}


@dataclass(frozen=True)
class Case:
    """One corpus and how to arrange it."""

    sizes: dict[str, int]
    scores: np.ndarray
    other: np.ndarray
    preference: Preference
    changes: dict

    def run(self, write_tokens, write_parquet, folder: Path, **changes) -> Order:
        """Arrange the case below `folder`."""
        if not (folder / "tokens").exists():
            write_tokens(folder / "tokens", self.sizes)
            write_parquet(folder / "own.parquet", quality=self.scores, other=self.other)
        preference = self.preference
        if isinstance(preference, Table):
            preference = dataclasses.replace(preference, file=write_table(folder / "table.csv", preference.buckets))
        asked = {
            "tokens": str(folder / "tokens"),
            "own_scores": str(folder / "own.parquet"),
            "output": str(folder / "order"),
            "preference": preference,
            **self.changes,
            **changes,
        }
        return run(ArrangeSettings(**asked))


class FlatTable(Table):
    """A table whose file is written when the case is run."""

    def __post_init__(self) -> None:
        return


def write_table(path: Path, buckets: int) -> str:
    names = ["low", "high"] if buckets == 2 else [f"q{number + 1}" for number in range(buckets)]
    rows = [
        f"{at},{','.join(str(1 + (number * 7 + line) % 5) for number in range(buckets))}"
        for line, at in enumerate((0, 0.25, 1))
    ]
    path.write_text("\n".join([f"progress,{','.join(names)}", *rows]) + "\n")
    return str(path)


@st.composite
def preferences(draw, kinds=None):
    """A preference of any kind that is feasible for any bucket sizes."""
    kind = draw(st.sampled_from(kinds or [Shuffled, Sorted, Tilt, Pdpc, Linear, TwoStage, Frame, Mixture, FlatTable]))
    fields = {"folds": draw(FOLDS)}
    if kind is not Mixture:
        fields["stratify_by"] = draw(STRATA)
    if kind in (Sorted, Tilt, FlatTable):
        fields["buckets"] = draw(st.integers(2, 6))
    if kind not in (Shuffled, Frame, Mixture):
        fields["score"] = draw(SCORES["score"])
    if kind is Sorted:
        fields["descending"] = draw(st.booleans())
    if kind in (Tilt, Pdpc):
        fields["steepness"] = draw(st.one_of(st.floats(-20, 20), st.sampled_from([0.0, 1e4, -1e4])))
    if kind in (Pdpc, Linear, TwoStage):
        fields |= {name: draw(share) for name, share in SHARES.items()}
    if kind in (Linear, TwoStage) and draw(st.booleans()):
        fields["floor"], fields["ceiling"] = fields["ceiling"], fields["floor"]
    if kind is TwoStage and 0 < fields["floor"] < 1 and 0 < fields["ceiling"] < 1:
        fields["switch"] = draw(st.one_of(st.none(), st.floats(0.1, 0.9)))
    if kind is Frame:
        fields |= {
            "outer": "other",
            "inner": "quality",
            "sequence": draw(st.permutations([1, 2, 3, 4])),
            "width": draw(st.floats(0.05, 0.5)),
            "nested": draw(st.booleans()),
        }
    if kind is Mixture:
        fields["shares"] = {at: {draw(st.sampled_from(SOURCES)): draw(st.floats(0.01, 0.5))} for at in (0.0, 0.4, 1.0)}
    return kind(**fields)


@st.composite
def cases(draw, kinds=None, subset=True):
    """A corpus with sources of very unequal sizes, some empty or of one sample; scores may be tied or missing."""
    sizes = [draw(st.sampled_from([0, 1, 2, 17, 60, 150])) for _ in SOURCES]
    sizes[draw(st.integers(0, 4))] = 90
    samples = sum(sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["continuous", "tied", "wide"]))
    scores = rng.normal(size=samples)
    if kind == "tied":
        scores = np.round(scores * 8) / 8
    elif kind == "wide":
        scores = np.exp(scores * 20) * rng.choice([-1, 1], samples)
    preference = draw(preferences(kinds))
    changes = {"batch_size": draw(st.integers(1, 23)), "seed": draw(st.integers(0, 9)), "workers": 1, "stages": 1}
    event(type(preference).__name__)
    if draw(st.booleans()):
        scores[rng.random(samples) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
        changes["nonfinite"] = "bucket"
    if subset and draw(st.booleans()):
        changes["max_tokens"] = draw(st.integers(4 * 40, 4 * samples))
    names = preference.bucket_names(SOURCES)
    uses = {name: draw(st.sampled_from([0, 1, 2, 3])) for name in names if draw(st.integers(0, 3)) == 0}
    if "nonfinite" in changes and draw(st.booleans()):
        uses["unscored"] = draw(st.integers(0, 2))
    if any(uses.get(name, 1) for name in names) and not isinstance(preference, TwoStage):
        object.__setattr__(preference, "uses", uses)
    return Case(dict(zip(SOURCES, sizes, strict=True)), scores, rng.normal(size=samples), preference, changes)


class Written:
    """The contents of an order, read back completely."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.ids, self.cells = order[:], order.cell[:]
        self.plan_SC, self.counts_SC = order.cell_plan[:].astype(np.float64), order.cell_counts[:]
        self.bucket, self.stratum = order.bucket_of_cell, order.stratum_of_cell
        self.uses = np.array([bucket.uses for bucket in order.buckets])[self.bucket]


@pytest.fixture
def written(tokens_of, parquet):
    """Arrange a case in a separate folder and read it back; None if it has too few distinct scores to cut."""

    def make(case: Case, **changes) -> Written | None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Written(case.run(tokens_of, parquet, Path(folder), **changes))
            except ValueError as error:
                if not any(words in str(error) for words in ("too few distinct", "leaves out every", "fewer than")):
                    raise
                event("refused")
                return None

    return make


@settings(max_examples=2 * EXAMPLES)
@given(case=cases())
def test_the_order_holds_what_was_planned_and_the_plan_what_was_wanted(written, case):
    made = written(case)
    if made is None:
        return
    order, batch_size = made.order, case.changes["batch_size"]
    uses_of_id: dict[int, set] = {}
    for sample, cell in zip(made.ids.tolist(), made.cells.tolist(), strict=True):
        uses_of_id.setdefault(sample, set()).add(cell)
    assert all(len(cells) == 1 for cells in uses_of_id.values()), "a sample stands in two cells"
    for sample, times in Counter(made.ids.tolist()).items():
        assert times == made.uses[next(iter(uses_of_id[sample]))]
    left_out = sum(case.sizes.values()) - len(uses_of_id)
    assert left_out == order.manifest.facts["left_out"]
    if not case.preference.uses and "max_tokens" not in case.changes:
        assert left_out == 0
    rows = made.counts_SC.sum(axis=1)
    assert (rows[:-1] == batch_size).all()
    assert rows.sum() == len(order)
    assert 0 < rows[-1] <= batch_size
    for step, counts_C in enumerate(made.counts_SC):
        labels = made.cells[step * batch_size : (step + 1) * batch_size]
        assert (np.bincount(labels, minlength=len(counts_C)) == counts_C).all()
    assert (made.counts_SC >= 0).all()
    assert (made.counts_SC.sum(axis=0) == np.bincount(made.cells, minlength=len(made.bucket))).all()

    running = np.abs(np.cumsum(made.counts_SC - made.plan_SC, axis=0))
    stored = 1e-6 * np.cumsum(made.plan_SC, axis=0)  # float32 rows, added up
    assert (running < 1 + 1e-5 + stored).all()
    assert np.allclose(made.plan_SC.sum(axis=1), made.counts_SC.sum(axis=1), rtol=1e-5)
    assert np.allclose(made.plan_SC.sum(axis=0), made.counts_SC.sum(axis=0), rtol=1e-5, atol=1e-3)


@settings(max_examples=EXAMPLES)
@given(case=cases([Shuffled, Sorted, Tilt, Pdpc, Linear, TwoStage, Frame, FlatTable]))
def test_strata_keep_their_share_of_every_step(written, case):
    object.__setattr__(case.preference, "stratify_by", "source")
    made = written(case)
    if made is None:
        return
    strata = len(made.order.strata)
    at = made.counts_SC.sum(axis=1).cumsum() / len(made.ids)
    for stratum in range(strata):
        cells = made.stratum == stratum
        running = made.counts_SC[:, cells].sum(axis=1).cumsum()
        # Each of its cells is off by less than a sample.
        assert (np.abs(running - at * running[-1]) < cells.sum() + 1e-3).all()
    source_of = np.repeat(np.arange(len(SOURCES)), list(case.sizes.values()))
    scored = made.stratum[made.cells] < len(SOURCES)
    assert (source_of[made.ids[scored]] == made.stratum[made.cells[scored]]).all()


@settings(max_examples=EXAMPLES)
@given(case=cases([Sorted]))
def test_a_sort_is_one_inside_every_stratum_and_fold(written, case):
    made = written(case)
    if made is None:
        return
    preference, order = case.preference, made.order
    with np.errstate(all="ignore"):
        quality, other = case.scores.astype(np.float32), case.other.astype(np.float32)
        score = {"quality": quality, "-abs(quality)": -np.abs(quality)}.get(
            preference.score, quality + np.float32(0.5) * other
        )
    score = (-score if preference.descending else score) + np.float32(0)
    buckets = len([bucket for bucket in order.buckets if bucket.name != "unscored"])
    for stratum in range(len(order.strata)):
        fold_of_position = made.bucket[made.cells] // (buckets // preference.folds)
        in_stratum = (made.stratum[made.cells] == stratum) & (made.bucket[made.cells] < buckets)
        assert (np.diff(fold_of_position[in_stratum]) >= 0).all()
        for fold in range(preference.folds):
            ids = made.ids[in_stratum & (fold_of_position == fold)]
            if preference.uses:  # a bucket that is used twice is traversed twice
                continue
            assert (np.diff(score[ids]) >= 0).all()


@settings(max_examples=EXAMPLES // 2)
@given(case=cases(subset=False), pieces=st.tuples(*[st.sampled_from([1, 7, 64, 1000])] * 2), data=st.data())
def test_neither_chunks_nor_workers_nor_memory_change_a_bit(written, case, pieces, data):
    first = written(case)
    if first is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "CHUNK_SAMPLES", pieces[0] * 5)
        patch.setattr(interleave, "POSITIONS_AT_ONCE", pieces[1])
        patch.setattr(spool, "HELD_BYTES", data.draw(st.sampled_from([0, 500, 1 << 28])))
        other = written(case, workers=data.draw(st.integers(1, 4)))
    assert other.order.fingerprint == first.order.fingerprint
    assert (other.ids == first.ids).all()


@settings(max_examples=EXAMPLES // 2)
@given(case=cases(subset=False))
def test_groups_and_leaves_do_not_lose_a_sample(written, case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deal, "GROUP", 16)
        patch.setattr(deal, "LEAF", 3)
        patch.setattr(columns, "CHUNK_SAMPLES", 50)
        small, again = written(case), written(case, workers=3)
    whole = written(case)
    if whole is None:
        return
    assert (small.ids == again.ids).all()
    assert (small.counts_SC == whole.counts_SC).all()
    for cell in range(len(whole.bucket)):
        assert sorted(small.ids[small.cells == cell]) == sorted(whole.ids[whole.cells == cell])


@settings(max_examples=EXAMPLES // 2)
@given(case=cases([Shuffled, Tilt, Pdpc]))
def test_another_seed_gives_another_order_of_the_same_plan(written, case):
    if "max_tokens" in case.changes:
        del case.changes["max_tokens"]
    first, other = written(case, seed=100), written(case, seed=101)
    if first is None:
        return
    assert (first.counts_SC == other.counts_SC).all()
    assert sorted(first.ids) == sorted(other.ids)
    assert (first.ids == other.ids).mean() < 0.5


@settings(max_examples=EXAMPLES // 2)
@given(case=cases(), other=preferences())
def test_every_preference_arranges_the_same_subset(written, case, other):
    case.changes["max_tokens"] = 4 * 60
    object.__setattr__(case.preference, "uses", {})
    first, second = written(case), written(dataclasses.replace(case, preference=other))
    if first is None or second is None:
        return
    assert sorted(first.ids) == sorted(second.ids)
    assert len(first.ids) == 60
