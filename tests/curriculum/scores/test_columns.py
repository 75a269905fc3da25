"""Sample columns are joined from TOKENS, SCORES and own scores, and mismatches are reported."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.scores import columns as module
from curriculum.scores.columns import SampleColumns
from curriculum.scores.expression import Expression
from curriculum.scores.own import OwnScores
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens

EXAMPLES = settings().max_examples
SIZES = {"arts": 7, "code": 0, "math": 1, "web": 40}


@pytest.fixture(scope="module")
def tokens(tokens_of, tmp_path_factory):
    return tokens_of(tmp_path_factory.mktemp("columns") / "tokens", SIZES)


@pytest.fixture
def own(tmp_path, parquet):
    return lambda **columns: OwnScores(parquet(tmp_path / "own.parquet", **columns))


def whole(columns, *texts):
    """Weight, source and every score of all samples."""
    chunks = list(columns.chunks([Expression(text) for text in texts]))
    assert [chunk.first for chunk in chunks] == list(range(0, columns.samples, module.CHUNK_SAMPLES))
    return (
        np.concatenate([chunk.weight_N for chunk in chunks]),
        np.concatenate([chunk.source_N for chunk in chunks]),
        *(np.concatenate([chunk.scores[text] for chunk in chunks]) for text in texts),
    )


@pytest.mark.parametrize("chunk", [1, 5, 1 << 22])
def test_length_and_source_are_those_of_the_tokens(tokens, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK_SAMPLES", chunk)
    weights, sources, lengths = whole(SampleColumns(tokens, None, None), "length")
    ids = np.arange(len(tokens))
    assert (weights == tokens.real_tokens(ids)).all()
    assert (lengths == weights).all()
    assert (sources == tokens.source_of(ids)).all()


@pytest.mark.parametrize("chunk", [7, 1 << 22])
def test_losses_and_own_columns_stand_side_by_side(tokens_folder, scores_folder, own, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK_SAMPLES", chunk)
    tokens, scores = Tokens.open(tokens_folder), Scores.open(scores_folder)
    quality = np.random.default_rng(0).normal(size=len(tokens)).astype(np.float32)
    _, _, both = whole(SampleColumns(tokens, scores, own(quality=quality)), "pd + quality")
    assert (both == scores.column("pd") + quality).all()


@settings(max_examples=2 * EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), bad=st.integers(0, 3), wide=st.booleans(), chunk=st.sampled_from([1, 6, 100]))
def test_a_sample_has_the_mean_of_its_documents_by_tokens(tokens, parquet, tmp_path, seed, bad, wide, chunk):
    rng = np.random.default_rng(seed)
    origins = rng.permutation(tokens.origins)
    values = rng.normal(size=len(origins)) * (10.0 ** rng.integers(-30, 30, len(origins)) if wide else 1)
    values[rng.permutation(len(values))[:bad]] = rng.choice([np.nan, np.inf, -np.inf])
    path = parquet(tmp_path / "own.parquet", document=origins, quality=values.astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_SAMPLES", chunk)
        _, _, means = whole(SampleColumns(tokens, None, OwnScores(path)), "quality")
    of_document = dict(zip(origins.tolist(), values.astype(np.float32).tolist(), strict=True))
    of_token = []  # by position in the slice's token stream: the value of its document
    for document, origin in enumerate(tokens.origins.tolist()):
        of_token += [of_document[origin]] * (len(tokens.document(document)[1]) + 1)
        last_of_source = (
            document + 1 == tokens.documents or tokens.document(document + 1)[0] != (tokens.document(document)[0])
        )
        of_token += [of_document[origin]] * last_of_source
    starts = np.concatenate([[0], np.cumsum([0, *tokens._run_tokens])[1:]])
    for source in range(len(tokens.sources)):
        for number, sample in enumerate(tokens.samples_of(source)):
            begin = starts[source] + number * tokens.seq_len
            window = np.array(of_token[begin : min(begin + tokens.seq_len + 1, starts[source + 1])])
            if np.isfinite(window).all():
                scale = np.abs(window).max()
                assert abs(means[sample] - window.mean()) <= 1e-6 * scale
            else:
                assert np.isnan(means[sample])


def test_without_tokens_the_table_knows_length_and_source(own):
    scores = own(quality=[1.0, 2.0, 3.0], length=[5, 1, 7], source=["b", "a", "b"])
    weights, sources, ratio = whole(SampleColumns(None, None, scores), "quality / length")
    assert weights.tolist() == [5, 1, 7]
    assert [SampleColumns(None, None, scores).sources[code] for code in sources] == ["b", "a", "b"]
    assert np.allclose(ratio, [0.2, 2.0, 3 / 7])
    weights, sources = whole(SampleColumns(None, None, own(quality=[1.0, 2.0])))
    assert weights.tolist() == [1, 1]
    assert sources.tolist() == [0, 0]


@pytest.mark.parametrize("length", [0, -3, None, float("inf"), 0.5, 1e30])
def test_a_length_that_is_none_is_named(own, length):
    with pytest.raises(
        ValueError, match=r"the length of sample 1 is .*: give a number of at least 1 and below 2147483648"
    ):
        whole(SampleColumns(None, None, own(quality=[1.0, 2.0], length=pa.array([1, length], pa.float64()))))


def test_what_does_not_fit_is_named(tokens, tokens_folder, scores_folder, own):
    with pytest.raises(ValueError, match="tokens=null and own_scores=null"):
        SampleColumns(None, None, None)
    with pytest.raises(ValueError, match=r"is by document: give tokens=FOLDER"):
        SampleColumns(None, None, own(quality=[1.0], document=[0]))
    with pytest.raises(ValueError, match=r"has 3 rows, but slice 'train' of .* has 48 samples"):
        SampleColumns(tokens, None, own(quality=[1.0, 2.0, 3.0]))
    mine = Tokens.open(tokens_folder)
    with pytest.raises(ValueError, match="own_scores has a column 'pd', which the scores also have: rename it"):
        SampleColumns(mine, Scores.open(scores_folder), own(pd=np.zeros(len(mine))))
    with pytest.raises(ValueError, match="scores other tokens"):
        SampleColumns(tokens, Scores.open(scores_folder), None)


def test_an_unknown_column_is_named_with_what_there_is(tokens, tokens_folder, scores_folder, own):
    columns = SampleColumns(tokens, None, own(quality=np.zeros(48)))
    with pytest.raises(
        ValueError, match=r"score 'qualty \+ 1' needs 'qualty', but columns are \['quality', 'length'\]; set scores="
    ):
        columns.check(Expression("qualty + 1"))
    scored = SampleColumns(Tokens.open(tokens_folder), Scores.open(scores_folder), None)
    with pytest.raises(
        ValueError, match=r"columns are \['loss_weak', 'loss_strong', 'ppl_weak', 'ppl_strong', 'pd', 'length'\]$"
    ):
        scored.check(Expression("ppl_medium"))


def test_documents_without_a_row_are_named(tokens, own):
    documents = np.sort(tokens.origins)
    missing = SampleColumns(tokens, None, own(quality=np.zeros(len(documents) - 2), document=documents[2:]))
    with pytest.raises(ValueError, match=rf"no row for document [01] \(2 of {len(documents)} are missing\)"):
        whole(missing, "quality")
    others = [*documents, 10**6]  # of another slice: they are ignored
    _, _, values = whole(SampleColumns(tokens, None, own(quality=np.ones(len(others)), document=others)), "quality")
    assert (values == 1).all()
