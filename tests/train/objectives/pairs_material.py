"""PAIRS with a tokenizer and an ORDER of them, for runs of preference objectives."""

import json
import shutil
from pathlib import Path

import numpy as np

from curriculum.arrange.arrange import ArrangeSettings
from curriculum.arrange.arrange import run as arrange
from curriculum.artifact.blocks import add_blocks
from curriculum.artifact.create import create
from curriculum.order.order import Order
from curriculum.pairs.pairs import KIND
from curriculum.pairs.writer import Pair, PairsWriter
from curriculum.tokens.tokens import Tokens
from tests.torture.runs import BATCH, Material

SEQ_LEN = 20


def pair_of(rng, origin, top):
    """Return a pair whose chosen answer counts up and whose rejected answers are random."""
    prompt = rng.integers(1, top, rng.integers(1, 7))
    chosen = (prompt[-1] + 1 + np.arange(rng.integers(2, 6))) % top
    return Pair(
        prompt, [chosen, *(rng.integers(1, top, rng.integers(1, 9)) for _ in range(rng.integers(1, 3)))], origin
    )


def write_material(work: Path, pairs: int = 70, stages: int = 2) -> Material:
    """Write PAIRS encoded by the tokenizer of a tiny corpus, and arrange them."""
    plain = Material.make(work / "text", stages=1, samples=30)
    tokens = Tokens.open(work / "text" / "tokens")
    rng = np.random.default_rng(3)
    with create(work / "pairs", KIND, config={}, inputs={}) as draft:
        writer = PairsWriter(draft.path, "uint16", SEQ_LEN, rewards=False)
        for origin in range(pairs):
            writer.append(int(origin % 7 == 0), origin % 2, pair_of(rng, origin, 40))
        shutil.copytree(tokens.tokenizer_folder, draft.path / "tokenizer")
        draft.facts.update(
            seq_len=SEQ_LEN,
            vocab_size=tokens.vocab_size,
            dtype="uint16",
            end_of_text=tokens.end_of_text,
            end_of_text_token=json.loads((work / "text" / "tokens" / "manifest.json").read_text())["facts"][
                "end_of_text_token"
            ],
            tokenizer_fingerprint=tokens.tokenizer_fingerprint,
            chat=False,
            **writer.finish({"easy": 0, "hard": 1}),
        )
        add_blocks(draft)
    arrange(
        ArrangeSettings(
            tokens=str(work / "pairs"), output=str(work / "order"), batch_size=BATCH, stages=stages, workers=1
        )
    )
    words = [word for word in plain.words if not word.startswith("data.")]
    return Material(
        Order.open(work / "order"), (*words, f"data.tokens={work / 'pairs'}", f"data.order={work / 'order'}")
    )
