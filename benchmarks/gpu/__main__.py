"""python -m benchmarks.gpu

Checks and measures on a node with a GPU: every path that needs one (attention backends, Liger's kernels, the chunked
loss, compilation, recomputation, offloading, ZeRO, checkpoints) compared with the reference, then full training steps
of 1.3b and 3b in tokens/s/GPU and MFU, compared with Hugging Face's LlamaForCausalLM of the same shape and with
published figures. It needs no network: what the node lacks is installed from a folder of wheels (`make gpu-wheels`),
and torch is the node's own. Every group of checks is a process; whatever fails or is skipped, the others run.

    mfu         tokens/s/GPU * (6 * N + 12 * layers * query width * T) / peak, where N counts the parameters in matrix
                products (all but the embedding and the norms): the convention of the published figures
    mfu_causal  the same with attention halved for the causal mask

Exit code: 0 all passed, 1 something failed (without a GPU too), 3 nothing failed but something was skipped.
`--device cpu --size demo` is a dry run of the same code on the CPU; its figures say nothing about a GPU. Not yet run on
a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.wheels import install_missing, missing

ROOT = Path(__file__).parents[2]
FAILED, SKIPPED = 1, 3
SIZES = {
    "seq_len": (2048, "tokens per sample"),
    "micro_batch_size": (8, "samples per step and GPU; halved until they fit"),
    "steps": (10, "measured steps"),
    "warm_up": (3, "steps before the measured ones"),
    "tokens": (16_384, "tokens for the timing of attention and kernels, a multiple of the sample length"),
    "repeats": (10, "calls of attention and kernels"),
}


def main(arguments: Sequence[str] | None = None, folder: Path | None = None) -> int:
    """Check, measure and report; return the exit code."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="pdpc-gpu-") as name:
        scratch = Path(name)
        try:
            added = install_missing(options.wheels, scratch / "site") if options.wheels.is_dir() else []
        except ValueError as error:
            print(f"gpu check: {error}", file=sys.stderr)
            return FAILED
        if lacking := missing() if not options.wheels.is_dir() else []:
            print(
                f"gpu check: this Python lacks {', '.join(lacking)}, and {options.wheels} does not exist: run make "
                "gpu-wheels on a machine with internet, copy the folder here, and give --wheels FOLDER",
                file=sys.stderr,
            )
            return FAILED
        from benchmarks.gpu.session import report, run

        rows = scratch / "rows"
        rows.mkdir()
        result = run(vars(options), rows, added)
        return report(result, folder, keep=options.keep)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run (default cuda)")
    made.add_argument("--size", nargs="+", default=["1.3b", "3b"], help="files of configs/model (default 1.3b 3b)")
    for name, (default, meaning) in SIZES.items():
        option = f"--{name.replace('_', '-')}"
        made.add_argument(option, type=_positive, default=default, help=f"{meaning} (default {default})")
    made.add_argument("--only", nargs="*", metavar="GROUP", help="attention, kernels, decoder, engine, timing, steps")
    made.add_argument("--no-compile", dest="compile", action="store_false", help="leave out torch.compile")
    made.add_argument("--minutes", type=float, default=6.0, help="time for everything (default 6)")
    made.add_argument("--wheels", type=Path, default=ROOT / "wheels", help="folder of make gpu-wheels (default wheels)")
    made.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of pdpc train")
    made.add_argument("--peak-tflops", type=float, help="the card's dense bf16 peak, if it is not known")
    made.add_argument("--threads", type=_positive, help="CPU threads per rank")
    made.add_argument("--seed", type=int, default=0, help="seed of weights and tokens (default 0)")
    made.add_argument("--keep", action="store_true", help="write the result to the folder tracked by git")
    options = made.parse_args(arguments)
    if options.tokens % options.seq_len:
        made.error(f"--tokens {options.tokens} must be a multiple of --seq-len {options.seq_len}")
    if not options.minutes > 0:
        made.error(f"--minutes {options.minutes:g} must be above 0")
    known = {path.stem for path in (ROOT / "configs" / "model").glob("*.yaml")}
    for each in options.size:
        if each not in known:
            made.error(f"--size {each} is no file of configs/model: use one of {', '.join(sorted(known))}")
    groups = ("attention", "kernels", "decoder", "engine", "timing", "steps")
    for each in options.only or []:
        if each not in groups:
            made.error(f"--only {each} is unknown: use any of {', '.join(groups)}")
    return options


def _positive(text: str) -> int:
    """Parse a positive integer."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at least 1")
    return int(text)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
