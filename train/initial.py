"""Initial weights of a run (`init=FOLDER`): a Hugging Face model, an export, a finished run or one of its checkpoints.

They are checked and fingerprinted before anything starts, and read once, before the first step.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from curriculum.artifact.files import ArtifactError, fingerprint_of, hash_file
from curriculum.artifact.manifest import MANIFEST, Manifest, open_manifest
from curriculum.artifact.mapped import Stamp, UnreadableError
from curriculum.tokens.samples import Samples
from models.config import DecoderConfig, DecoderSettings
from models.huggingface.read import check_weights, read_config, read_weights
from models.setting import binds
from train import checkpoint
from train.export.choice import check_choice
from train.export.export import tokenizer_folder
from train.export.weights import ChosenWeights, check_own, check_running, choose_weights
from train.records.layout import CHECKPOINTS, RUN
from train.records.run_json import read_run
from train.settings import TrainSettings

log = logging.getLogger(__name__)

SAME = tuple(item.name for item in fields(DecoderSettings) if binds(item.metadata) and item.name != "z_loss")
"""Settings of a decoder that its weights were trained with."""
CHANGED = (
    "init={} was written to after its fingerprint was taken, so the run would start from other weights than it "
    "records: run the same command again when it is complete"
)
KINDS = "a Hugging Face folder, a finished RUN, or RUN/checkpoints/step_XXXXXXXX"


@dataclass(frozen=True)
class Choice:
    """What a run was asked to start from, as run.json records it."""

    folder: str
    """Absolute."""
    weights: str
    average: int


@dataclass(frozen=True)
class Initial:
    """The weights that a run starts from."""

    choice: Choice
    how: str
    """Which weights they are, in words."""
    fingerprint: str
    seq_len: int | None
    """Longest sequence, in tokens, that they were trained for; None if the folder no longer exists."""
    read: Callable[[], Mapping[str, Tensor]]
    """Return the float32 weights by the decoder's names. Raises UnreadableError unless they have the fingerprint."""

    def as_fact(self) -> dict[str, str | int]:
        """Return what run.json records."""
        return {**asdict(self.choice), "of": self.how}


def open_initial(settings: TrainSettings, tokens: Samples, decoder: DecoderConfig) -> Initial | None:
    """Return the weights that `init` names, checked against tokenizer, vocabulary and model; None without `init`.

    Reads every byte of them, for their fingerprint. A folder that no longer exists is accepted for a run that has
    recorded its fingerprint and a checkpoint. Raises ValueError naming what does not fit, with the words to type.
    """
    check_choice(settings.init_weights, settings.init_average, "init_")
    if settings.init is None:
        if (settings.init_weights, settings.init_average, settings.init_rope) != ("last", 1, False):
            raise ValueError(
                "init_weights, init_average and init_rope have no effect without init=FOLDER: add it or remove them"
            )
        return None
    folder = Path(settings.init)
    choice = Choice(str(folder.absolute()), settings.init_weights, settings.init_average)
    if not folder.is_dir():
        return _recorded(Path(settings.output), choice)
    if (folder / RUN).is_file() or (folder / MANIFEST).is_file():
        found, config = _of_run(folder, choice, tokens)
    else:
        found, config = _of_model(folder, choice, tokens)
    _check_shape(settings, config, tokens, decoder)
    return found


def weights_fingerprint(folder: Path) -> str:
    """Return the fingerprint of a Hugging Face folder's config.json and safetensors. Raises ArtifactError."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{folder} is neither a RUN folder nor a Hugging Face folder with safetensors: give one of those"
        )
    return fingerprint_of([hash_file(path).xxh3_128 for path in [folder / "config.json", *weights]])


def _of_model(folder: Path, choice: Choice, tokens: Samples) -> tuple[Initial, DecoderConfig]:
    """Return the weights of a Hugging Face folder and their model."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"init={folder} has no config.json or run.json: give {KINDS}")
    if (choice.weights, choice.average) != ("last", 1):
        raise ValueError(f"init_weights and init_average choose among a run's weights, and init={folder} has one model")
    _check_tokenizer(folder, folder, tokens)
    config = read_config(folder, tokens.end_of_text)
    check_weights(folder, config)
    stamps = _stamps(folder)
    fingerprint = weights_fingerprint(folder)

    def read() -> Mapping[str, Tensor]:
        state = read_weights(folder, config, torch.float32)
        if _stamps(folder) != stamps and weights_fingerprint(folder) != fingerprint:
            raise UnreadableError(CHANGED.format(folder))
        return state

    return Initial(choice, "Hugging Face folder", fingerprint, config.max_seq_len, read), config


def _of_run(folder: Path, choice: Choice, tokens: Samples) -> tuple[Initial, DecoderConfig]:
    """Return the chosen weights of a finished run, or of one checkpoint of any run, and their model."""
    if (folder / RUN).is_file():
        run, facts = folder, read_run(folder)
        if facts["status"] != "finished":
            raise ValueError(
                f"init={folder} is a run that is not finished, so its newest weights change: finish it, or give one of "
                f"its checkpoints, {folder / CHECKPOINTS}/step_XXXXXXXX"
            )
        chosen = choose_weights(folder, choice.weights, choice.average)
    else:
        if choice.average != 1:
            raise ValueError(f"init_average={choice.average} needs a RUN, but init={folder} is one checkpoint")
        manifest = checkpoint.verified(folder)
        run = folder.absolute().parent.parent
        facts = read_run(run)
        check_own(folder, manifest, facts)
        if choice.weights == "running":
            check_running(folder, manifest)
        chosen = ChosenWeights([folder], choice.weights)
    if facts["fingerprints"]["tokenizer"] != tokens.tokenizer_fingerprint:
        _check_tokenizer(folder, tokenizer_folder(run, facts), tokens)

    def print_of(manifests: list[Manifest]) -> str:
        return fingerprint_of([choice.weights, *(manifest.fingerprint for manifest in manifests)])

    manifests = [open_manifest(source, checkpoint.KIND) for source in chosen.sources]
    config, fingerprint = DecoderConfig(**manifests[0].facts["model"]), print_of(manifests)

    def read() -> Mapping[str, Tensor]:
        state = chosen.read()[1]
        if print_of([open_manifest(source, checkpoint.KIND) for source in chosen.sources]) != fingerprint:
            raise UnreadableError(CHANGED.format(folder))
        return state

    return Initial(choice, f"run {facts['arm']}: {chosen.how}", fingerprint, config.max_seq_len, read), config


def _stamps(folder: Path) -> list[Stamp]:
    """Return what the file system says of the files that `weights_fingerprint` reads."""
    return [Stamp.of(path) for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]]


def _recorded(run: Path, choice: Choice) -> Initial:
    """Return the weights that a run has recorded, if it has a checkpoint; ValueError if it still needs them."""
    facts = read_run(run) if (run / RUN).is_file() else {}
    recorded, fingerprint = dict(facts.get("initial", {})), facts.get("fingerprints", {}).get("init")
    how = str(recorded.pop("of", ""))
    if fingerprint is None or recorded != asdict(choice) or not checkpoint.candidates(run / CHECKPOINTS):
        raise ValueError(f"init={choice.folder} does not exist: give {KINDS}")
    log.info("init=%s no longer exists: the run resumes from its checkpoint, without it", choice.folder)
    return Initial(choice, how, fingerprint, None, partial(_gone, choice.folder))


def _gone(folder: str) -> Mapping[str, Tensor]:
    raise ArtifactError(f"init={folder} no longer exists, and the run has no complete checkpoint: restore the folder")


def _check_tokenizer(folder: Path, tokenizer: Path, tokens: Samples) -> None:
    """Raise ValueError unless the weights read text as TOKENS encode it."""
    if not tokens.is_encoded_by(tokenizer):
        raise ValueError(
            f"init={folder} reads other token ids than those of {tokens.folder}: its tokenizer.json is missing or "
            f"encodes text differently; prepare the text with tokenizer.name={tokenizer}"
        )


def _check_shape(settings: TrainSettings, theirs: DecoderConfig, tokens: Samples, ours: DecoderConfig) -> None:
    """Raise ValueError, with the words to type, unless the run's model computes what the weights were trained in."""
    place = f"init={settings.init}"
    if theirs.explicit_head_size is not None:
        raise ValueError(
            f"{place} has heads of {theirs.head_size}, not width / heads = {theirs.width}/{theirs.heads}: such a model "
            "cannot be trained here, give another one"
        )
    if tokens.vocab_size > theirs.vocab_size:
        raise ValueError(
            f"{place} has embeddings of {theirs.vocab_size} tokens, but {tokens.folder} has ids up to "
            f"{tokens.vocab_size - 1}: give the weights of a model with this vocabulary"
        )
    unlike = [name for name in SAME if getattr(theirs, name) != getattr(ours, name)]
    rope = [name for name in unlike if name.startswith("rope_")]
    if settings.init_rope:
        unlike = [name for name in unlike if name not in rope]
    found = [f"{name}={getattr(ours, name)} instead of {getattr(theirs, name)}" for name in unlike]
    words = [f"model.{name}={_word(getattr(theirs, name))}" for name in unlike]
    if theirs.vocab_size != ours.vocab_size:
        found.append(f"a vocabulary of {ours.vocab_size} instead of {theirs.vocab_size}")
        words.append(f"model.vocab_multiple={theirs.vocab_size}")
    if found:
        asked = set(rope) & set(unlike)
        or_rope = " (or, to train it with other rotary positions, init_rope=true)" if asked else ""
        raise ValueError(
            f"{place} does not fit the model of the run, which has {', '.join(found)}: add {' '.join(words)}{or_rope}"
        )


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
