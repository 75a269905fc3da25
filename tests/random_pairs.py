"""Write PAIRS of random tokens, without text or tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from curriculum.artifact.blocks import add_blocks
from curriculum.artifact.create import create
from curriculum.pairs.pairs import KIND
from curriculum.pairs.writer import Pair, PairsWriter

SEQ_LEN, VOCAB, EOT = 11, 300, 299


def random_pair(rng: np.random.Generator, origin: int, *, rewards: bool, positions: bool) -> Pair:
    answers = [rng.integers(0, EOT, rng.integers(1, 6)) for _ in range(rng.integers(2, 5))]
    prompt = rng.integers(0, EOT, rng.integers(1, 7))
    longest = len(prompt) + max(map(len, answers))
    return Pair(
        prompt,
        answers,
        origin,
        rng.normal(size=len(answers)).astype(np.float32).tolist() if rewards else None,
        np.cumsum(rng.integers(1, 4, longest)) if positions else None,
    )


def write_pairs(
    folder: Path,
    parts: dict[tuple[int, str], Sequence[Pair]],
    *,
    rewards: bool = False,
    positions: bool = False,
    seq_len: int = SEQ_LEN,
    vocab: int = VOCAB,
) -> Path:
    """`parts`: pairs by slice index and source."""
    names = {name: number for number, name in enumerate(dict.fromkeys(source for _, source in parts))}
    with create(folder, KIND, config={}, inputs={}) as draft:
        writer = PairsWriter(draft.path, "uint16", seq_len, rewards=rewards, positions=positions)
        for (slice_index, source), pairs in parts.items():
            for pair in pairs:
                writer.append(slice_index, names[source], pair)
        draft.facts.update(
            seq_len=seq_len,
            vocab_size=vocab,
            dtype="uint16",
            end_of_text=vocab - 1,
            end_of_text_token="<|endoftext|>",
            tokenizer_fingerprint="t",
            chat=False,
            **writer.finish(names),
        )
        add_blocks(draft)
    return folder
