"""Published figures for training on A100 and H100, which `benchmarks.gpu` prints next to its own, and the MFU.

MFU is the model's operations divided by the card's peak, in dense bf16 312 TFLOP/s for an A100 and 989 for an H100. All
rows count attention in full, not halved for the causal mask, and do not count recomputed activations.
"""

from __future__ import annotations

from dataclasses import dataclass

from train.hooks.throughput import PEAK_TFLOPS

FOUNDRY = "https://github.com/mosaicml/llm-foundry/blob/main/scripts/train/benchmarking/README.md"
TINY_LLAMA = "https://github.com/jzhang38/TinyLlama/blob/main/README.md"
FLASH = "https://github.com/Dao-AILab/flash-attention/blob/main/training/README.md"
NEOX = "https://github.com/EleutherAI/gpt-neox/pull/725"


@dataclass(frozen=True)
class Published:
    """A published figure; None for values that the source does not give."""

    size: str
    """Our model size that it is compared with."""
    model: str
    seq_len: int
    devices: int
    card: str
    tokens_per_s: float | None
    """Tokens per second and GPU."""
    mfu: float
    """As published, or the published TFLOP/s divided by the card's peak."""
    source: str


PUBLISHED = (
    Published("1.3b", "llm-foundry MPT 1b", 2048, 8, "A100-80", 20_513, 0.5986, FOUNDRY),
    Published("1.3b", "llm-foundry MPT 1b", 2048, 8, "A100-40", 19_271, 0.562, FOUNDRY),
    Published("1.3b", "llm-foundry MPT 1b", 2048, 128, "A100-40", 18_647, 0.544, FOUNDRY),
    Published("1.3b", "llm-foundry MPT 1b", 4096, 8, "A100-80", 17_807, 0.590, FOUNDRY),
    Published("1.3b", "llm-foundry MPT 1b", 2048, 16, "H100-80", 46_037, 0.4236, FOUNDRY),
    Published("1.3b", "llm-foundry MPT 1b", 2048, 128, "H100-80", 44_123, 0.406, FOUNDRY),
    Published("1.3b", "TinyLlama 1.1B", 2048, 16, "A100-40", 24_000, 0.56, TINY_LLAMA),
    Published("1.3b", "flash-attention GPT3 1.3B", 2048, 8, "A100-80", None, 189 / 312, FLASH),
    Published("1.3b", "GPT-NeoX 1.3B, DeepSpeed, flash", 2048, 8, "A100-80", None, 180 / 312, NEOX),
    Published("3b", "llm-foundry MPT 3b", 2048, 8, "A100-80", 10_811, 0.6211, FOUNDRY),
    Published("3b", "llm-foundry MPT 3b", 2048, 8, "A100-40", 10_065, 0.578, FOUNDRY),
    Published("3b", "llm-foundry MPT 3b", 2048, 128, "A100-40", 9_538, 0.548, FOUNDRY),
    Published("3b", "llm-foundry MPT 3b", 4096, 8, "A100-80", 9_457, 0.6053, FOUNDRY),
    Published("3b", "llm-foundry MPT 3b", 2048, 32, "H100-80", 23_021, 0.417, FOUNDRY),
    Published("3b", "llm-foundry MPT 3b", 2048, 128, "H100-80", 23_422, 0.4243, FOUNDRY),
    Published("3b", "flash-attention GPT3 2.7B", 2048, 8, "A100-80", None, 189 / 312, FLASH),
)


def comparable(size: str, seq_len: int) -> list[Published]:
    """Return the published rows comparable with a size of ours: those with the same sequence length."""
    return [row for row in PUBLISHED if (row.size, row.seq_len) == (size, seq_len)]


def peak_of(card: str) -> float | None:
    """Return a card's peak of dense bf16 operations per second by its name, None for an unknown card."""
    words = card.replace("-", " ").split()
    found = (peak for name, peak in PEAK_TFLOPS.items() if all(word in words for word in name.split()))
    return next((1e12 * peak for peak in found), None)


def mfu(tokens_per_s: float, operations_per_token: float, peak_per_s: float) -> float:
    """Return the share of a card's peak used by the model's operations."""
    return tokens_per_s * operations_per_token / peak_per_s
