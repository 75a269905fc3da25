"""Score expressions: accepted text evaluates as in numpy; everything else is rejected and never executed."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.scores.expression import LONGEST_TEXT, Expression

EXAMPLES = settings().max_examples
COLUMNS = {
    "pd": np.array([0.5, -1.0, 3.0], np.float32),
    "length": np.array([1.0, 2.0, 512.0], np.float32),
    "loss_weak": np.array([4.0, 0.0, 2.5], np.float32),
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("pd", COLUMNS["pd"]),
        ("  pd  ", COLUMNS["pd"]),
        ("-pd + +1", 1 - COLUMNS["pd"]),
        ("(pd - loss_weak) / length", (COLUMNS["pd"] - COLUMNS["loss_weak"]) / COLUMNS["length"]),
        ("2 ** pd ** 2", 2 ** (COLUMNS["pd"] ** 2)),
        ("-pd ** 2", -(COLUMNS["pd"] ** 2)),
        ("log(length) * exp(pd)", np.log(COLUMNS["length"]) * np.exp(COLUMNS["pd"])),
        ("sqrt(abs(pd))", np.sqrt(np.abs(COLUMNS["pd"]))),
        ("minimum(pd, 1) + maximum(pd, 1.5e0)", np.minimum(COLUMNS["pd"], 1) + np.maximum(COLUMNS["pd"], 1.5)),
        ("1 / (loss_weak * 0)", np.full(3, np.inf)),
    ],
)
def test_values_are_numpys(text, value):
    result = Expression(text)(COLUMNS)
    assert result.dtype == np.float32
    assert result.shape == (3,)
    np.testing.assert_allclose(result, value, rtol=1e-6)


def texts():
    """Arithmetic over the columns, as text."""
    leaves = st.sampled_from([*COLUMNS, "1", "2.5", "0.25"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda three: f"({' '.join(three)})"),
            st.tuples(st.sampled_from(["exp", "log", "sqrt", "abs"]), inner).map(lambda two: f"{two[0]}({two[1]})"),
            st.tuples(st.sampled_from(["minimum", "maximum"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
            inner.map(lambda text: f"-{text}"),
        ),
        max_leaves=12,
    ).filter(lambda text: len(text) <= LONGEST_TEXT and any(name in text for name in COLUMNS))


@settings(max_examples=4 * EXAMPLES)
@given(texts())
def test_any_arithmetic_is_numpys(text):
    numbers = {name: getattr(np, name) for name in ("exp", "log", "sqrt", "abs", "minimum", "maximum")}
    with np.errstate(all="ignore"):
        expected = eval(text, {"__builtins__": {}}, {**COLUMNS, **numbers})
    np.testing.assert_allclose(Expression(text)(COLUMNS), np.broadcast_to(expected, 3).astype(np.float32), rtol=1e-4)


def test_names_are_columns_in_order_of_appearance():
    assert Expression("length * pd - length / exp(loss_weak)").names == ["length", "pd", "loss_weak"]


@pytest.mark.parametrize(
    "text",
    [
        "pd.real",
        "pd.__class__",
        "pd[0]",
        "pd[:]",
        "__import__('os')",
        "eval(pd)",
        "open(pd)",
        "exp.__call__(pd)",
        "(exp)(pd)(pd)",
        "(lambda: pd)()",
        "lambda pd: pd",
        "[pd for pd in pd]",
        "{pd}",
        "{pd: 1}",
        "(pd, 1)",
        "[pd]",
        "'pd'",
        "f'{pd}'",
        "b'pd'",
        "pd if pd else pd",
        "pd and pd",
        "not pd",
        "~pd",
        "pd < 1",
        "pd == 1",
        "pd // 2",
        "pd % 2",
        "pd @ pd",
        "pd << 1",
        "pd | 1",
        "(pd := 1)",
        "exp(x=pd)",
        "exp(*pd)",
        "exp(**pd)",
        "exp()",
        "exp(pd, pd)",
        "maximum(pd)",
        "True * pd",
        "None",
        "...",
        "1j * pd",
        "await pd",
        "yield pd",
        "pd; pd",
        "pd = 1",
        "import os",
        "pd\npd",
        "",
        "   ",
        "1 + 2",
        "exp(1)",
        "pd +",
        "(pd",
        "pd\0",
    ],
)
def test_everything_else_is_refused(text):
    with pytest.raises(ValueError, match="score"):
        Expression(text)


@pytest.mark.parametrize("text", ["__class__", "__builtins__", "os"])
def test_a_name_is_a_column_and_nothing_else(text):
    assert Expression(text).names == [text]
    with pytest.raises(KeyError):
        Expression(text)({})


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9 * pd",
        "pd * 9**9**9**9**9**9",
        f"pd * {'9' * 400}",
        f"pd * {'9' * 450}.5",
        "pd * 1e99999",
        "pd - 2 ** 2 ** 2 ** 2 ** 2 ** 2 ** 2",
    ],
)
def test_huge_numbers_are_infinite_at_once(text):
    start = time.process_time()
    assert not np.isfinite(Expression(text)(COLUMNS)).any()
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "(" * 245 + "pd" + ")" * 245,
        "-" * 490 + "pd",
        "abs(" * 101 + "pd" + ")" * 101,
        "pd" + "**pd" * 120,
        "open(" + "-" * 480 + "pd)",
        "-" * 480 + "pd.x",
        "[" * 240 + "]" * 240,
    ],
)
def test_deep_nesting_is_refused_in_few_words(text):
    with pytest.raises(ValueError, match="score") as caught:
        Expression(text)
    assert len(str(caught.value)) < 2000


def test_a_hundred_levels_are_enough():
    assert Expression("-" * 100 + "pd")(COLUMNS).tolist() == COLUMNS["pd"].tolist()
    assert Expression("abs(" * 99 + "pd" + ")" * 99)(COLUMNS).tolist() == np.abs(COLUMNS["pd"]).tolist()
    with pytest.raises(ValueError, match="nested more than 100 levels deep"):
        Expression("-" * 101 + "pd")


def test_what_is_wrong_is_shown_as_it_was_written():
    with pytest.raises(ValueError, match=r"score ' pd \+ length\.T': 'length\.T' is not in the grammar"):
        Expression(" pd + length.T")


def test_what_is_too_long_is_refused():
    with pytest.raises(ValueError, match=f"has {LONGEST_TEXT + 4} characters, at most {LONGEST_TEXT} are allowed"):
        Expression("pd" + "+" * LONGEST_TEXT + "pd")
