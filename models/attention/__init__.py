"""Causal attention over packed documents that never see each other: one interface, a backend a file.

`pack(Documents.of(ids_BT, end_of_text), "auto", head_size, dtype, device)` chooses a backend and lays a batch out for
it; `.attend(q_NHS, k_NKS, v_NKS)` of what it returns is called by every layer. Leave `attend` out of what torch.compile
compiles: the CPU's backends go by the documents' lengths, which are others in every batch.
"""

from models.attention.backend import Backend, Packed
from models.attention.choice import BACKENDS, choose, pack
from models.attention.documents import Documents, on_device

__all__ = ["BACKENDS", "Backend", "Documents", "Packed", "choose", "on_device", "pack"]
