"""Causal attention over packed documents that never see each other: one interface, a backend a file.

packed = pack(Documents.of(ids_BT, end_of_text), "auto", head_size, dtype, device)
out_NHS = packed.attend(q_NHS, k_NKS, v_NKS)
"""

from models.attention.backend import Backend, Packed
from models.attention.choice import BACKENDS, choose, pack
from models.attention.documents import Documents

__all__ = ["BACKENDS", "Backend", "Documents", "Packed", "choose", "pack"]
