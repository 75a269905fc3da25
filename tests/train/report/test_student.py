import math

import pytest

from train.report.student import p_value, t_quantile, tail


def test_quantiles_and_tails_of_tables():
    assert [t_quantile(n) for n in (1, 5, 30)] == pytest.approx([12.706205, 2.570582, 2.042272], abs=1e-6)
    assert tail(1.0, 1) == pytest.approx(0.5)
    assert tail(-3.0, 2) == pytest.approx(1 - 3 / math.sqrt(11))
    assert tail(2.0, math.inf) == pytest.approx(math.erfc(2 / math.sqrt(2)))


@pytest.mark.parametrize("freedom", [1, 2, 7.5, 40, math.inf])
def test_a_p_value_is_5_percent_where_the_interval_reaches_zero(freedom):
    quantile = t_quantile(freedom)
    assert p_value(1.0, 1.0, quantile) == pytest.approx(0.05, abs=1e-6)
    assert p_value(2.0, 1.0, quantile) == pytest.approx(tail(2 * quantile, freedom))
    assert (p_value(0.0, 1.0, quantile), p_value(1.0, 0.0, quantile)) == (1.0, 0.0)
