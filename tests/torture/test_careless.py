"""Every variant of careless and hostile treatment of files, once."""

import pytest

from tests.torture.careless import VARIANTS, quick_watch


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_is_lost_and_nothing_foreign_is_written_to(name, tmp_path):
    with quick_watch():
        assert VARIANTS[name](tmp_path) == ""
