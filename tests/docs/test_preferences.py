"""docs/preferences.md: the table has exactly the existing preferences."""

import re
from pathlib import Path

from curriculum.preference import PREFERENCES
from train.config.groups import options_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "preferences.md"


def test_the_table_has_exactly_the_existing_preferences():
    first = PAGE.read_text("utf-8").partition("\n## ")[0]  # further tables are of other settings
    rows = re.findall(r"^\| `(\w+)` \|", first, flags=re.MULTILINE)
    assert set(rows) == {*PREFERENCES, *options_of("preference")}
