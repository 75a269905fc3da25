"""Score text with a model whose tokenizer differs from that of TOKENS.

Each document's part of a sample is decoded, encoded by the model's tokenizer, and scored in nats. The nats are divided
by the number of tokens in TOKENS, so that all models' losses refer to the same text: a loss is bits per byte up to a
factor shared by all models. Not scored: the ends of documents, and bytes of a character split by the sample's edge. A
text longer than the model's context is scored in windows, as by lm-evaluation-harness's `loglikelihood_rolling`: each
token once, the last window with as much context as fits.

Shapes: B samples, S tokens per sample with its last label, W tokens per window.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curriculum.tokens.bytes import token_bytes
from curriculum.tokens.samples import Samples
from curriculum.tokens.tokenizer import TOKENIZER_FILE
from curriculum.tokens.tokens import IGNORED

if TYPE_CHECKING:
    from models.losses.loss_model import LossModel

TOKENS_AT_ONCE = 1 << 14
"""Tokens per forward pass."""

Window = tuple[list[int], int]
"""Token ids, and how many of them, at the end, are scored."""


class TextScorer:
    """Scores texts, and the text of samples, with a model and its tokenizer."""

    def __init__(
        self, model: LossModel, folder: Path, first: int, limit: int | None, tokens: Samples | None = None
    ) -> None:
        """`folder` contains the model's tokenizer.json, `first` is the token that starts each of its texts, `limit` its
        longest input in tokens. `tokens`: TOKENS whose samples are scored."""
        from tokenizers import Tokenizer

        self.model, self.first, self._folder = model, first, folder
        # One less than the positions: a window's last label is an input too where another window follows in the batch.
        self.limit = min(TOKENS_AT_ONCE if limit is None else max(1, limit - 1), TOKENS_AT_ONCE)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._end: int | None = None
        self._bytes: tuple[bytes, ...] = ()
        if tokens is not None:
            bytes_by_id = token_bytes(tokens.tokenizer_folder)
            if bytes_by_id is None:
                raise ValueError(f"{tokens.tokenizer_folder} has no {TOKENIZER_FILE}: prepare {tokens.folder} again")
            self._bytes, self._end = bytes_by_id, tokens.end_of_text

    def text_sums(self, texts: Sequence[str], contexts: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Return the nats of each text, float64; `contexts` precede the texts and are not scored."""
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
        """Return the nats of each sample's text, float64 [B]; rows are right-padded with IGNORED."""
        texts, contexts, owner = self._pieces(samples_BS)
        sums = np.zeros(len(samples_BS))
        np.add.at(sums, np.array(owner, dtype=np.int64), self.text_sums(texts, contexts))
        return sums

    def piece_sums(self, samples_BS: NDArray[np.int64], sizes: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Return the nats of each document's part of each sample, in order; `sizes`: the parts' inputs, by sample."""
        texts, contexts, _ = self._pieces(samples_BS, sizes)
        return self.text_sums(texts, contexts)

    def _pieces(
        self, samples_BS: NDArray[np.int64], sizes: Sequence[NDArray[np.int64]] | None = None
    ) -> tuple[list[str], list[str], list[int]]:
        """Return the text of every document's labels, the text before it, and its row."""
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
        found = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        highest, size = max(map(max, filter(None, found)), default=0), self.model.vocab_size
        if highest >= size:
            raise ValueError(
                f"{self._folder / TOKENIZER_FILE}: text encodes to token {highest} "
                f"({self._tokenizer.id_to_token(highest)!r}), but the model has a vocabulary of {size}: put the "
                "tokenizer.json of that model there"
            )
        return found

    def _window_sums(self, windows: Sequence[Window]) -> NDArray[np.float64]:
        """Return the nats of each window. As many windows as fit share a forward pass, in order."""
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
        # The last token of a window is an input too, but its label (the next window's first token) is not needed.
        documents = Documents((*lengths[:-1], *([lengths[-1] - 1] if lengths[-1] > 1 else [])))
        if ids_1S.shape[1] < 2:
            return [0.0] * len(batch)
        losses_T: Any = self.model.losses(ids_1S, documents)[0].double().cpu().numpy()
        ends = np.cumsum(lengths) - 1
        return [float(losses_T[end - count : end].sum()) for end, (_, count) in zip(ends, batch, strict=True)]


def windows_of(context: list[int], ids: list[int], limit: int) -> list[Window]:
    """Return windows that score every token of `ids` once, with at most `limit` inputs each.

    The first contains `context` and as many tokens as fit; the others follow, and the last reaches back up to `limit`.
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
