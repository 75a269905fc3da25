"""The work of `pdpc pairs select`: keep the top share of pairs by a margin, or a random share, as new PAIRS.

Only the training slice is selected from; the validation slice is kept whole. With `output_scores` the scores of the
kept pairs are written too, as SCORES of the new PAIRS, so that none has to be scored again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from curriculum.artifact.blocks import add_blocks
from curriculum.artifact.create import create, reusable
from curriculum.artifact.manifest import open_manifest
from curriculum.artifact.outputs import check_place
from curriculum.pairs.answers import answers_file
from curriculum.pairs.pairs import KIND, SLICES, TRAIN, Pairs
from curriculum.pairs.prepare import show
from curriculum.pairs.writer import Pair, PairsWriter
from curriculum.scores.scores import KIND as SCORES
from curriculum.scores.scores import Scores
from curriculum.work.console import PlainConsole, say

RANDOM = "random"
BY = {"m_ap": +1, "explicit": +1, "implicit": -1, RANDOM: 0}
"""What pairs are kept by: the largest values of a column, the smallest, or neither."""
INDEX_FACTS = ("slices", "rewards", "positions", "blocks")
"""Facts of PAIRS that are written anew."""


@dataclass(frozen=True)
class SelectSettings:
    """Settings of `pdpc pairs select`."""

    pairs: str
    """PAIRS folder."""
    output: str
    """Folder to write the kept PAIRS to."""
    scores: str | None = None
    """SCORES of these PAIRS (pdpc pairs score); null only for by=random."""
    by: str = "m_ap"
    """m_ap (the largest M_AP), explicit (the largest explicit margin), implicit (the smallest implicit margin) or
    random."""
    share: float = 0.4
    """Share of the training pairs to keep."""
    seed: int = 0
    """Seed of the random choice, and of the choice among pairs with equal margins."""
    output_scores: str | None = None
    """Folder to write the scores of the kept pairs to, as SCORES of the new PAIRS; null: do not."""

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise ValueError(f"by={self.by!r} is unknown: use one of {', '.join(BY)}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} must be above 0 and at most 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be at least 0")
        if self.scores is None and (self.by != RANDOM or self.output_scores is not None):
            key = f"by={self.by}" if self.by != RANDOM else f"output_scores={self.output_scores}"
            raise ValueError(f"{key} needs scores=FOLDER, written by pdpc pairs score")


def run(settings: SelectSettings, console: Console | None = None) -> Pairs:
    """Write the kept PAIRS, or reuse them; print what was kept and left out. Raises ValueError for unusable scores."""
    console = console or PlainConsole()
    folder = Path(os.path.expanduser(settings.output))
    slices = {name: Pairs.open(os.path.expanduser(settings.pairs), name) for name in SLICES}
    train = slices[TRAIN]
    scores = Scores.open(os.path.expanduser(settings.scores)) if settings.scores is not None else None
    if scores is not None:
        scores.check(train)
    kept_N = kept(settings, len(train), scores)
    config = {key: value for key, value in asdict(settings).items() if key in ("by", "share", "seed")}
    inputs = {f"pairs/{name}": pairs.fingerprint for name, pairs in slices.items()}
    if scores is not None and settings.by != RANDOM:
        inputs["scores"] = scores.fingerprint
    if reusable(folder, KIND, config=config, inputs=inputs):
        say(console, f"PAIRS at {folder}: complete, reused")
    else:
        if settings.output_scores is not None:
            check_place("output_scores", Path(os.path.expanduser(settings.output_scores)))
        _write(folder, slices, kept_N, config, inputs)
        say(console, f"PAIRS written to {folder}")
    pairs = Pairs.open(folder)
    if settings.output_scores is not None and scores is not None:
        _write_scores(Path(os.path.expanduser(settings.output_scores)), scores, slices, folder, kept_N)
    show(pairs, console)
    say(
        console,
        f"kept {len(kept_N):,} of {len(train):,} training pairs by {settings.by}{_edge(settings, scores, kept_N)}",
    )
    return pairs


def kept(settings: SelectSettings, pairs: int, scores: Scores | None) -> NDArray[np.int64]:
    """Return the ids of the kept training pairs, increasing, int64: at least one. Ties are broken at random."""
    count = max(1, round(settings.share * pairs))
    tie_N = np.random.default_rng(settings.seed).permutation(pairs)
    if settings.by == RANDOM or scores is None:
        return np.sort(np.argsort(tie_N)[:count])
    if settings.by not in scores.names:
        raise ValueError(
            f"by={settings.by}: {scores.folder} has no such margin, only {', '.join(scores.names)}: score the pairs "
            "with a policy and rewards, or choose another"
        )
    values_N = scores.column(settings.by).astype(np.float64)
    return np.sort(np.lexsort((tie_N, -BY[settings.by] * values_N))[:count])


def _edge(settings: SelectSettings, scores: Scores | None, kept_N: NDArray[np.int64]) -> str:
    if settings.by == RANDOM or scores is None:
        return ""
    values = scores.column(settings.by)[kept_N]
    low, high = float(values.min()), float(values.max())
    return f": from {low:.3f} to {high:.3f}"


def _write(
    folder: Path,
    slices: Mapping[str, Pairs],
    kept_N: NDArray[np.int64],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    train = slices[TRAIN]
    manifest = open_manifest(train.folder, KIND)
    facts = {key: value for key, value in manifest.facts.items() if key not in INDEX_FACTS}
    sources = {name: index for index, name in enumerate(train.sources)}
    with create(folder, KIND, config=config, inputs=inputs) as draft:
        options = {"rewards": train.has_rewards, "positions": train.has_positions}
        writer = PairsWriter(draft.path, facts["dtype"], train.seq_len, **options)
        for index, (name, pairs) in enumerate(slices.items()):
            ids = kept_N if name == TRAIN else np.arange(len(pairs))
            source_N = pairs.source_of(ids)
            for pair, source in zip(ids.tolist(), source_N.tolist(), strict=True):
                writer.append(index, source, pair_of(pairs, pair))
            pairs.recheck()
        draft.facts.update({**facts, **writer.finish(sources), "left_out": len(train) - len(kept_N)})
        shutil.copytree(train.tokenizer_folder, draft.path / train.tokenizer_folder.name)
        add_blocks(draft)


def pair_of(pairs: Pairs, index: int) -> Pair:
    """Return a stored pair as the writer takes it."""
    found = pairs.sequences([index])
    prompt = int(found.prompt_K[0])
    answers = [row[prompt : prompt + length] for row, length in zip(found.ids_KS, found.answer_K.tolist(), strict=True)]
    longest = int(np.argmax(found.answer_K))
    return Pair(
        found.ids_KS[0, :prompt],
        answers,
        pairs.origin(index),
        pairs.rewards([index]).tolist() if pairs.has_rewards else None,
        None if found.positions_KS is None else found.positions_KS[longest],
    )


def _write_scores(
    folder: Path, scores: Scores, slices: Mapping[str, Pairs], kept_pairs: Path, kept_N: NDArray[np.int64]
) -> None:
    """Write SCORES of the kept pairs: the same numbers (z-scores over the whole set), with the new pairs' ids."""
    inputs = {key: value for key, value in scores.manifest.inputs.items() if not key.startswith("tokens/")}
    names = [name for name in slices if f"{name}.parquet" in scores.manifest.files]
    inputs |= {f"tokens/{name}": Pairs.open(kept_pairs, name).fingerprint for name in names}
    if reusable(folder, SCORES, config=scores.manifest.config, inputs=inputs):
        return
    with create(folder, SCORES, config=scores.manifest.config, inputs=inputs) as draft:
        for name in names:
            pairs = slices[name]
            ids = kept_N if name == TRAIN else np.arange(len(pairs))
            rows = {f"{name}.parquet": ids, answers_file(name): pairs.answer_rows(ids)}
            new_N = np.arange(len(ids))
            samples = {f"{name}.parquet": new_N, answers_file(name): np.repeat(new_N, pairs.answer_counts(ids))}
            for file, taken in rows.items():
                table = pq.read_table(scores.folder / file).take(pa.array(taken))
                pq.write_table(table.set_column(0, "sample", pa.array(samples[file])), draft.path / file)
        draft.facts.update(scores.manifest.facts)
