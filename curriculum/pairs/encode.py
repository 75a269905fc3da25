"""Encode records as token ids: prompts and answers of text, or of chat messages by the tokenizer's chat template."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.pairs.records import Messages, Record, common_start
from curriculum.pairs.writer import Pair
from curriculum.text.document import BadRecordError
from curriculum.tokens.tokenizer import TextTokenizer

ON_LONG = ("fail", "truncate")
Ids = npt.NDArray[np.uint32]


class ChatTemplate:
    """Renders messages by the chat template of a tokenizer, in transformers' sandbox."""

    def __init__(self, name: str) -> None:
        """`name`: a folder or the name of a Hugging Face tokenizer. Raises ValueError if it has no chat template."""
        from transformers import AutoTokenizer

        folder = os.path.expanduser(name)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                folder if os.path.isdir(folder) else name, trust_remote_code=False
            )
        except Exception as error:  # whatever a tokenizer's files can cause
            raise ValueError(
                f"tokenizer={name}: transformers cannot load it for its chat template ({error})"
            ) from error
        if not self._tokenizer.chat_template:
            raise ValueError(
                f"tokenizer={name} has no chat template, but the records hold chat messages: choose a tokenizer with a "
                "chat template (chat_template.jinja), or write the prompts and answers as text"
            )

    @property
    def source(self) -> str:
        """The template itself, of several the default."""
        found = self._tokenizer.get_chat_template()
        return str(found)

    def render(self, prompt: Messages, answers: Sequence[Messages], place: str) -> tuple[str, list[str]]:
        """Return the text of the prompt, and what follows it in each conversation.

        As in TRL, the prompt ends with what the template asks for an answer with, as far as the conversations share it.
        Raises BadRecordError if the template rejects the messages.
        """
        try:
            # Without messages there is nothing to render: the conversations begin with their answers.
            before = self._text(prompt, add_generation_prompt=True) if prompt else ""
            whole = [self._text([*prompt, *answer]) for answer in answers]
        except Exception as error:  # templates raise errors of their own
            raise BadRecordError(place, f"the chat template rejects the messages ({error})") from error
        size = common_start([before, *whole])
        return before[:size], [text[size:] for text in whole]

    def _text(self, messages: Messages, **options: bool) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **options))


@dataclass(frozen=True)
class EncodingOptions:
    """How records are encoded."""

    seq_len: int
    bos: bool
    """Whether a prompt of text starts with BOS."""
    end_answers: bool
    """Whether an answer of text ends with end-of-text."""
    truncate: bool
    """Whether longer sequences are cut."""


class PairEncoder:
    """Encodes records, and counts what was cut."""

    def __init__(self, tokenizer: TextTokenizer, options: EncodingOptions, name: str) -> None:
        """`name`: folder or name of the tokenizer, for its chat template."""
        self._tokenizer, self._options, self._name = tokenizer, options, name
        self._special = [entry["content"] for entry in tokenizer.data.get("added_tokens") or [] if entry.get("special")]
        self.template: ChatTemplate | None = None
        """The chat template, once a record with messages was read."""
        self.form: bool | None = None
        """Whether the records are chat messages; None before the first."""
        self.counts: Counter[str] = Counter()
        """prompts_cut, answers_cut, tokens_cut; split: pairs whose prompt and answers were encoded separately."""

    def encode(self, record: Record, origin: int) -> Pair:
        """Return a record's token ids.

        Prompt + answer are encoded as one text, so that tokens are those that the model sees in such a text; where a
        token would span both, prompt and answer are encoded separately. Raises BadRecordError if the record cannot be
        used, ValueError if no record of its form can.
        """
        prompt, answers = self._texts(record)
        encode = self._tokenizer.encode_marked if record.chat else self._tokenizer.encode
        first, *whole = encode([prompt, *(prompt + answer for answer in answers)])
        split = not all(np.array_equal(ids[: len(first)], first) for ids in whole)
        ids = encode(answers) if split else [part[len(first) :] for part in whole]
        empty = next((number for number, part in enumerate(ids) if not len(part)), None)
        if empty is not None:
            raise BadRecordError(record.place, f"{_named(empty)} encodes to no tokens: fix or remove the record")
        tokenizer = self._tokenizer
        if not record.chat:
            if self._options.bos and tokenizer.bos is not None:
                first = _joined([tokenizer.bos], first)
            if self._options.end_answers:
                ids = [_joined(part, [tokenizer.end_of_text]) for part in ids]
        if not len(first):
            first = _joined([tokenizer.end_of_text])
        first, ids, cut = self._fitted(first, ids, record.place)
        equal = next((number for number, part in enumerate(ids) if number and np.array_equal(part, ids[0])), None)
        if equal is not None:
            raise BadRecordError(
                record.place, f"{_named(equal)} equals the chosen one after encoding: fix or remove the record"
            )
        self.counts.update(cut)
        self.counts["split"] += split
        return Pair(first, ids, origin, record.rewards)

    def _texts(self, record: Record) -> tuple[str, list[str]]:
        self.form = record.chat if self.form is None else self.form
        if record.chat != self.form:
            forms = ("messages", "text") if record.chat else ("text", "messages")
            raise BadRecordError(record.place, f"holds {forms[0]}, but the records before hold {forms[1]}")
        if isinstance(record.prompt, str):
            return record.prompt, [str(answer) for answer in record.answers]
        answers = [answer for answer in record.answers if not isinstance(answer, str)]
        for message in [*record.prompt, *(message for answer in answers for message in answer)]:
            if found := next((token for token in self._special if token in message["content"]), None):
                raise BadRecordError(
                    record.place,
                    f"a message contains the special token {found!r}, with which it could forge a turn: remove it",
                )
        self.template = self.template or ChatTemplate(self._name)
        return self.template.render(record.prompt, answers, record.place)

    def _fitted(self, prompt: Ids, answers: list[Ids], place: str) -> tuple[Ids, list[Ids], dict[str, int]]:
        """Return prompt and answers that fit: the prompt cut on the left, the answers, if need be, on the right."""
        limit, longest = self._options.seq_len + 1, max(map(len, answers))
        if len(prompt) + longest <= limit:
            return prompt, answers, {}
        if not self._options.truncate:
            what = f"the prompt has {len(prompt)} tokens and the longest answer {longest}"
            if len(prompt) >= limit:
                what = f"the prompt has {len(prompt)} tokens, which leaves no room for an answer"
            raise BadRecordError(
                place, f"{what}: the limit is {limit} (seq_len + 1): raise seq_len, or cut with on_long=truncate"
            )
        kept = max(1, limit - longest)
        cut = [part[: limit - min(kept, len(prompt))] for part in answers]
        lost = sum(map(len, answers)) - sum(map(len, cut))
        counts = {
            "prompts_cut": int(kept < len(prompt)),
            "answers_cut": sum(len(part) < len(whole) for part, whole in zip(cut, answers, strict=True)),
            "tokens_cut": max(0, len(prompt) - kept) + lost,
        }
        return prompt[-kept:], cut, counts


def chat_template_file(folder: Path) -> Path:
    """Return where transformers keeps the chat template of a tokenizer's folder."""
    return folder / "chat_template.jinja"


def _joined(*parts: npt.ArrayLike) -> Ids:
    return np.concatenate([np.asarray(part, dtype=np.uint32) for part in parts])


def _named(answer: int) -> str:
    return f"rejected answer {answer}" if answer else "the chosen answer"
