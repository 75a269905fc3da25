"""The fused functions of the hot path behind one interface: PyTorch on any device, Liger's Triton kernels on CUDA."""

from models.kernels.choice import check, choose
from models.kernels.interface import Kernels

__all__ = ["Kernels", "check", "choose"]
