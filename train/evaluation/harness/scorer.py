"""Log-likelihoods and greedy continuations of token ids by a decoder, distributed over all ranks.

Shapes: B rows, T tokens, W width, P scored positions, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.decoder import Decoder
from models.kernels.interface import IGNORED
from models.losses.cross_entropy import CHUNK_LOGITS
from train.distributed.collectives import Collectives

logger = logging.getLogger(__name__)

Row = tuple[int, ...]


@dataclass(frozen=True)
class Scorer:
    """Scores and continues token ids, longest first, in batches padded on the right.

    Batches are formed before they are distributed over ranks, so results do not depend on the number of ranks. All
    ranks call with the same requests, make the same number of forward passes, and return the same values.
    """

    decoder: Decoder
    exchange: Collectives
    max_length: int
    """Longest input in tokens; longer inputs are truncated on the left."""
    batch_size: int

    def log_likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Return, for each (context, continuation), log p(continuation | context) in nats and whether greedy agrees.

        Contexts and continuations need at least one token. Pairs with the same input (such as one-letter answers to the
        same question) share a row. Raises ValueError for a continuation longer than `max_length`.
        """
        rows: dict[Row, list[int]] = {}
        shortened = 0
        for index, (context, continuation) in enumerate(pairs):
            if not context or not 1 <= len(continuation) <= self.max_length:
                raise ValueError(
                    f"a continuation of {len(continuation)} tokens after {len(context)} cannot be scored with "
                    f"max_length={self.max_length}: both need at least one token, and the continuation must fit"
                )
            whole = (*context, *continuation)
            shortened += len(whole) > self.max_length + 1
            rows.setdefault(whole[-(self.max_length + 1) : -1], []).append(index)
        _warn(shortened, len(pairs), self.max_length)
        order = sorted(rows, key=lambda row: (-len(row), row))
        wanted = {row: [pairs[index][1] for index in indices] for row, indices in rows.items()}
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        found = self._share("scores", order, lambda batch: self._score(batch, [wanted[row] for row in batch]))
        for row, scores in zip(order, found, strict=True):
            for index, (nats, greedy) in zip(rows[row], scores, strict=True):
                answers[index] = (nats, greedy)
        return answers

    def continuations(
        self, prompts: Sequence[list[int]], *, new_tokens: int, finished: Callable[[list[int]], bool]
    ) -> list[list[int]]:
        """Continue each prompt greedily until `finished(added)` or `new_tokens` tokens; return the added tokens.

        Prompts keep their last `max_length - new_tokens` tokens. Each new token costs a forward pass over the whole row
        (no KV cache).
        """
        limit = self.max_length - new_tokens
        if limit < 1:
            raise ValueError(
                f"generating {new_tokens} tokens leaves no room for a prompt in max_length={self.max_length}"
            )
        _warn(sum(len(prompt) > limit for prompt in prompts), len(prompts), limit)
        rows = [tuple(prompt[-limit:]) for prompt in prompts]
        unique = sorted(set(rows), key=lambda row: (-len(row), row))
        added = self._share("texts", unique, lambda batch: self._continue(batch, new_tokens, finished))
        found = dict(zip(unique, added, strict=True))
        return [found[row] for row in rows]

    def _share(self, step: str, rows: list[Row], work: Callable[[list[Row]], list[Any]]) -> list[Any]:
        """Distribute batches of rows over the ranks round-robin; return the result of `work` per row, on every rank.

        A rank without a batch in the last round repeats the last one and drops the result: sharded weights need every
        rank in every forward pass.
        """
        rank, size = self.exchange.world.rank, self.exchange.world.size
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        done = []
        with torch.no_grad():
            for number in range(rank, rank + len(batches), size):
                result = work(batches[min(number, len(batches) - 1)])
                if number < len(batches):
                    done.append(result)
        every = self.exchange.gather(f"{len(rows)} {step}", done)
        return [row for number in range(len(batches)) for row in every[number % size][number // size]]

    def _score(self, batch: list[Row], wanted: list[list[list[int]]]) -> list[list[tuple[float, bool]]]:
        """Return (log-likelihood, greedy) of each wanted continuation of each row; logits only at scored positions."""
        at = [
            (row, len(ids) - len(labels) + offset, label)
            for row, (ids, continuations) in enumerate(zip(batch, wanted, strict=True))
            for labels in continuations
            for offset, label in enumerate(labels)
        ]
        row_P, position_P, label_P = torch.tensor(at, device=self.exchange.world.device).unbind(dim=1)
        hidden_PW = self._hidden(batch)[row_P, position_P]
        nats, agrees = [], []
        for hidden, label in zip(*(x.split(self._chunk()) for x in (hidden_PW, label_P)), strict=True):
            logits_PV = self.decoder.head(hidden).float()
            nats.append(torch.log_softmax(logits_PV, dim=-1).gather(1, label[:, None])[:, 0])
            agrees.append(logits_PV.argmax(dim=-1) == label)
        log_p, greedy = torch.cat(nats).double().cpu(), torch.cat(agrees).cpu()
        lengths = [len(labels) for continuations in wanted for labels in continuations]
        scores = iter(
            (float(p.sum()), bool(g.all())) for p, g in zip(log_p.split(lengths), greedy.split(lengths), strict=True)
        )
        return [[next(scores) for _ in continuations] for continuations in wanted]

    def _continue(self, batch: list[Row], new_tokens: int, finished: Callable[[list[int]], bool]) -> list[list[int]]:
        """Return the tokens that greedy decoding adds to each row; loops until every rank has finished its batch."""
        added: list[list[int]] = [[] for _ in batch]
        active = list(range(len(batch)))
        for _ in range(new_tokens):
            if not any(self.exchange.gather("unfinished rows", len(active))):
                break
            # A rank that waits for others repeats its first row and drops the result.
            rows = [(*batch[row], *added[row]) for row in active or [0]]
            last = torch.tensor([len(row) - 1 for row in rows], device=self.exchange.world.device)
            hidden_BW = self._hidden(rows)[torch.arange(len(rows), device=last.device), last]
            best = self.decoder.head(hidden_BW).float().argmax(dim=-1).tolist()
            for row, token in zip(active, best, strict=False):
                added[row].append(token)
            active = [row for row in active if not finished(added[row])]
        return added

    def _hidden(self, rows: Sequence[Row]) -> Tensor:
        """Return the last hidden states of right-padded rows, [B, T, W]; causal attention never sees the padding."""
        # Padding is not a token id: end_of_text would start a document, and an attention call, at every such position.
        ids_BT = torch.full((len(rows), max(map(len, rows))), IGNORED)
        for index, row in enumerate(rows):
            ids_BT[index, : len(row)] = torch.tensor(row)
        with self.exchange.deadline.held():
            return self.decoder.hidden(ids_BT.to(self.exchange.world.device))

    def _chunk(self) -> int:
        """Return the number of positions whose logits are computed at once."""
        return max(1, CHUNK_LOGITS // self.decoder.config.vocab_size)


def _warn(shortened: int, requests: int, limit: int) -> None:
    if shortened:
        logger.warning("%d of %d prompts truncated on the left: longer than %d tokens", shortened, requests, limit)
