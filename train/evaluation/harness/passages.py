"""Which questions of a task are about the same passage, and so are not independent of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LEAST = 100
"""Characters of a text that counts as a passage: shorter ones are labels, choices and short questions."""


def passage_groups(questions: Sequence[Any]) -> list[int]:
    """Return the group of each question, given its fields: the place of the first question that is linked to it.

    Questions are linked if a field has the same text of at least LEAST characters in both, directly or by way of
    others. A text that more than half of the questions have is an instruction, and links none.
    """
    texts = [_texts(question) for question in questions]
    common = {
        text for text, count in Counter(text for found in texts for text in found).items() if 2 * count > len(texts)
    }
    group = list(range(len(questions)))

    def first_of(place: int) -> int:
        while group[place] != place:
            group[place] = group[group[place]]
            place = group[place]
        return place

    seen: dict[tuple[str, str], int] = {}
    for place, found in enumerate(texts):
        for text in found - common:
            one, other = sorted((first_of(place), first_of(seen.setdefault(text, place))))
            group[other] = one
    return [first_of(place) for place in range(len(questions))]


def _texts(question: Any) -> set[tuple[str, str]]:
    """Return the long texts of a question, with the names of their fields."""
    if not isinstance(question, Mapping):
        return set()
    return {(str(name), text) for name, text in question.items() if isinstance(text, str) and len(text) >= LEAST}
