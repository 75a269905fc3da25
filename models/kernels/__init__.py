"""The fused functions of the hot path behind one interface: PyTorch on any device, Liger's Triton kernels on CUDA."""

from models.kernels.choice import auto_problem, check, choose
from models.kernels.interface import Kernels

__all__ = ["Kernels", "auto_problem", "check", "choose"]
