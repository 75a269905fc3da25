"""What `pdpc score` found out about its scores, carried from SCORES through ORDER to the run and its report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FINDINGS = "score_findings"
"""Fact of an ORDER that was arranged by scores with findings."""
BEFORE = re.compile(r"slice .*(gives nearly every sample the same loss|PD is nearly the same|the weak one \(mean PD)")
"""Findings of SCORES that were written when their manifest did not yet say which ones call for acceptance."""


@dataclass(frozen=True)
class Findings:
    """Sentences about scores."""

    unusable: tuple[str, ...] = ()
    """Why an order by these scores is not the curriculum that it claims to be: `pdpc train` asks to accept them."""
    others: tuple[str, ...] = ()
    """What else was found, to be known but not to be accepted."""

    def __bool__(self) -> bool:
        return bool(self.unusable or self.others)

    @property
    def all(self) -> tuple[str, ...]:
        """All sentences, those about unusable scores first."""
        return self.unusable + self.others

    def of_slice(self, name: str) -> Findings:
        """Return the findings about one slice, and those about no slice in particular."""
        other = re.compile(rf"slice (?!{re.escape(repr(name))}:)")
        return Findings(
            *(tuple(text for text in part if not other.match(text)) for part in (self.unusable, self.others))
        )

    def as_fact(self) -> dict[str, Any]:
        """Return the facts to store in an ORDER: none if nothing was found."""
        return {FINDINGS: {"unusable": list(self.unusable), "others": list(self.others)}} if self else {}


def of_scores(facts: Mapping[str, Any]) -> Findings:
    """Return the findings in the facts of SCORES."""
    warnings = list(facts.get("warnings", []))
    unusable = facts.get("unusable", [text for text in warnings if BEFORE.match(text)])
    return Findings(tuple(unusable), tuple(text for text in warnings if text not in unusable))


def of_order(facts: Mapping[str, Any]) -> Findings:
    """Return the findings in the facts of an ORDER."""
    found = facts.get(FINDINGS, {})
    return Findings(tuple(found.get("unusable", ())), tuple(found.get("others", ())))


def joined(parts: Iterable[Findings]) -> Findings:
    """Return the findings of several artifacts, each sentence once."""
    unusable: dict[str, None] = {}
    others: dict[str, None] = {}
    for part in parts:
        unusable |= dict.fromkeys(part.unusable)
        others |= dict.fromkeys(part.others)
    return Findings(tuple(unusable), tuple(text for text in others if text not in unusable))


def listed(texts: Sequence[str]) -> str:
    """Return sentences in one line, numbered if there are several."""
    return texts[0] if len(texts) == 1 else " ".join(f"({n}) {text};" for n, text in enumerate(texts, 1)).rstrip(";")
