import math

import pytest

from train.report.student import NORMAL, p_value, t_quantile, tail

T_975 = {
    1: 12.706205,
    2: 4.302653,
    5: 2.570582,
    9: 2.262157,
    10: 2.228139,
    30: 2.042272,
    120: 1.979930,
    10**6: 1.959966,
}


@pytest.mark.parametrize("freedom", T_975)
def test_students_t(freedom):
    assert t_quantile(freedom) == pytest.approx(T_975[freedom], abs=3e-4)
    assert tail(T_975[freedom], freedom) == pytest.approx(0.05, abs=1e-6)


def test_between_whole_numbers_the_quantile_is_never_too_small():
    for freedom in (1.2, 1.5, 2.5, 4.4, 8.9, 17.3):
        assert tail(t_quantile(freedom), freedom) <= 0.0501
        assert t_quantile(freedom + 0.1) < t_quantile(freedom)


def test_tails():
    assert tail(0.0, 5) == pytest.approx(1.0)
    assert tail(1.0, 1) == pytest.approx(0.5)
    assert tail(3.0, 2) == pytest.approx(1 - 3 / math.sqrt(11))
    assert tail(2.0, 1e7) == pytest.approx(math.erfc(2 / math.sqrt(2)), rel=1e-4)


@pytest.mark.parametrize("freedom", [1, 2, 7.5, 40])
def test_a_p_value_is_5_percent_where_the_interval_reaches_zero(freedom):
    quantile = t_quantile(freedom)
    assert p_value(1.0, 1.0, quantile) == pytest.approx(0.05, abs=2e-3)
    assert p_value(2.0, 1.0, quantile) < 0.05 < p_value(0.9, 1.0, quantile) < 1
    assert p_value(2.0, 1.0, NORMAL) == pytest.approx(math.erfc(2 * NORMAL / math.sqrt(2)))
    assert (p_value(0.0, 1.0, quantile), p_value(1.0, 0.0, quantile)) == (1.0, 0.0)
