"""What an estimate starts from: the run's settings as `train` composes them, and what its TOKENS and ORDER say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.estimate.settings import EstimateSettings
from models.config import DecoderConfig
from train.config.groups import CONFIGS, options_of
from train.settings import ModelSettings, TrainSettings

NOT_GIVEN = "not-given"
"""Value of a required setting of `train` that an estimate can do without."""
REQUIRED = ("output", "arm", "data.tokens", "data.order")
VOCABULARY, SEQ_LEN, BATCH, TOKENS, STAGES = 50_257, 2048, 1024, 1e11, 4
"""Where neither the command line nor an artifact says."""


@dataclass(frozen=True)
class Known:
    """Data and batches of an arm."""

    vocab_size: int
    seq_len: int
    batch_size: int
    """Samples in a global batch."""
    train_tokens: float
    stages: int
    validation_samples: int | None
    """Samples of the validation slice; None: unknown."""
    reference_tokens: float
    origin: Mapping[str, str]
    """Where each value is from: given, data.tokens, data.order or assumed."""
    notes: Sequence[str] = ()
    """What an experiment names and is not there yet."""

    @property
    def steps(self) -> int:
        """Steps of one arm."""
        return max(1, round(self.train_tokens / (self.batch_size * self.seq_len)))


def training(overrides: Sequence[str]) -> TrainSettings:
    """Return the run's settings as `pdpc train` composes them; required ones may lack a value.

    Raises ValueError for what train would reject.
    """
    from yaml import safe_load

    from train.config.compose import compose, configuration_of

    found = safe_load(configuration_of("train", TrainSettings, overrides))
    lacking = [key for key in REQUIRED if _value(found, key) == "???"]
    return compose("train", TrainSettings, [*overrides, *(f"{key}={NOT_GIVEN}" for key in lacking)])


def _value(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def known(settings: EstimateSettings, train: TrainSettings) -> Known:
    """Return sizes from the command line, else from TOKENS and ORDER, else the defaults.

    A folder that only an experiment names may not have been made yet: a note says so. Raises ArtifactError for another
    one that is not what it should be, ValueError for one that contradicts the command line.
    """
    found: dict[str, Any] = {}
    origin: dict[str, str] = {}
    validation = None
    notes = [
        f"{key}={folder} does not exist yet: sizes are assumed"
        for key, folder in (("data.tokens", train.data.tokens), ("data.order", train.data.order))
        if _not_made(key, folder, settings.overrides)
    ]
    if train.data.tokens != NOT_GIVEN and not _not_made("data.tokens", train.data.tokens, settings.overrides):
        found, validation = _of_tokens(train.data.tokens)
        origin = dict.fromkeys(found, "data.tokens")
    if train.data.order != NOT_GIVEN and not _not_made("data.order", train.data.order, settings.overrides):
        of_order = _of_order(train.data.order, settings.seq_len or found.get("seq_len", SEQ_LEN))
        found |= of_order
        origin |= dict.fromkeys(of_order, "data.order")
    defaults = {
        "vocab_size": VOCABULARY,
        "seq_len": SEQ_LEN,
        "batch_size": BATCH,
        "train_tokens": TOKENS,
        "stages": STAGES,
    }
    for key, value in defaults.items():
        given = getattr(settings, key)
        if given is not None:
            if key in found and key in ("vocab_size", "seq_len", "batch_size") and found[key] != given:
                raise ValueError(
                    f"{key}={given} contradicts {origin[key]}, which has {found[key]}: leave one of them out"
                )
            found[key], origin[key] = given, "given"
        elif key not in found:
            found[key], origin[key] = value, "assumed"
    references = settings.reference_tokens
    if references is None:
        references = found.pop("reference_tokens", None) or found["train_tokens"] / 9
        origin.setdefault("reference_tokens", "assumed")
    else:
        found.pop("reference_tokens", None)
        origin["reference_tokens"] = "given"
    return Known(**found, validation_samples=validation, reference_tokens=references, origin=origin, notes=notes)


def _not_made(key: str, folder: str, overrides: Sequence[str]) -> bool:
    """Return whether an experiment, and not the command line, names a folder that does not exist."""
    typed = any(word.partition("=")[0].lstrip("+") == key for word in overrides)
    return folder != NOT_GIVEN and not typed and not Path(folder).exists()


def _of_tokens(folder: str) -> tuple[dict[str, Any], int | None]:
    from curriculum.tokens.tokens import Tokens

    tokens = Tokens.open(folder, "train")
    found: dict[str, Any] = {"vocab_size": tokens.vocab_size, "seq_len": tokens.seq_len}
    found["train_tokens"] = float(len(tokens) * tokens.seq_len)
    reference = Tokens.open(folder, "reference")
    if len(reference):
        found["reference_tokens"] = float(len(reference) * tokens.seq_len)
    return found, len(Tokens.open(folder, "validation"))


def _of_order(folder: str, seq_len: int) -> dict[str, Any]:
    from curriculum.order.order import Order

    order = Order.open(folder)
    return {
        "batch_size": order.batch_size,
        "train_tokens": float(len(order) * seq_len),
        "stages": len(order.stage_ends),
    }


def model_of(name: str, size: str) -> ModelSettings:
    """Return the model of a reference, a size of configs/model. Raises ValueError for another one."""
    from yaml import safe_load

    if size not in options_of("model"):
        raise ValueError(f"references.{name}={size!r} is unknown: use one of {', '.join(options_of('model'))}")
    return ModelSettings(**safe_load((CONFIGS / "model" / f"{size}.yaml").read_text("utf-8")))


def decoder_of(train: TrainSettings, data: Known) -> DecoderConfig:
    """Return the decoder of a run on this data."""
    return train.model.decoder_config(data.vocab_size, data.seq_len, None)
