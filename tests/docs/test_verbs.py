"""README: the table of verbs has those of the command line, in the same order."""

import re
from pathlib import Path

from launch.cli import VERBS

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_lists_every_verb_in_the_order_of_the_command_line():
    assert re.findall(r"^\| `pdpc ([\w ]+)` \|", README.read_text("utf-8"), flags=re.MULTILINE) == list(VERBS)
