"""Reference models: what a folder holds, whether it fits TOKENS, and the loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curriculum.artifact.files import ArtifactError, fingerprint_of, hash_file
from curriculum.artifact.manifest import open_manifest
from curriculum.scores.scorer import Reference
from curriculum.tokens.tokenizer import TOKENIZER_FILE
from curriculum.tokens.tokens import SLICES, Tokens
from train import checkpoint
from train.resume.runfolder import RUN, read_run

if TYPE_CHECKING:
    import torch

    from models.losses.loss_model import LossModel

TOKEN_KEYS = ("bos_token_id", "eos_token_id")


def identity_of(folder: Path) -> str:
    """Return the fingerprint of a reference model's weights."""
    if (folder / RUN).is_file():
        if read_run(folder)["status"] != "finished":
            raise ArtifactError(f"run {folder} is not finished: train it to its end before it scores")
        return open_manifest(_checkpoint(folder), checkpoint.KIND).fingerprint
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ArtifactError(
            f"{folder} is neither a RUN folder nor a Hugging Face folder with safetensors: give one of those"
        )
    return fingerprint_of([hash_file(path).xxh3_128 for path in [folder / "config.json", *weights]])


def check_model(name: str, folder: Path, tokens: Tokens, vouched: bool) -> bool:
    """Return whether a model scores the text and not the tokens: its tokenizer gives some token another id.

    Raises ValueError, before a weight is read, where nothing here can score TOKENS with the folder, and where it holds
    no tokenizer.json and the user does not vouch for its tokens.
    """
    if (folder / RUN).is_file():
        return False  # compared by fingerprint when it is loaded
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{folder} is neither a RUN folder nor a Hugging Face folder with safetensors: give one of those"
        )
    from models import huggingface

    on_text = not vouched and _other_tokens(name, folder, tokens)
    huggingface.check_scorer(folder, tokens.end_of_text, None if on_text else tokens.seq_len)
    if on_text:
        _first_token(folder)
    return on_text


def _other_tokens(name: str, folder: Path, tokens: Tokens) -> bool:
    from tokenizers import Tokenizer

    file = folder / TOKENIZER_FILE
    if not file.is_file():
        raise ValueError(
            f"model {name!r} at {folder} holds no {TOKENIZER_FILE}, so nothing says that its tokens are those of "
            f"{tokens.folder}: put its {TOKENIZER_FILE} there, or vouch for it with same_tokens=[{name}]"
        )
    vocabularies = []
    for path in (file, tokens.tokenizer_folder / TOKENIZER_FILE):
        try:
            vocabularies.append(Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True))
        except Exception as error:  # the Rust side raises bare Exception
            raise ValueError(f"{path} cannot be read as a tokenizer ({error}): restore it") from error
    theirs, ours = vocabularies
    return any(theirs.get(token) != number for token, number in ours.items())


def load_reference(
    folder: Path,
    identity: str,
    tokens: Mapping[str, Tokens],
    precision: str,
    *,
    device: torch.device,
    on_text: bool,
    compiled: bool,
) -> Reference:
    """Return a reference model with what is known of its making: our decoder, or another architecture as it is."""
    import torch

    from models import huggingface
    from models.huggingface.admission import position_limit
    from train.checkpoint.decoder import load_decoder

    first = next(iter(tokens.values()))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if (folder / RUN).is_file():
        facts = read_run(folder)
        prints = facts["fingerprints"]
        decoder = load_decoder(_checkpoint(folder)).to(device, dtype)
        if decoder.config.max_seq_len < first.seq_len:
            raise ValueError(
                f"run {folder} was trained on samples of {decoder.config.max_seq_len} tokens, {first.folder} has "
                f"seq_len={first.seq_len}: it says nothing sound of what stands further on; train it on such samples"
            )
        _compile(decoder, compiled)
        return Reference(
            *(decoder, identity, prints["tokenizer"], prints["tokens"]),
            overlaps=_overlaps(facts, tokens),
            training=training_of(facts, checkpoint.step_of(_checkpoint(folder))),
        )
    end = None if on_text else first.end_of_text
    model, way = huggingface.load_scorer(
        folder, dtype, device, end_of_text=end, seq_len=None if on_text else first.seq_len
    )
    _compile(model, compiled)
    text = None
    if on_text:
        from curriculum.scores.text_scorer import TextScorer

        text = TextScorer(model, folder, _first_token(folder), position_limit(folder), first)
        way += ", on the text by its own tokenizer: nats are divided by the tokens of TOKENS; compare bits a byte"
    return Reference(model, identity, None, None, way, text)


def training_of(facts: Mapping[str, Any], steps: int) -> str:
    """Return for how many steps a run was trained, and at which peak learning rate."""
    rate = facts["identity"].get("optimizer", {}).get("lr")
    return f"{steps:,} step{'s' * (steps != 1)}" + (f" at a learning rate of {rate:g}" if rate is not None else "")


def _compile(model: LossModel, compiled: bool) -> None:
    """Let our decoder compile its blocks; another architecture is compiled as a whole by torch."""
    if not compiled:
        return
    from dataclasses import replace

    from models.decoder import Decoder

    if isinstance(model, Decoder):
        model.execution = replace(model.execution, compile=True)
    else:
        inner: Any = model
        inner.model.compile()


def _first_token(folder: Path) -> int:
    """Return the token that a model's texts begin with: bos, else eos, as lm-evaluation-harness takes it."""
    from models.huggingface.folder import read_json

    config = read_json(folder / "config.json", "name a folder written by save_pretrained")
    for key in TOKEN_KEYS:
        value = config.get(key)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            return value
    raise ValueError(
        f"{folder / 'config.json'} names neither bos_token_id nor eos_token_id: add the token that texts begin with"
    )


def _overlaps(facts: Mapping[str, Any], tokens: Mapping[str, Tokens]) -> dict[str, float]:
    """Return, for each slice, what share of its documents a run was trained on, where TOKENS of the run still lie.

    Only TOKENS of the same text can be compared: documents are known by their number in it.
    """
    try:
        folder = Path(facts["paths"]["tokens"])
        theirs = {name: Tokens.open(folder, name) for name in SLICES}
        trained = next(part for part in theirs.values() if part.fingerprint == facts["fingerprints"]["tokens"])
        text = _text_of(folder)
    except (ArtifactError, KeyError, StopIteration, TypeError, ValueError):
        return {}
    found = {}
    for name, part in tokens.items():
        if text and text == _text_of(part.folder) and part.documents:
            found[name] = float(np.isin(part.origins, trained.origins).mean())
    return found


def _text_of(folder: Path) -> dict[str, str]:
    inputs = open_manifest(folder, "tokens").inputs
    return {name: value for name, value in inputs.items() if name.startswith("text/")}


def _checkpoint(folder: Path) -> Path:
    from train.export.export import newest_checkpoint

    return newest_checkpoint(folder)
