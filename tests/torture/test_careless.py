"""Every variant of careless and hostile treatment of files, once."""

import pytest

from tests.torture.careless import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_is_lost_and_nothing_foreign_is_written_to(name, tmp_path):
    assert VARIANTS[name](tmp_path) == ""
