"""python -m benchmarks.score_parity FOLDER TEXT.parquet [MORE.parquet ...] [--gguf FILE] [--harness]

Compare the loss of a real model on texts here and elsewhere. The first documents of each file are scored through the
text path of `pdpc score` (with the model's own tokenizer) and by transformers' own loss, document by document; with
--harness also by `loglikelihood_rolling` of lm-evaluation-harness. Texts are cut to --characters; transformers is
compared only on documents that fit into the model's context. `--gguf` names a GGUF file in the folder (see
benchmarks.hf_parity).

Target: no document's mean loss differs by more than 1e-3 nats; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import size

CLOSE = 1e-3


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, and return 0 if all losses agree."""
    options = _options(arguments)
    import pyarrow.parquet as pq
    import torch

    from benchmarks.hf_parity import _converted
    from curriculum.scores.text_scorer import TextScorer
    from launch.score.references import _first_token
    from models.huggingface import load_scorer
    from models.huggingface.admission import position_limit

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="pdpc-parity-") as name:
        folder = _converted(options.folder, options.gguf, Path(name) / "model") if options.gguf else options.folder
        share = -(-options.documents // len(options.texts))
        texts = [
            text[: options.characters]
            for path in options.texts
            for text in pq.read_table(path, columns=["text"]).column("text").slice(0, share).to_pylist()
        ][: options.documents]
        model, way = load_scorer(folder, torch.float32, torch.device("cpu"), end_of_text=None, seq_len=None)
        limit = position_limit(folder)
        scorer = TextScorer(model, folder, _first_token(folder), limit)
        counts = np.maximum(_token_counts(folder, texts), 1)
        ours = scorer.text_sums(texts) / counts
        others = {"transformers": _transformers(folder, texts, _first_token(folder), limit)}
        if options.harness:
            others["lm-eval loglikelihood_rolling"] = _harness(folder, texts) / counts
        text_bytes = sum(len(text.encode()) for text in texts)
        bits = float((ours * counts).sum() / np.log(2) / text_bytes)
        print(f"{folder.name}: {len(texts)} documents, {counts.sum():,} tokens, {way}; {bits:.4f} bits per byte")
        held = True
        for other, losses in others.items():
            known = np.isfinite(losses)
            apart = float(np.abs(ours - losses)[known].max())
            held &= apart <= CLOSE
            print(f"  {other}: {known.sum()} documents, largest difference of a mean loss {apart:.2e} nats")
        print(f"at most {CLOSE:g}: {'held' if held else 'MISSED'}")
    return 0 if held else 1


def _token_counts(folder: Path, texts: list[str]) -> NDArray[np.int64]:
    """Return the number of tokens of each document with the model's tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    return np.array([len(encoding.ids) for encoding in encodings], dtype=np.int64)


def _transformers(folder: Path, texts: list[str], first: int, limit: int | None) -> NDArray[np.float64]:
    """Return each document's loss by transformers; nan for a document longer than the model's context."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = []
    for text in texts:
        ids = [first, *tokenizer.encode(text, add_special_tokens=False).ids]
        if len(ids) < 2 or (limit is not None and len(ids) > limit):
            found.append(float("nan"))
            continue
        row = torch.tensor([ids])
        with torch.inference_mode():
            found.append(float(model(input_ids=row, labels=row, use_cache=False).loss))
    return np.array(found)


def _harness(folder: Path, texts: list[str]) -> NDArray[np.float64]:
    """Return each document's nats by lm-evaluation-harness."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    # The harness itself puts a begin-of-text token before a text: its tokenizer must not add a second one.
    model: Any = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1, add_bos_token=False)
    requests = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(texts)]
    return -np.array(model.loglikelihood_rolling(requests, disable_tqdm=True), dtype=np.float64)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folder", type=Path, help="Hugging Face folder of a causal model with its tokenizer.json")
    made.add_argument("texts", type=Path, nargs="+", help="Parquet files with a column `text`")
    made.add_argument("--gguf", help="name of a GGUF file in the folder")
    made.add_argument("--documents", type=size, default=300, help="total number of documents (default 300)")
    made.add_argument("--characters", type=size, default=1500, help="characters to keep of a document (default 1500)")
    made.add_argument("--harness", action="store_true", help="also compare with lm-evaluation-harness")
    return made.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
