"""The demo's benchmark: which of four continuations is the real one?

    context       a stretch of a held-out document
    choices       its real continuation, and three continuations from other documents of the same source; none of them
                  starts its document, so that neither topic nor position gives the answer away

The artifact (kind "benchmark") is a task folder that lm-evaluation-harness loads offline: `continuation.yaml` and
`continuation.jsonl` (context, choices, answer, source). The harness requires an absolute path to the jsonl in the yaml:
rebuild the benchmark after moving the folder.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from curriculum.artifact.create import create, reusable
from curriculum.artifact.files import ArtifactError, write_text
from curriculum.tokens.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TASK = "continuation"
CHOICES = 4
TRIES = 50
"""Stretches tried for a wrong continuation before its question is dropped."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a document, cut in two."""

    context: str
    continuation: str


@dataclass
class Shelf:
    """The long enough documents of one source, and where unused questions can be cut from them."""

    documents: dict[int, list[int]]
    """Token ids by document number."""
    starts: Iterator[tuple[int, int]]
    """(document, first token) of non-overlapping stretches: every document once before any twice."""


def build(
    tokens: Tokens, folder: Path, *, questions: int, seed: int, context_tokens: int, continuation_tokens: int
) -> None:
    """Write a benchmark of `questions` questions into `folder`, or reuse a complete one built from the same inputs.

    tokens: a held-out slice. Questions are spread evenly over the sources as far as their documents allow, and the
    right answer is equally often in each position. Raises ValueError for invalid numbers or when the slice has too few
    long documents, ArtifactError when `folder` holds something else.
    """
    config = {
        "questions": questions,
        "seed": seed,
        "context_tokens": context_tokens,
        "continuation_tokens": continuation_tokens,
    }
    for name in ("questions", "context_tokens", "continuation_tokens"):
        if config[name] < 1:
            raise ValueError(f"{name}={config[name]} must be at least 1")
    inputs = {"tokens": tokens.fingerprint}
    if reusable(folder, "benchmark", config=config, inputs=inputs):
        return
    rng = random.Random(seed)
    skipped: Counter[str] = Counter()
    cutter = Cutter(_tokenizer(tokens.tokenizer_folder), context_tokens, continuation_tokens)
    shelves = _shelves(tokens, rng, cutter.length, wanted=questions, skipped=skipped)
    rows = _questions(shelves, cutter, questions, rng, skipped)
    with create(folder, "benchmark", config=config, inputs=inputs) as draft:
        with open(draft.path / f"{TASK}.jsonl", "x", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        text = yaml.safe_dump(task(folder.resolve() / f"{TASK}.jsonl"), sort_keys=False)
        write_text(draft.path / f"{TASK}.yaml", text)
        draft.facts["questions_by_source"] = dict(sorted(Counter(row["source"] for row in rows).items()))
        draft.facts["left_out"] = dict(sorted(skipped.items()))


def task(data: Path) -> dict[str, Any]:
    """Return the harness's task description for the questions in the file `data`.

    No `num_fewshot`: a value here would silently override the one an evaluation asks for.
    """
    return {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",  # continuations include their leading whitespace
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1.0},
    }


@dataclass(frozen=True)
class Cutter:
    """Cuts token ids into context and continuation, and decodes both."""

    tokenizer: Tokenizer
    context_tokens: int
    continuation_tokens: int

    @property
    def length(self) -> int:
        """Tokens per stretch."""
        return self.context_tokens + self.continuation_tokens

    def cut(self, ids: list[int], start: int) -> Passage | None:
        """Return the stretch at `start`; None if a cut splits a character or the continuation is almost empty."""
        middle = start + self.context_tokens
        context = self.tokenizer.decode(ids[start:middle], skip_special_tokens=False)
        whole = self.tokenizer.decode(ids[start : start + self.length], skip_special_tokens=False)
        continuation = whole.removeprefix(context)
        broken = "\ufffd" in whole or not whole.startswith(context)
        if broken or not context.strip() or len(continuation.strip()) < self.continuation_tokens:
            return None
        return Passage(context, continuation)


def _tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: prepare the tokens again with a tokenizer that has a tokenizer.json")
    return Tokenizer.from_file(str(path))


def _shelves(
    tokens: Tokens, rng: random.Random, length: int, *, wanted: int, skipped: Counter[str]
) -> dict[str, Shelf]:
    """Return the sources that have enough documents of at least `length` tokens, sorted by name.

    Reads at most 50 documents per question (at least 1,000), drawn by `rng`, so the cost does not grow with the slice.
    """
    looked_at = sorted(rng.sample(range(tokens.documents), min(tokens.documents, max(50 * wanted, 1000))))
    by_source: dict[str, dict[int, list[int]]] = {}
    for number in looked_at:
        source, ids = tokens.document(number)
        if len(ids) < length:
            skipped["documents too short"] += 1
        else:
            by_source.setdefault(source, {})[number] = ids.tolist()
    shelves = {}
    for source, documents in sorted(by_source.items()):
        if len(documents) < CHOICES:
            skipped["sources with too few long documents"] += 1
        else:
            shelves[source] = Shelf(documents, _fresh_starts(documents, length, rng))
    return shelves


def _fresh_starts(documents: Mapping[int, list[int]], length: int, rng: random.Random) -> Iterator[tuple[int, int]]:
    stretches = []
    for number, ids in documents.items():
        offset = rng.randrange(len(ids) % length + 1)
        starts = list(range(offset, len(ids) - length + 1, length))
        rng.shuffle(starts)
        stretches += [(turn, rng.random(), number, start) for turn, start in enumerate(starts)]
    return iter([(number, start) for _, _, number, start in sorted(stretches)])


def _questions(
    shelves: dict[str, Shelf], cutter: Cutter, wanted: int, rng: random.Random, skipped: Counter[str]
) -> list[dict[str, Any]]:
    """Cut `wanted` questions from the sources in turn; a source with no more stretches drops out."""
    places = [number % CHOICES for number in range(wanted)]
    rng.shuffle(places)
    rows: list[dict[str, Any]] = []
    active = list(shelves)
    while active and len(rows) < wanted:
        for source in list(active):
            passages = _next_question(shelves[source], cutter, rng, skipped)
            if passages is None:
                active.remove(source)
            elif len(rows) < wanted:
                right, *wrong = passages
                choices = [one.continuation for one in wrong]
                choices.insert(places[len(rows)], right.continuation)
                rows.append(
                    {"context": right.context, "choices": choices, "answer": places[len(rows)], "source": source}
                )
    if len(rows) < wanted:
        raise ValueError(
            f"questions={wanted}, but the slice has only {len(rows)} stretches of {cutter.length} tokens in sources "
            f"with at least {CHOICES} documents of that length: lower questions, context_tokens or "
            "continuation_tokens, or hold out more documents"
        )
    return rows


def _next_question(shelf: Shelf, cutter: Cutter, rng: random.Random, skipped: Counter[str]) -> list[Passage] | None:
    """Return the right passage and three wrong ones from other documents; None if the source has no more stretches."""
    for document, start in shelf.starts:
        right = cutter.cut(shelf.documents[document], start)
        if right is None:
            skipped["stretches that split a character or say nothing"] += 1
            continue
        wrong = _wrong_passages(right, document, shelf, cutter, rng)
        if len(wrong) == CHOICES - 1:
            return [right, *wrong]
        skipped["stretches without three other continuations"] += 1
    return None


def _wrong_passages(right: Passage, document: int, shelf: Shelf, cutter: Cutter, rng: random.Random) -> list[Passage]:
    others = [number for number in shelf.documents if number != document]
    rng.shuffle(others)
    wrong: list[Passage] = []
    seen = {right.continuation.strip()}
    for attempt in range(TRIES):
        ids = shelf.documents[others[attempt % len(others)]]
        passage = cutter.cut(ids, rng.randrange(len(ids) - cutter.length + 1))
        if passage is None or passage.continuation.strip() in seen:
            continue
        seen.add(passage.continuation.strip())
        wrong.append(passage)
        if len(wrong) == CHOICES - 1:
            break
    return wrong
