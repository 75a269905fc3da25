"""Predicted losses: a share of the samples is scored, the others are predicted.

The prediction is a ridge regression of a model's loss on features that need no model (features.py) and, if they were
scored, on the losses of the first tokens under every model. The penalty is chosen by generalized cross-validation
(Golub, Heath and Wahba, 1979).

Shapes: N samples, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.scores.cheap.features import Features
from curriculum.tokens.tokens import Tokens

PENALTIES = tuple(10.0**power for power in np.arange(-4, 2.25, 0.5))
"""Weights of the ridge penalty to choose from, relative to the number of samples: features have a deviation of one."""
AT_ONCE = 4096
"""Samples predicted at a time."""
MOST = 100_000
"""Most scored samples that a prediction is fitted to, evenly spaced."""
FEWEST = 50
"""Fewest scored samples for a prediction."""

Floats = NDArray[np.float32]


def chosen(ids_N: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Return which samples are scored: a share of all, by a hash of the sample id (SplitMix64's finalizer)."""
    with np.errstate(over="ignore"):
        hashed = ids_N.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashed ^= hashed >> np.uint64(31)
    return hashed < np.uint64(int(fraction * 2**64))


def predicted_losses(
    tokens: Tokens, losses: Mapping[str, Floats], first: Mapping[str, Floats], first_tokens: int | None = None
) -> dict[str, Floats]:
    """Return losses by model, with nan replaced by predictions; `first`: losses of `first_tokens`, if scored.

    Raises ValueError if too few samples were scored to fit the prediction. Memory: at most MOST samples' features.
    """
    describe = Features(tokens)
    found = {name: loss_N.copy() for name, loss_N in losses.items()}

    def described(ids_N: NDArray[np.int64]) -> NDArray[np.float32]:
        known_NF = describe.of(ids_N, first_tokens)
        return np.concatenate([known_NF, *(loss_N[ids_N][:, None] for loss_N in first.values())], axis=1)

    for name, loss_N in losses.items():
        scored = np.flatnonzero(np.isfinite(loss_N))
        hidden = np.flatnonzero(~np.isfinite(loss_N))
        if not len(hidden):
            continue
        if len(scored) < FEWEST:
            raise ValueError(
                f"fraction: only {len(scored)} samples of slice {tokens.slice!r} are scored, too few to predict "
                f"the other {len(hidden)}: raise fraction, or remove it"
            )
        fitted = scored[np.unique(np.linspace(0, len(scored) - 1, min(len(scored), MOST)).astype(np.int64))]
        prediction = Prediction.fit(described(fitted), loss_N[fitted])
        for start in range(0, len(hidden), AT_ONCE):
            part = hidden[start : start + AT_ONCE]
            found[name][part] = prediction.of(described(part))
    return found


@dataclass(frozen=True)
class Prediction:
    """A loss as a linear function of features."""

    mean_F: NDArray[np.float64]
    deviation_F: NDArray[np.float64]
    """inf for a feature that was constant where it was fitted: nothing is known of its slope."""
    weights_F: NDArray[np.float64]
    level: float

    @classmethod
    def fit(cls, features_NF: NDArray[np.float32], loss_N: Floats) -> Prediction:
        """Fit finite losses. O(N F^2)."""
        x_NF = features_NF.astype(np.float64)
        mean_F, deviation_F = x_NF.mean(axis=0), x_NF.std(axis=0)
        deviation_F[deviation_F < 1e-9] = np.inf
        y_N = loss_N.astype(np.float64)
        level = float(y_N.mean())
        return cls(mean_F, deviation_F, _ridge((x_NF - mean_F) / deviation_F, y_N - level), level)

    def of(self, features_NF: NDArray[np.float32]) -> Floats:
        """Return predicted losses, float32 [N]."""
        result: Floats = (((features_NF - self.mean_F) / self.deviation_F) @ self.weights_F + self.level).astype(
            np.float32
        )
        return result


def _ridge(x_NF: NDArray[np.float64], y_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights for the penalty with the least error by generalized cross-validation; x and y are centred."""
    count = len(y_N)
    values_F, vectors_FF = np.linalg.eigh(x_NF.T @ x_NF)
    values_F = np.maximum(values_F, 0)
    along_F = vectors_FF.T @ (x_NF.T @ y_N)
    best, chosen_F = np.inf, np.zeros_like(along_F)
    for penalty in PENALTIES:
        shrunk_F = 1 / (values_F + penalty * count)
        weights_F = shrunk_F * along_F
        left = float(y_N @ y_N - 2 * weights_F @ along_F + weights_F**2 @ values_F)
        freedom = 1 - (1 + float((values_F * shrunk_F).sum())) / count
        error = left / freedom**2 if freedom > 0 else np.inf
        if error < best:
            best, chosen_F = error, weights_F
    result: NDArray[np.float64] = vectors_FF @ chosen_F
    return result
