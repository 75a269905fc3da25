"""Causal attention over packed documents that never see each other: one interface, one file per backend.

`pack(Documents.of(ids_BT, end_of_text), "auto", head_size, dtype, device)` chooses a backend and lays out a batch for
it; every layer calls `.attend(q_NHS, k_NKS, v_NKS)` on the result. Keep `attend` out of torch.compile: the CPU backends
depend on document lengths, which change with every batch.
"""

from models.attention.backend import Backend, Packed
from models.attention.choice import BACKENDS, choose, pack, passed_over
from models.attention.documents import Documents, on_device
from models.attention.shared import SharedPrompts

__all__ = ["BACKENDS", "Backend", "Documents", "Packed", "SharedPrompts", "choose", "on_device", "pack", "passed_over"]
