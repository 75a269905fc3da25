"""python -m benchmarks.hf_parity FOLDER [--gguf FILE]

Compare the logits of a real Llama-type model here and in transformers, in both directions: the folder is loaded by
transformers and by us, then exported by us and loaded by transformers again. Logits are compared in float32 on the same
tokens: text from this checkout with the folder's tokenizer, and random ids. `--gguf` names a GGUF file in the folder,
which transformers converts to safetensors first (needs the package gguf).

Targets: no logit differs by more than 1e-4, and the exported tokenizer gives the same ids; otherwise the exit code is
1. For comparison, it prints how far both are from transformers in float64, which is the rounding error of float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.options import size

LARGEST_DIFFERENCE = 1e-4
TEXT = Path(__file__).parent / "README.md"


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, and return 0 if all logits agree."""
    options = _options(arguments)
    import torch
    from transformers import AutoModelForCausalLM

    from models.huggingface import export, load

    with tempfile.TemporaryDirectory(prefix="pdpc-parity-") as name:
        folder = _converted(options.folder, options.gguf, Path(name) / "theirs") if options.gguf else options.folder
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        ours = load(folder, torch.float32).eval()
        with_tokenizer = (folder / "tokenizer.json").is_file()
        written = Path(name) / "ours"
        state = ours.state_dict()
        tokenizer = folder if with_tokenizer else None
        export(written, ours.config, state, dtype=torch.float32, tokenizer_folder=tokenizer, card=None)
        again = AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32).eval()
        print(f"{folder.name}: {ours.config}")
        held = True
        for kind, ids_BT in _tokens(folder if with_tokenizer else None, written, ours.config, options).items():
            with torch.no_grad():
                expected = theirs(ids_BT, use_cache=False).logits
                read, back = ours.logits(ids_BT), again(ids_BT, use_cache=False).logits
            differences = {"read": (read - expected).abs().max(), "written": (back - expected).abs().max()}
            held &= all(float(value) <= LARGEST_DIFFERENCE for value in differences.values())
            shown = ", ".join(f"{way} {float(value):.2e}" for way, value in differences.items())
            largest = float(expected.abs().max())
            print(f"{kind}, {ids_BT.numel()} tokens: largest difference {shown}; largest logit {largest:.1f}")
            with torch.no_grad():
                exact = theirs.double()(ids_BT, use_cache=False).logits
            theirs.float()
            rounding = {"theirs": (expected - exact).abs().max(), "ours": (read - exact).abs().max()}
            print("  to float64: " + ", ".join(f"{side} {float(value):.2e}" for side, value in rounding.items()))
        print(f"at most {LARGEST_DIFFERENCE:g}: {'held' if held else 'MISSED'}")
    return 0 if held else 1


def _tokens(folder: Path | None, written: Path, config: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return int64 [1, T] by name: random ids and, with a tokenizer, text."""
    import torch
    from transformers import AutoTokenizer

    length = min(options.tokens, config.max_seq_len)
    found = {
        "random ids": torch.randint(
            config.vocab_size, (1, length), generator=torch.Generator().manual_seed(options.seed)
        )
    }
    if folder is not None:
        text = TEXT.read_text("utf-8")
        ids, again = (AutoTokenizer.from_pretrained(place)(text)["input_ids"] for place in (folder, written))
        if ids != again:
            raise ValueError(f"{written}: the exported tokenizer gives other ids than the one of {folder}")
        found["text"] = torch.tensor([ids[:length]])
    if config.end_of_text is not None:  # an ordinary token for Llama, but the start of a document here
        found = {kind: ids_BT.masked_fill(ids_BT == config.end_of_text, 1) for kind, ids_BT in found.items()}
    return found


def _converted(folder: Path, gguf: str, target: Path) -> Path:
    """Convert a GGUF file to safetensors with its tokenizer, using only transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    dequantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
    del dequantised.config.quantization_config  # transformers refuses to save a model loaded from GGUF
    plain = LlamaForCausalLM(dequantised.config)
    plain.load_state_dict(dequantised.state_dict())
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf).save_pretrained(target)
    return target


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folder", type=Path, help="Hugging Face folder of a Llama-type model")
    made.add_argument("--gguf", help="name of a GGUF file in the folder")
    made.add_argument("--tokens", type=size, default=512, help="maximum tokens of each kind (default 512)")
    made.add_argument("--seed", type=int, default=0, help="seed of the random ids (default 0)")
    return made.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
