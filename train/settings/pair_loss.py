"""Settings of the losses over pairs of answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.setting import BINDS

PUBLISHED: dict[str, dict[str, float]] = {
    "dpo": {"beta": 0.1, "ce_weight": 0.0},
    "simpo": {"beta": 2.5, "gamma": 1.375, "ce_weight": 0.0},
    "logo": {"beta": 10.0, "gamma": 3.0, "ce_weight": 0.1},
}
"""Coefficients by objective: DPO (Rafailov et al., arXiv 2305.18290), SimPO for Llama-3-Instruct (Meng et al., arXiv
2405.14734: gamma / beta = 0.55), LOGO for Llama-3 (Tang et al., arXiv 2410.18533)."""


@dataclass(frozen=True)
class PairLossSettings:
    """Coefficients of the losses over pairs; null takes the published value of the objective."""

    beta: float | None = field(default=None, metadata=BINDS)
    """Scale of the rewards; null: dpo 0.1, simpo 2.5, logo 10."""
    gamma: float | None = field(default=None, metadata=BINDS)
    """Margin by which the chosen answer's reward should exceed a rejected one's, simpo and logo only; null: simpo
    1.375, logo 3."""
    ce_weight: float | None = field(default=None, metadata=BINDS)
    """Weight of the chosen answer's mean cross-entropy, added to the loss (LOGO's lambda); null: logo 0.1, others 0."""

    def __post_init__(self) -> None:
        if self.beta is not None and not self.beta > 0:
            raise ValueError(f"pair_loss.beta={self.beta} must be above 0")
        for key in ("gamma", "ce_weight"):
            value = getattr(self, key)
            if value is not None and not value >= 0:
                raise ValueError(f"pair_loss.{key}={value} must not be negative")

    def check(self, objective: str) -> None:
        """Raise ValueError for a coefficient that the objective does not have."""
        for key in ("beta", "gamma", "ce_weight"):
            value = getattr(self, key)
            if value is not None and key not in PUBLISHED.get(objective, {}):
                having = " or ".join(f"objective={name}" for name, values in PUBLISHED.items() if key in values)
                raise ValueError(f"pair_loss.{key}={value} has no effect with objective={objective}: use {having}")

    def value(self, key: str, objective: str) -> float:
        """Return a coefficient of an objective; 0 if it has none."""
        given: float | None = getattr(self, key)
        return PUBLISHED[objective].get(key, 0.0) if given is None else given
