"""Reference models: identify a folder, check that it fits TOKENS, and load the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import open_manifest
from curriculum.scores.scorer import Reference
from curriculum.tokens.samples import Samples
from curriculum.tokens.special import named_token
from curriculum.tokens.tokenizer import CONFIG_FILE, TOKENIZER_FILE
from launch.score.overlap import overlaps
from train import checkpoint
from train.initial import weights_fingerprint
from train.records.layout import RUN
from train.records.run_json import read_run

if TYPE_CHECKING:
    import torch

    from models.losses.loss_model import LossModel

TOKEN_KEYS = ("bos_token_id", "eos_token_id")


def identity_of(folder: Path) -> str:
    """Return the fingerprint of a reference model's weights."""
    if (folder / RUN).is_file():
        if read_run(folder)["status"] != "finished":
            raise ArtifactError(f"run {folder} is not finished: finish training before scoring with it")
        return open_manifest(_checkpoint(folder), checkpoint.KIND).fingerprint
    return weights_fingerprint(folder)


def check_model(name: str, folder: Path, tokens: Samples, vouched: bool) -> bool:
    """Return whether a model must score the text rather than the token ids, because its tokenizer's ids differ.

    Raises ValueError, before any weights are read, if the folder's model cannot score TOKENS, or if the folder has no
    tokenizer.json and the user does not vouch for its tokens.
    """
    if (folder / RUN).is_file():
        return False  # compared by fingerprint when it is loaded
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{folder} is neither a RUN folder nor a Hugging Face folder with safetensors: give one of those"
        )
    from models import huggingface

    on_text = not vouched and _other_tokens(name, folder, tokens)
    end, seq_len = (None, None) if on_text else (tokens.end_of_text, tokens.seq_len)
    huggingface.check_scorer(folder, end, seq_len)
    if on_text:
        _first_token(folder)
    return on_text


def _other_tokens(name: str, folder: Path, tokens: Samples) -> bool:
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        raise ValueError(
            f"model {name!r} at {folder} has no {TOKENIZER_FILE}, so its token ids cannot be compared with those of "
            f"{tokens.folder}: add its {TOKENIZER_FILE}, or vouch for it with same_tokens=[{name}]"
        )
    theirs, ours = _vocabulary(file), _vocabulary(tokens.tokenizer_folder / TOKENIZER_FILE)
    return any(theirs.get(token) != number for token, number in ours.items())


def _vocabulary(path: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    try:
        found: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the Rust side raises bare Exception
        raise ValueError(f"{path} cannot be read as a tokenizer ({error}): restore it") from error
    return found


def load_reference(
    folder: Path,
    identity: str,
    tokens: Mapping[str, Samples],
    precision: str,
    *,
    device: torch.device,
    on_text: bool,
    compiled: bool,
) -> Reference:
    """Return a reference model with its provenance: our decoder, or another architecture unchanged."""
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
                f"run {folder} was trained on samples of {decoder.config.max_seq_len} tokens, but {first.folder} has "
                f"seq_len={first.seq_len}: its losses beyond that length are meaningless; train it on samples that long"
            )
        decoder.config = replace(decoder.config, input_only=first.input_only)
        _compile(decoder, compiled)
        return Reference(
            *(decoder, identity, prints["tokenizer"], prints["tokens"]),
            overlaps=overlaps(facts, tokens),
            training=training_of(facts, checkpoint.step_of(_checkpoint(folder))),
        )
    end = None if on_text else first.end_of_text
    model, way = huggingface.load_scorer(
        folder,
        dtype,
        device,
        end_of_text=end,
        input_only=None if on_text else first.input_only,
        seq_len=None if on_text else first.seq_len,
    )
    _compile(model, compiled)
    text = None
    if on_text:
        from curriculum.scores.text_scorer import TextScorer

        text = TextScorer(model, folder, _first_token(folder), position_limit(folder), first)
        way += ", on the text by its own tokenizer: nats are divided by the tokens of TOKENS; compare bits a byte"
    return Reference(model, identity, None, None, way, text)


def training_of(facts: Mapping[str, Any], steps: int) -> str:
    """Return for how many steps a run was trained, at which peak learning rate, and from which weights if from any."""
    rate = facts["identity"].get("optimizer", {}).get("lr")
    found = f"{steps:,} step{'s' * (steps != 1)}" + (f" at a learning rate of {rate:g}" if rate is not None else "")
    return found + (f" from the weights of {facts['initial']['folder']}" if "initial" in facts else "")


def _compile(model: LossModel, compiled: bool) -> None:
    """Compile the model: our decoder block by block, another architecture as a whole."""
    if not compiled:
        return
    from models.compiled_code import check_cache
    from models.decoder import Decoder

    check_cache()
    if isinstance(model, Decoder):
        model.execution = replace(model.execution, compile=True)
    else:
        inner: Any = model
        inner.model.compile()


def _first_token(folder: Path) -> int:
    """Return the token that a model's texts start with: bos, else eos, as in lm-evaluation-harness.

    A configuration may name a token outside the vocabulary (GPT-2's defaults in a smaller model); the tokens that
    tokenizer_config.json names are tried next. Raises ValueError if none of them is in the vocabulary.
    """
    from models.huggingface.folder import read_json

    config = read_json(folder / "config.json", "name a folder written by save_pretrained")
    inner = config.get("text_config")
    config = {**(inner if isinstance(inner, dict) else {}), **config}
    size = config.get("vocab_size")
    named = {key: value[0] if isinstance(value := config.get(key), list) and value else value for key in TOKEN_KEYS}
    if (folder / CONFIG_FILE).is_file():
        tokenizer = read_json(folder / CONFIG_FILE, "save the tokenizer again")
        vocabulary = _vocabulary(folder / TOKENIZER_FILE)
        for key in ("bos_token", "eos_token"):
            token = named_token(tokenizer, key)
            named[f"{key} of {CONFIG_FILE}"] = vocabulary.get(token) if token is not None else None
    for value in named.values():
        if isinstance(value, int) and value >= 0 and (not isinstance(size, int) or value < size):
            return value
    found = ", ".join(f"{key}={value}" for key, value in named.items() if value is not None)
    outside = (
        f"only tokens outside its vocabulary of {size} ({found})" if found else "neither bos_token_id nor eos_token_id"
    )
    raise ValueError(f"{folder / 'config.json'} names {outside}: set bos_token_id to the token that texts begin with")


def _checkpoint(folder: Path) -> Path:
    from train.export.export import newest_checkpoint

    return newest_checkpoint(folder)
