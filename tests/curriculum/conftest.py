"""Made-up samples for the tests of the arrangement. PDPC_EXAMPLES sets how many examples Hypothesis tries a test."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from curriculum.artifact import create
from curriculum.tokens import Tokens

settings.register_profile(
    "curriculum",
    derandomize=True,
    deadline=None,
    max_examples=int(os.environ.get("PDPC_EXAMPLES", "30")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("curriculum")

SEQ_LEN = 4


def write_tokens(folder: Path, sources: dict[str, int]) -> Tokens:
    """TOKENS whose train slice has so many samples a source; documents of 1 to 9 tokens, sources in their order."""
    rng = np.random.default_rng(len(sources))
    table, starts, end = [], [], 0
    for name, samples in sources.items():
        size = (samples - 1) * SEQ_LEN + 1 + int(rng.integers(1, SEQ_LEN + 1)) if samples else 0
        mine, at = [], 0
        while at < size - 1:
            mine.append(end + at)
            at += int(rng.integers(2, 11))
        table.append({"name": name, "documents": len(mine), "tokens": size})
        starts += mine
        end += size
    with create(folder, "tokens", config={}, inputs={}) as draft:
        np.zeros(end, "<u2").tofile(draft.path / "train.ids.bin")
        np.array(starts, "<i8").tofile(draft.path / "train.starts.bin")
        rng.permutation(len(starts)).astype("<i8").tofile(draft.path / "train.origins.bin")
        draft.facts.update(
            seq_len=SEQ_LEN, vocab_size=8, end_of_text=0, dtype="uint16", tokenizer_fingerprint="t" * 32,
            slices={"train": {"sources": table}},
        )  # fmt: skip
    return Tokens.open(folder)


@pytest.fixture(scope="session")
def tokens_of():
    """Write TOKENS with so many samples a source."""
    return write_tokens


@pytest.fixture(scope="session")
def parquet():
    """Write columns as a Parquet file; return its path as text."""

    def write(path: Path, **columns: object) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        return str(path)

    return write
