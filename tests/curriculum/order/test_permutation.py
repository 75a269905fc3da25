import numpy as np
import pytest

from curriculum.order.permutation import KeyedPermutation


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_is_a_bijection(size):
    assert sorted(KeyedPermutation(size, 5)(np.arange(size))) == list(range(size))


def test_chunks_give_the_same_values_and_keys_give_others():
    permutation = KeyedPermutation(1000, 7)
    whole = permutation(np.arange(1000))
    assert (np.concatenate([permutation(part) for part in np.array_split(np.arange(1000), 13)]) == whole).all()
    assert (KeyedPermutation(1000, 8)(np.arange(1000)) == whole).mean() < 0.02


def test_values_are_spread_evenly():
    # Mean position of the first half of the indices: 3.3 sigma around the middle.
    means = [KeyedPermutation(4000, key)(np.arange(2000)).mean() for key in range(40)]
    assert abs(np.mean(means) - 1999.5) < 3.3 * 1154.7 / np.sqrt(2 * 2000 * 40)


def test_empty_domain_is_refused():
    with pytest.raises(ValueError, match="size=0"):
        KeyedPermutation(0, 1)
