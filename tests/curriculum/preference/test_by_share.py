"""Preferences given as shares: of sources, or of buckets in a table."""

import numpy as np
import pytest

from curriculum.preference import Mixture, Table

PROGRESS = np.linspace(0, 1, 5)  # the middles of the steps: 1/8, 3/8, 5/8, 7/8


def test_a_mixture_moves_in_straight_lines_and_the_rest_shares_what_is_left_by_size():
    mixture = Mixture(shares={0.0: {"code": 0.0}, 0.5: {"code": 0.4}, 1.0: {"code": 0.4, "web": 0.6}})
    shares = np.exp(mixture.log_wish(PROGRESS, np.array([10, 10, 30]), ["code", "math", "web"]))
    assert np.allclose(shares[0], [0.1, 0.225, 0.675])
    assert np.allclose(shares[1], [0.3, 0.175, 0.525])
    assert np.allclose(shares[3], [0.4, 0.15 * 0.25, 0.45 * 0.25 + 0.6 * 0.75])


@pytest.mark.parametrize("row", [{"a": 0.1, "b": 0.2, "c": 0.7}, {"c": 0.7, "b": 0.2, "a": 0.1}, {"a": 1 + 9e-10}])
def test_a_point_that_gives_all_away_leaves_nothing_for_the_rest(row):
    # In floating point such rows sum to a little more or less than 1.
    wish = Mixture(shares={0.0: row}).log_wish(PROGRESS, np.array([5, 5, 5, 5]), ["a", "b", "c", "rest"])
    assert np.isneginf(wish[:, 3]).all()
    assert np.isfinite(wish[:, 0]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixture(), "shares is empty"),
        (lambda: Mixture(shares={1.5: {"a": 0.5}}), r"shares: progress 1\.5 must be between 0 and 1"),
        (lambda: Mixture(shares={0.0: {"a": -0.5}}), "at 0.0.* must be at least 0 and sum to at most 1"),
        (lambda: Mixture(shares={0.0: {"a": 0.7, "b": 0.7}}), "at 0.0.* must be at least 0 and sum to at most 1"),
        (lambda: Mixture(shares={0.0: {"a": float("nan")}}), "at 0.0.* must be at least 0 and sum to at most 1"),
        (lambda: Mixture(stratify_by="source", shares={0.0: {"a": 0.5}}), "a mixture moves source shares"),
    ],
)
def test_impossible_mixtures_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_source_that_is_not_there_is_named():
    mixture = Mixture(shares={0.0: {"code": 0.5, "cod": 0.1, "wbe": 0.1}})
    with pytest.raises(ValueError, match="names cod, wbe, but the sources are code, web"):
        mixture.log_wish(PROGRESS, np.array([5, 5]), ["code", "web"])


@pytest.fixture
def table(tmp_path):
    def make(text, **fields):
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8")
        return Table(file=str(path), **fields)

    return make


def test_a_table_is_read_by_the_names_of_its_columns(table):
    made = table("high,progress,low\n0,0,1\n3,1,1\n")
    wish = made.log_wish(PROGRESS, np.array([10, 10]), ["low", "high"])
    assert np.allclose(np.exp(wish), np.stack([np.ones(4), 3 * (PROGRESS[1:] + PROGRESS[:-1]) / 2], axis=1))


def test_before_its_first_and_after_its_last_line_a_table_stays(table):
    made = table("progress,low,high\n0.4,1,2\n0.6,2,1\n")
    assert np.allclose(np.exp(made.log_wish(PROGRESS, np.array([1, 1]), []))[[0, 3]], [[1, 2], [2, 1]])


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_that_a_spreadsheet_wrote_is_read(table, mark):
    assert table(f"{mark}progress,low,high\r\n0,1,1\r\n\r\n1,1,2\r\n").rows()[0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has the columns \[\], but needs \['progress', 'low', 'high'\]"),
        ("progress,low\n0,1\n", r"has the columns \['progress', 'low'\]"),
        ("progress,low,high,high\n0,1,1,1\n", r"has the columns"),
        ("progress,low,high\n", "has no rows"),
        ("progress,low,high\n0,1,1\n1,one,1\n", r"table\.csv, line 3: low is 'one': it must be a number of at least 0"),
        ("progress,low,high\n0,1,-1\n", r"table\.csv, line 2: high is '-1'"),
        ("progress,low,high\n0,1,nan\n", r"table\.csv, line 2: high is 'nan'"),
        ("progress,low,high\n0,1,inf\n", r"table\.csv, line 2: high is 'inf'"),
        ("progress,low,high\n0,1\n", r"table\.csv, line 2: high is None"),
        ("progress,low,high\n0,1,1,7\n", r"table\.csv, line 2: '7' is beyond its 3 columns"),
        ("progress,low,high\n0,1,1\n0.5,0,0\n", r"table\.csv, line 3: no bucket has a share above 0"),
        ("progress,low,high\n0,1,1\n0.5,1,1\n0.5,1,1\n", r"table\.csv, line 4: progress is 0\.5 after 0\.5"),
        ("progress,low,high\n0,1,1\n1.5,1,1\n", r"table\.csv, line 3: progress is 1\.5"),
        ("progress,low,high\n0,1," + "1" * 200_000, r"table\.csv, line 2: not CSV \(field larger than field limit"),
        ("progress,low,high\n" + " " * (1 << 24), r"table\.csv has 16,777,234 bytes, more than the 16,777,216"),
    ],
)
def test_a_bad_table_is_named_by_line_and_column(table, text, message):
    with pytest.raises(ValueError, match=message):
        table(text)


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"preference\.file='' is not a file"):
        Table()
