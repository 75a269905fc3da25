"""Document boundaries in a batch, as attention needs them.

Shapes: B sequences, T tokens, N = B * T, D documents, E = D + 1 bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Documents:
    """The consecutive documents of a batch, row by row; computed once per batch on the host."""

    lengths: tuple[int, ...]
    """Tokens of each document; they sum to B * T."""
    rows: int = 1
    """Rows of the batch; no document crosses a row boundary."""

    @classmethod
    def of(cls, ids_BT: Tensor, end_of_text: int | None) -> Documents:
        """Return the documents of a batch: one begins at the start of every row and at every `end_of_text`.

        Pass host tensors to avoid a host-device sync.
        """
        rows, tokens = ids_BT.shape
        if end_of_text is None:
            return cls((tokens,) * rows, rows)
        starts_BT = ids_BT.cpu().numpy() == end_of_text  # numpy: torch would start another thread pool
        starts_BT[:, 0] = True
        lengths_D = np.diff(np.flatnonzero(starts_BT), append=rows * tokens)
        return cls(tuple(lengths_D.tolist()), rows)

    @property
    def tokens(self) -> int:
        """B * T."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Length of the longest document in tokens."""
        return max(self.lengths)

    def bounds(self) -> Tensor:
        """Return the start of every document and the end of the last ("cu_seqlens"), int32 [E], on the host."""
        lengths_D = torch.tensor(self.lengths, dtype=torch.int32)
        return torch.cat([lengths_D.new_zeros(1), lengths_D.cumsum(0, dtype=torch.int32)])

    def numbers(self) -> Tensor:
        """Return the document index of each token, int64 [N], on the host."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small host tensor to a device; on a GPU asynchronously."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
