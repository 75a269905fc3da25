"""Records of preference data, in the forms of the ecosystem, as prompt and answers.

A record has a chosen and one or more rejected answers, each a text or a list of chat messages, and its prompt in a
column of its own; without one, the chosen and rejected answers are whole texts or conversations, whose common beginning
is the prompt ("implicit prompt" in TRL).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from curriculum.text.document import BadRecordError, Columns, Document
from curriculum.text.text import InputSettings

Messages = list[dict[str, Any]]
Part = str | Messages
"""A text, or chat messages."""


@dataclass(frozen=True)
class PairInput(InputSettings):
    """The records: either `paths` or `dataset`."""

    source_column: str | None = None
    """Column with the name of the record's source; null: the name of its file, or of the dataset."""
    prompt_column: str | None = "prompt"
    """Column with the prompt, a text or a list of messages; null: what the chosen and rejected answers have in common
    at their start."""
    chosen_column: str = "chosen"
    """Column with the chosen answer, a text or a list of messages."""
    rejected_column: str = "rejected"
    """Column with the rejected answer, or a list of several."""
    chosen_reward_column: str | None = None
    """Column with the reward of the chosen answer; null: none."""
    rejected_reward_column: str | None = None
    """Column with the reward of the rejected answer, or a list with one for each; null: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("prompt_column", "chosen_column", "rejected_column", "chosen_reward_column", "rejected_reward_column")
        for name in names:
            if getattr(self, name) == "":
                raise ValueError(
                    f"input.{name} is empty: name a column{'' if 'prompt' not in name else ', or use null'}"
                )
        if (self.chosen_reward_column is None) != (self.rejected_reward_column is None):
            raise ValueError(
                f"input.chosen_reward_column={self.chosen_reward_column} and input.rejected_reward_column="
                f"{self.rejected_reward_column} go together: name both or neither"
            )

    @property
    def columns(self) -> PairColumns:
        """The columns to read."""
        rewards = (self.chosen_reward_column, self.rejected_reward_column) if self.chosen_reward_column else None
        names = (self.prompt_column, self.rejected_column, rewards)
        return PairColumns(self.chosen_column, self.source_column, "", self.max_document_bytes, *names)

    @property
    def has_rewards(self) -> bool:
        """Whether the records have rewards."""
        return self.chosen_reward_column is not None


class Record(NamedTuple):
    """A record: its place in the input, the prompt, the answers (the chosen one first) and their rewards."""

    place: str
    prompt: Part
    answers: list[Part]
    rewards: list[float] | None

    @property
    def chat(self) -> bool:
        """Whether the answers are messages."""
        return not isinstance(self.answers[0], str)

    @property
    def identity(self) -> bytes:
        """What decides whether the record is held out: its prompt, or the chosen answer if there is none."""
        value = self.prompt or self.answers[0]
        return (value if isinstance(value, str) else json.dumps(value, sort_keys=True)).encode()


@dataclass(frozen=True)
class PairColumns(Columns):
    """The columns of a record; `text` is the chosen one's. A document's text holds the record as JSON."""

    prompt: str | None = None
    rejected: str = "rejected"
    rewards: tuple[Any, Any] | None = field(default=None)

    @property
    def wanted(self) -> list[str]:
        """Names of the columns to read, without repetition."""
        names = (self.prompt, self.text, self.rejected, self.source, *(self.rewards or ()))
        return [name for name in dict.fromkeys(names) if name is not None]

    @property
    def texts(self) -> list[str]:
        """Names of the columns that must hold text."""
        return [self.source] if self.source is not None else []

    def key_of(self, name: str) -> str:
        """Return the setting that names a column."""
        keys = {self.prompt: "prompt_column", self.rejected: "rejected_column", self.text: "chosen_column"}
        for reward, key in zip(self.rewards or (), ("chosen_reward_column", "rejected_reward_column"), strict=False):
            keys[reward] = key
        return keys.get(name, "source_column")

    def whole(self, text: str, source: str, place: object) -> Document:
        """Raise BadRecordError: a text file has no columns."""
        raise BadRecordError(place, "a .txt file has no prompts and answers: give JSON lines or Parquet")

    def document(self, record: dict[str, Any], place: object) -> Document:
        """Return a record's prompt, answers and rewards. Raises BadRecordError if they are not usable."""
        chosen = _part(self.value(record, self.text, place), "the chosen answer", place)
        rejected = _several(self.value(record, self.rejected, place), isinstance(chosen, str), place)
        answers = [chosen, *rejected]
        prompt: Part
        if self.prompt is None:
            prompt, answers = _split(answers)
        else:
            prompt = _part(self.value(record, self.prompt, place), "the prompt", place)
            if isinstance(prompt, str) != isinstance(chosen, str):
                raise BadRecordError(
                    place,
                    "prompt and answers must both be texts, or both messages: if the answers are whole conversations, "
                    "set input.prompt_column=null",
                )
        rewards = _rewards([self.value(record, name, place) for name in self.rewards or ()], len(rejected), place)
        _check_answers(answers, place)
        text = json.dumps([str(place), prompt, answers, rewards], ensure_ascii=False)
        self.check_size(len(text), place)
        return Document(text, self.source_of(record, place))


def record_of(document: Document) -> Record:
    """Return the record that a document holds."""
    return Record(*json.loads(document.text))


def _part(value: Any, what: str, place: object) -> Part:
    """Return a text or a list of messages. Raises BadRecordError for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(message, dict) for message in value):
        for message in value:
            if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
                raise BadRecordError(place, f"{what} has a message without a role and a content that are text")
        return [{key: item for key, item in message.items() if item is not None} for message in value]
    if value is None or value == []:
        raise BadRecordError(place, f"{what} is missing: fix or remove the record")
    raise BadRecordError(place, f"{what} is a {type(value).__name__}, not a text or a list of messages")


def _several(value: Any, text: bool, place: object) -> list[Part]:
    """Return the rejected answers of a record: one, or a list. They are texts if the chosen one is."""
    single = isinstance(value, str) or (isinstance(value, list) and value != [] and isinstance(value[0], dict))
    values = [value] if single or not isinstance(value, list) else value
    if not values:
        raise BadRecordError(place, "there is no rejected answer: fix or remove the record")
    parts = [_part(item, "the rejected answer" if single else f"rejected answer {i + 1}", place)
             for i, item in enumerate(values)]  # fmt: skip
    if any(isinstance(part, str) != text for part in parts):
        raise BadRecordError(place, "chosen and rejected answers must all be texts, or all be messages")
    return parts


def _split(answers: list[Part]) -> tuple[Part, list[Part]]:
    """Return the common start of whole texts or conversations, and what follows it in each.

    As TRL's `extract_prompt`: a space before the first difference belongs to the answers.
    """
    if isinstance(answers[0], str):
        shared = answers[0][: common_start(answers)].removesuffix(" ")
        return shared, [answer[len(shared) :] for answer in answers]
    size = common_start(answers)
    return answers[0][:size], [answer[size:] for answer in answers]


def common_start(parts: Sequence[Sequence[Any]]) -> int:
    """Return how many elements all sequences have in common at their start."""
    size = min(map(len, parts))
    return next((i for i in range(size) if any(part[i] != parts[0][i] for part in parts)), size)


def _rewards(values: list[Any], rejected: int, place: object) -> list[float] | None:
    if not values:
        return None
    chosen, others = values
    others = others if isinstance(others, list) else [others]
    if len(others) != rejected:
        raise BadRecordError(place, f"has {len(others)} rewards of rejected answers, but {rejected} rejected answers")
    for value in (chosen, *others):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadRecordError(place, f"a reward is {value!r}, not a finite number: fix or remove the record")
    return [float(chosen), *map(float, others)]


def _check_answers(answers: list[Part], place: object) -> None:
    """Raise BadRecordError for an empty answer, and for a rejected one that equals the chosen one."""
    for number, answer in enumerate(answers):
        name = "the chosen answer" if number == 0 else f"rejected answer {number}"
        if not (answer if isinstance(answer, str) else "".join(message["content"] for message in answer)).strip():
            raise BadRecordError(place, f"{name} is empty: fix or remove the record")
        if number and answer == answers[0]:
            raise BadRecordError(place, f"{name} equals the chosen one: fix or remove the record")
