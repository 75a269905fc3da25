"""What this machine's processor computes by itself."""

import re
from pathlib import Path

INFO = Path("/proc/cpuinfo")
BF16 = not INFO.exists() or re.search(r"\b(avx512_|amx_)?bf16\b", INFO.read_text()) is not None
"""Whether it multiplies in bf16. Elsewhere PyTorch emulates that, slowly, and tests take fewer of their bf16 cases."""
