import numpy as np
import pytest

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.audit.overview import overview, shares
from curriculum.audit.step_samples import beginning, origins, samples_of_step
from curriculum.preference import Pdpc, Shuffled, Tilt
from curriculum.scores.columns import SampleColumns
from curriculum.scores.scores import Scores
from curriculum.tokens.tokenizer import TextTokenizer
from curriculum.tokens.tokens import Tokens


@pytest.fixture
def columns(tokens_folder, scores_folder):
    return SampleColumns(Tokens.open(tokens_folder), Scores.open(scores_folder), None)


@pytest.fixture
def arranged(tokens_folder, scores_folder, tmp_path):
    def make(**changes):
        base = {"preference": Pdpc(), "batch_size": 16, "workers": 1, "output": str(tmp_path / "order")}
        return run(ArrangeSettings(**{"tokens": str(tokens_folder), "scores": str(scores_folder), **base, **changes}))

    return make


@pytest.mark.parametrize("preference", [Pdpc(), Tilt(buckets=5), Shuffled()])
def test_parts_add_up_to_the_order(arranged, columns, preference):
    order = arranged(preference=preference)
    view = overview(order, columns)
    assert view.edges_P[[0, -1]].tolist() == [0, order.steps]
    assert np.allclose(view.planned_PK.sum(axis=0), order.plan[0 : order.steps].sum(axis=0))
    assert (view.realised_PK.sum(axis=0) == order.counts[0 : order.steps].sum(axis=0)).all()
    assert view.score == "pd"
    pd = columns.scores.column("pd")
    start, stop = view.edges_P[3] * 16, view.edges_P[4] * 16
    assert view.mean_P[3] == pytest.approx(pd[order[start:stop]].mean(), rel=1e-5)
    source = columns.tokens.source_of(order[start:stop])
    assert view.sources_PT[3].tolist() == np.bincount(source, minlength=2).tolist()
    assert np.allclose(shares(view.sources_PT).sum(axis=1), 1)


def test_fewer_parts_say_the_same(arranged, columns):
    view = overview(arranged(), columns)
    tenths = view.merged(10)
    assert len(tenths.edges_P) == 11
    assert tenths.realised_PK.sum() == view.realised_PK.sum()
    assert set(tenths.edges_P) <= set(view.edges_P)
    assert tenths.progress_P[0] == pytest.approx(0.05, abs=0.01)
    assert (view.merged(1000).edges_P == view.edges_P).all()


def test_strata_tell_the_sources_without_tokens(arranged, columns):
    order = arranged()
    assert (overview(order).sources_PT == overview(order, columns).sources_PT).all()
    assert overview(order).sources == ["easy", "hard"]
    assert overview(order).score is None


def test_an_order_without_strata_has_no_sources_alone(arranged):
    assert overview(arranged(preference=Shuffled())).sources == []


def test_a_step_has_the_samples_of_its_positions(arranged, columns):
    order = arranged()
    step = samples_of_step(order, 3, columns)
    assert step.ids_B.tolist() == order[32:48].tolist()
    assert step.first == 32
    assert np.bincount(step.bucket_B, minlength=2).tolist() == step.realised_K.tolist() == order.counts[2:3][0].tolist()
    assert np.array_equal(step.scores["pd"], columns.scores.column("pd")[step.ids_B])
    assert list(step.scores) == ["pd", "loss_weak", "loss_strong"]
    assert step.length_B.tolist() == columns.tokens.real_tokens(step.ids_B).tolist()
    assert len(samples_of_step(order, order.steps, columns)) == len(order) - (order.steps - 1) * 16
    assert samples_of_step(order, 1).scores == {}


@pytest.mark.parametrize("number", [0, -1, 10**6])
def test_a_step_that_is_not_there_is_refused(arranged, number):
    with pytest.raises(ValueError, match=rf"step={number} is not in 1 .. \d+"):
        samples_of_step(arranged(), number)


def test_the_documents_of_a_sample_are_those_its_tokens_come_from(tokens_folder):
    tokens = Tokens.open(tokens_folder)
    lengths = np.zeros(tokens.documents, dtype=np.int64)
    for sample in range(len(tokens)):
        found = tokens.documents_in(sample)
        assert found[:, 1].min() > 0
        assert found[:, 1].sum() == tokens.real_tokens([sample])[0]
        inputs = tokens.sample([sample])[0][: found[:, 1].sum()]
        starts = np.cumsum(found[:, 1])[:-1]
        assert (inputs[starts] == tokens.end_of_text).all()
        lengths[found[:, 0]] += found[:, 1]
        source, ids = tokens.document(int(found[-1, 0]))
        assert source == tokens.sources[tokens.source_of([sample])[0]]
        last = int(found[-1, 1]) - 1
        assert len(found) == 1 or (inputs[starts[-1] + 1 :] == ids[:last]).all()
    whole = np.array([len(tokens.document(index)[1]) + 1 for index in range(tokens.documents)])
    assert (lengths == whole).all()


def test_the_stretches_of_many_samples_are_those_of_each(tokens_folder):
    for name in ("train", "validation"):
        tokens = Tokens.open(tokens_folder, name)
        for ids in (np.arange(len(tokens)), np.array([3, 0, len(tokens) - 1, 3]), np.arange(0)):
            row, document, labels = tokens.document_spans(ids)
            expected = [
                (place, *found)
                for place, sample in enumerate(ids)
                for found in tokens.documents_in(int(sample)).tolist()
            ]
            assert list(zip(row.tolist(), document.tolist(), labels.tolist(), strict=True)) == expected


def test_a_sample_shows_where_it_comes_from_and_how_it_begins(tokens_folder):
    tokens = Tokens.open(tokens_folder)
    assert [count for _, count in origins(tokens, 5)] == tokens.documents_in(5)[:, 1].tolist()
    assert origins(tokens, 5)[0][0] == tokens.origin(int(tokens.documents_in(5)[0, 0]))
    decode = TextTokenizer.open(tokens.tokenizer_folder).decode
    whole = decode(tokens.sample([5])[0].tolist())
    assert beginning(tokens, 5, decode, 20) == " ".join(whole.split())[:20]
    assert beginning(tokens, 5, lambda ids: "a\x1b[31mb\nc\u202ed", 20) == "a [31mb c d"
