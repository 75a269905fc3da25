"""`pdpc score`: reference models, from runs or Hugging Face folders, over every sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from curriculum.artifact import ArtifactError, fingerprint_of, hash_file, open_manifest
from curriculum.scores import Scores
from curriculum.scoring import Reference, write_scores
from curriculum.tokenizer import TOKENIZER_FILE
from curriculum.tokens import Tokens
from train import checkpoint
from train.runfolder import RUN, read_run
from train.settings import PRECISIONS


@dataclass(frozen=True)
class ScoreSettings:
    """What `pdpc score` is told."""

    tokens: str
    """TOKENS folder."""
    output: str
    """SCORES folder to write."""
    models: dict[str, str] = field(default_factory=dict)
    """Reference models by name, each a RUN or a Hugging Face folder of any architecture: weak and strong give PD."""
    slices: list[str] = field(default_factory=lambda: ["train", "validation"])
    """Slices to score; the validation slice serves the held-out halves."""
    batch_size: int = 32
    """Samples in one forward pass."""
    precision: str = "fp32"
    """fp32, or bf16: about twice as fast, with losses that differ in the third decimal."""
    threads: int | None = None
    """CPU threads; null: all cores."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models is empty: give models.weak=RUN models.strong=RUN")
        if not self.slices:
            raise ValueError("slices is empty: give slices=[train,validation]")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is unknown: use one of {list(PRECISIONS)}")
        for key in ("batch_size", "threads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}={value} must be at least 1")


def run(settings: ScoreSettings) -> Scores:
    """Score every sample of every slice under every model."""
    tokens = {name: Tokens.open(settings.tokens, name) for name in settings.slices}
    folders = {name: Path(folder) for name, folder in settings.models.items()}
    first = next(iter(tokens.values()))
    for name, folder in folders.items():
        check_model(folder, first)
        check_vocabulary(name, folder, first)
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)
    return write_scores(
        Path(settings.output),
        tokens,
        {name: partial(load_reference, folder, first, settings.precision) for name, folder in folders.items()},
        {name: identity_of(folder) for name, folder in folders.items()},
        batch_size=settings.batch_size,
        precision=settings.precision,
    )


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


def check_model(folder: Path, tokens: Tokens) -> None:
    """Raise ValueError, before a weight is read, where nothing here can score TOKENS with a Hugging Face folder."""
    from models import huggingface

    if (folder / "config.json").is_file() and not (folder / RUN).is_file():
        huggingface.check_scorer(folder, tokens.end_of_text, tokens.seq_len)


def check_vocabulary(name: str, folder: Path, tokens: Tokens) -> None:
    """Raise ValueError unless the tokenizer in a Hugging Face folder gives every token the id that TOKENS give it.

    A folder without a tokenizer.json says nothing about its tokens and passes; a RUN is compared by fingerprint later.
    """
    from tokenizers import Tokenizer

    file = folder / TOKENIZER_FILE
    if (folder / RUN).is_file() or not file.is_file():
        return
    vocabularies = []
    for path in (file, tokens.tokenizer_folder / TOKENIZER_FILE):
        try:
            vocabularies.append(Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True))
        except Exception as error:  # the Rust side raises bare Exception
            raise ValueError(f"{path} cannot be read as a tokenizer ({error}): restore it") from error
    theirs, ours = vocabularies
    strange = [token for token, number in ours.items() if theirs.get(token) != number]
    if strange:
        raise ValueError(
            f"model {name!r} at {folder} has another tokenizer than {tokens.folder}: {len(strange)} of {len(ours)} "
            f"tokens have another id there, as {min(strange)!r}: prepare the text with the model's tokenizer, or "
            "choose another model"
        )


def load_reference(folder: Path, tokens: Tokens, precision: str) -> Reference:
    """Return a reference model with what is known of its making: our decoder, or another architecture as it is."""
    import torch

    from models import huggingface
    from train.evaluation import load_decoder

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (folder / RUN).is_file():
        prints = read_run(folder)["fingerprints"]
        decoder = load_decoder(_checkpoint(folder)).to(device, dtype)
        return Reference(decoder, identity_of(folder), prints["tokenizer"], prints["tokens"])
    model, way = huggingface.load_scorer(folder, dtype, device, end_of_text=tokens.end_of_text, seq_len=tokens.seq_len)
    return Reference(model, identity_of(folder), None, None, way)


def _checkpoint(folder: Path) -> Path:
    from train.export import newest_checkpoint

    return newest_checkpoint(folder)
