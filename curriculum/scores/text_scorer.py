"""Scoring text with a model whose tokenizer is not that of TOKENS.

Each document's part of a sample becomes text again, is cut by the model's own tokenizer, and costs so many nats. They
are divided by the tokens of TOKENS, so that losses of all models stand for the same text: a loss is bits a byte up to
a factor that all models share. What is left out: the ends of documents, and bytes of a character that the sample's
edge cuts. A text longer than the model reads at once is scored in windows, as lm-evaluation-harness's
`loglikelihood_rolling` does: each token once, the last window with as much before it as fits.

Shapes: B samples, S tokens of a sample with its last label, W tokens of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curriculum.tokens.bytes import token_bytes
from curriculum.tokens.tokenizer import TOKENIZER_FILE
from curriculum.tokens.tokens import IGNORED, Tokens

if TYPE_CHECKING:
    from models.losses.loss_model import LossModel

TOKENS_AT_ONCE = 1 << 14
"""Tokens in one forward pass."""

Window = tuple[list[int], int]
"""Token ids, and how many of the last are scored."""


class TextScorer:
    """A model and its tokenizer over texts, and over the text of samples."""

    def __init__(
        self, model: LossModel, folder: Path, first: int, limit: int | None, tokens: Tokens | None = None
    ) -> None:
        """`folder` holds the model's tokenizer.json, `first` is the token that its texts begin with, `limit` the most
        tokens that it reads at once. `tokens`: whose samples are to be scored."""
        from tokenizers import Tokenizer

        self.model, self.first = model, first
        self.limit = min(limit or TOKENS_AT_ONCE, TOKENS_AT_ONCE)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._end: int | None = None
        self._bytes: tuple[bytes, ...] = ()
        if tokens is not None:
            spelled = token_bytes(tokens.tokenizer_folder)
            if spelled is None:
                raise ValueError(f"{tokens.tokenizer_folder} has no {TOKENIZER_FILE}: prepare {tokens.folder} again")
            self._bytes, self._end = spelled, tokens.end_of_text

    def text_sums(self, texts: Sequence[str], contexts: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Return the nats of each text, float64; `contexts` stand before them and cost nothing."""
        before = self._encode(contexts) if contexts is not None else [[] for _ in texts]
        windows: list[Window] = []
        owner: list[int] = []
        for index, (context, ids) in enumerate(zip(before, self._encode(texts), strict=True)):
            found = windows_of([self.first, *context], ids, self.limit)
            windows += found
            owner += [index] * len(found)
        sums = np.zeros(len(texts))
        np.add.at(sums, np.array(owner, dtype=np.int64), self._window_sums(windows))
        return sums

    def sample_sums(self, samples_BS: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the nats of each sample's text, float64 [B]; IGNORED fills the right end of a row."""
        texts, contexts, owner = self._pieces(samples_BS)
        sums = np.zeros(len(samples_BS))
        np.add.at(sums, np.array(owner, dtype=np.int64), self.text_sums(texts, contexts))
        return sums

    def piece_sums(self, samples_BS: NDArray[np.int64], sizes: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Return the nats of each document's part of each sample, in their order; `sizes`: their inputs, by sample."""
        texts, contexts, _ = self._pieces(samples_BS, sizes)
        return self.text_sums(texts, contexts)

    def _pieces(
        self, samples_BS: NDArray[np.int64], sizes: Sequence[NDArray[np.int64]] | None = None
    ) -> tuple[list[str], list[str], list[int]]:
        """Return the text of every document's labels, what stands before it, and the row that it is in."""
        texts, contexts, owner = [], [], []
        for row, ids_S in enumerate(samples_BS):
            real_S = ids_S[ids_S != IGNORED]
            inputs = real_S[:-1]
            ends = np.flatnonzero(inputs == self._end) if sizes is None else np.cumsum(sizes[row])[:-1]
            starts = np.union1d([0], ends).astype(np.int64)
            for start, stop in zip(starts, [*starts[1:], len(inputs)], strict=True):
                texts.append(self._text(real_S[start + 1 : stop + 1]))
                contexts.append(self._text(real_S[start : start + 1]))
                owner.append(row)
        return texts, contexts, owner

    def _text(self, ids: NDArray[np.int64]) -> str:
        return b"".join(self._bytes[i] for i in ids if i != self._end).decode("utf-8", errors="ignore")

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def _window_sums(self, windows: Sequence[Window]) -> NDArray[np.float64]:
        """Return the nats of each window. Windows share forward passes, as many as fit, in their order."""
        sums: list[float] = []
        batch: list[Window] = []
        held = 0
        for window in windows:
            if batch and held + len(window[0]) > TOKENS_AT_ONCE:
                sums += self._together(batch)
                batch, held = [], 0
            batch.append(window)
            held += len(window[0])
        return np.array(sums + (self._together(batch) if batch else []), dtype=np.float64)

    def _together(self, batch: Sequence[Window]) -> list[float]:
        import torch

        from models.attention import Documents

        lengths = [len(ids) for ids, _ in batch]
        ids_1S = torch.tensor([[token for ids, _ in batch for token in ids]])
        # The last token of a window is an input too, whose label (the next window's first) nobody asks for.
        documents = Documents((*lengths[:-1], *([lengths[-1] - 1] if lengths[-1] > 1 else [])))
        if ids_1S.shape[1] < 2:
            return [0.0] * len(batch)
        losses_T: Any = self.model.losses(ids_1S, documents)[0].double().cpu().numpy()
        ends = np.cumsum(lengths) - 1
        return [float(losses_T[end - count : end].sum()) for end, (_, count) in zip(ends, batch, strict=True)]


def windows_of(context: list[int], ids: list[int], limit: int) -> list[Window]:
    """Return windows that score every token of `ids` once, with at most `limit` inputs each.

    The first holds `context` and what fits; the rest follow on, the last reaching back as far as `limit` allows.
    """
    whole = [*context, *ids]
    if len(ids) == 0:
        return []
    if len(whole) - 1 <= limit:
        return [(whole, len(ids))]
    windows: list[Window] = []
    done = len(context)  # the next token to be scored
    while done < len(whole):
        count = min(limit + 1 - len(context) if not windows else limit, len(whole) - done)
        stop = done + count
        windows.append((whole[max(0, stop - limit - 1) : stop], count))
        done = stop
    return windows
