"""Lay out documents as separate rows, so that no architecture can attend across documents.

Shapes: B samples, T tokens (S = T + 1 with the last label), N = B * T, D documents, R rows of a batch, L their length.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.attention import Documents
from models.kernels.interface import IGNORED

SLACK = 16
"""Most padding per row of a batch, in tokens, or a quarter of the batch's length if that is more."""


def document_rows(
    ids_BS: Tensor, end_of_text: int | None, tokens_at_once: int, documents: Documents | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of documents, longest first: each token's index into the N inputs, and which tokens are real.

    Both are [R, L], int64 and bool, on the host, with R * L at most `tokens_at_once` unless one document is longer.
    Rows are real up to their length; indices after that are arbitrary. Tokens whose label is IGNORED (only at the right
    end of a sample) are in no row. `ids_BS` is on the host; `documents` are those of its inputs, if known.
    """
    labelled_N = (ids_BS[:, 1:] != IGNORED).flatten()
    bounds_E = (documents or Documents.of(ids_BS[:, :-1], end_of_text)).bounds().long()
    before_E = torch.cat([labelled_N.new_zeros(1, dtype=torch.int64), labelled_N.cumsum(0)])[bounds_E]
    length_D, order_D = before_E.diff().sort(descending=True, stable=True)
    start_D = bounds_E[:-1][order_D]
    number = int((length_D > 0).sum())
    first = 0
    while first < number:
        longest = int(length_D[first])
        similar = int((length_D[first:number] >= min(longest - SLACK, longest * 3 // 4)).sum())
        last = first + max(1, min(similar, tokens_at_once // longest))
        offset_L = torch.arange(longest)
        real_RL = offset_L < length_D[first:last, None]
        yield torch.where(real_RL, start_D[first:last, None] + offset_L, 0), real_RL
        first = last
