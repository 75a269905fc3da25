"""Held-out pairs: how often, and by how much, a model prefers the chosen answers.

Every rank computes its share of one fixed list of batches, so the results do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from train.evaluation.answers import Evaluated, Items
from train.evaluation.heldout import HeldoutSettings, evaluating, spread
from train.faults import fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from curriculum.pairs.pairs import Pairs
    from models.losses.pair_batch import Answered
    from models.losses.pair_loss import PairLoss
    from train.distributed.world import World

Floats = npt.NDArray[np.float32]

MEASURES = ("loss", "rewards/accuracies", "rewards/margins")
"""Measures with an item per pair, for intervals."""


def answered(pairs: Pairs, ids: Sequence[int] | npt.NDArray[np.int64]) -> list[Answered]:
    """Return pairs as prompts with answers."""
    from models.losses.pair_batch import Answered

    found = pairs.sequences(ids)
    rows = []
    for first, last in zip(found.rows_N1[:-1].tolist(), found.rows_N1[1:].tolist(), strict=True):
        prompt = int(found.prompt_K[first])
        answers = [found.ids_KS[row, prompt : prompt + int(found.answer_K[row])] for row in range(first, last)]
        longest = first + int(found.answer_K[first:last].argmax())
        positions = None if found.positions_KS is None else found.positions_KS[longest]
        rows.append(Answered(found.ids_KS[first, :prompt], answers, positions))
    return rows


def log_probabilities_of(
    model: Callable[..., Any], pairs: Pairs, ids: npt.NDArray[np.int64], batch_size: int, world: World
) -> Floats:
    """Return log p(answer | prompt) of every answer of some pairs, in nats, float32 [answers of these pairs].

    The same on all ranks. Collective: every rank makes the same number of forward passes. An error on one rank is
    RankFailed on all.
    """
    import torch

    from models.losses.pair_batch import log_probabilities, pair_batch
    from train.distributed.collectives import Collectives
    from train.distributed.out_of_memory import needing

    parts = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    ends = np.cumsum([int(pairs.answer_counts(part).sum()) for part in parts])
    found = np.zeros(ends[-1], dtype=np.float32)

    def score() -> None:
        for first in range(0, len(parts), world.size):
            mine = first + world.rank
            number = mine if mine < len(parts) else 0  # sharded weights need every rank in every pass
            batch = pair_batch(answered(pairs, parts[number]))
            with needing(f"a batch of pairs: lower heldout.batch_size={batch_size}"):
                fault("heldout.batch")
                values = log_probabilities(model, batch, world.device)
            if mine < len(parts):
                found[ends[mine] - len(values) : ends[mine]] = values.float().cpu().numpy()
        pairs.recheck()

    with torch.no_grad(), evaluating(model):
        Collectives(world).run("pairs", score)
    summed: Floats = world.all_sum(torch.from_numpy(found).to(world.device)).cpu().numpy()  # all terms but one are zero
    return summed


def evaluate_pairs(
    model: Callable[..., Any],
    pairs: Pairs,
    loss: PairLoss,
    reference_A: Floats | None,
    settings: HeldoutSettings,
    world: World,
) -> Evaluated:
    """Return the means over held-out pairs of their loss and of what TRL reports in training, with an item per pair.

    Keys: `val/loss`, `val/rewards/...` and `val/logps/...`. `reference_A`: log p of every answer of the slice under the
    reference, for dpo. Collective: all ranks return the same.
    """
    import torch

    from models.losses.pair_batch import pair_batch

    ids = spread(len(pairs), settings.max_samples)
    logp_Q = torch.from_numpy(log_probabilities_of(model, pairs, ids, settings.batch_size, world))
    reference_Q = None if reference_A is None else torch.from_numpy(reference_A[pairs.answer_rows(ids)])
    columns: dict[str, list[npt.NDArray[np.float64]]] = {}
    counts, start = pairs.answer_counts(ids), 0
    for first in range(0, len(ids), settings.batch_size):
        part = slice(first, first + settings.batch_size)
        rows = slice(start, start := start + int(counts[part].sum()))
        batch = pair_batch(answered(pairs, ids[part]))
        found = loss(logp_Q[rows], batch, None if reference_Q is None else reference_Q[rows])
        for name, values_P in {"loss": found.loss_P, **found.shown()}.items():
            columns.setdefault(name, []).append(values_P.double().numpy())
    made = Evaluated()
    for name, several in columns.items():
        values = np.concatenate(several)
        made.values[f"val/{name}"] = float(values.mean())
        if name in MEASURES:
            made.answers[f"val/{name}"] = Items(ids, values, np.ones(len(ids)), groups=ids)
    return made
