"""python -m benchmarks.reading --samples 100000

Throughput of reading shuffled samples of 2,048 uint16 tokens in one process: ours (CurriculumSampler, Tokens.sample)
compared with mosaicml-streaming's StreamingDataset (local MDS shards, py1e shuffle), Megatron-core's GPTDataset (its
own shuffle, labels, loss mask and positions, no attention mask) and Megatron-core's raw IndexedDataset (`get` with our
shuffled ids).

Every side returns int64 batches, as models expect. Each reads all samples once before timing starts: this warms the
page cache and gives the sum of the tokens, which must be the same for all sides.

Targets: at least 100,000 samples/s; at least 8 times StreamingDataset and GPTDataset; not slower than IndexedDataset.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import chosen, parser, say, size, work_folder
from benchmarks.processes import Facts, Settings, Side, measure
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread
from benchmarks.token_data import END_OF_TEXT, VOCABULARY, import_streaming, write_all

NAME = "reading"
OURS = "pdpc"
LEAST_PER_S = 100_000.0
LEAST_TIMES = {"streaming": 8.0, "gpt_dataset": 8.0, "indexed_dataset": 1.0}


def _read(settings: Settings, batches: Callable[[], Iterator[Any]]) -> Facts:
    """Read everything once for the sum of the tokens, then once timed. A batch is int64 [n, length or more]."""
    length = settings["length"]
    token_sum = 0
    for batch in batches():
        assert str(batch.dtype).endswith("int64"), f"a batch of {batch.dtype}"
        token_sum += int(batch[:, :length].sum())
    samples = 0
    start = time.perf_counter()
    for batch in batches():
        samples += len(batch)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "samples": samples, "token_sum": token_sum, "samples_per_s": samples / seconds}


def pdpc(settings: Settings) -> Facts:
    """Our order and our tokens; each batch has one more column, the last label."""
    from curriculum import CurriculumSampler, Order, Tokens

    tokens = Tokens.open(Path(settings["tokens"]) / "tokens")
    order = Order.open(Path(settings["tokens"]) / "order")
    return _read(
        settings, lambda: map(tokens.sample, CurriculumSampler(order, settings["batch_size"], rank=0, world_size=1))
    )


def streaming(settings: Settings) -> Facts:
    """Mosaic's StreamingDataset in a torch DataLoader without workers, samples stacked by numpy."""
    module = import_streaming()
    from torch.utils.data import DataLoader

    dataset = module.StreamingDataset(
        local=settings["mds"],
        shuffle=True,
        shuffle_algo="py1e",
        shuffle_seed=settings["seed"],
        batch_size=settings["batch_size"],
        num_canonical_nodes=1,  # otherwise it repeats samples until 64 nodes have equally many
    )
    loader = DataLoader(dataset, batch_size=settings["batch_size"], collate_fn=_stack)
    return _read(settings, lambda: iter(loader))


def _stack(items: list[dict[str, Any]]) -> Any:
    return np.stack([item["tokens"] for item in items]).astype(np.int64)


def gpt_dataset(settings: Settings) -> Facts:
    """Megatron's GPTDataset, already shuffled, read in sequence by a torch DataLoader without workers."""
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.utils import Split
    from torch.utils.data import DataLoader

    class Tokenizer:
        """The attributes that GPTDataset needs from a tokenizer."""

        def __init__(self) -> None:
            self.vocab_size = VOCABULARY
            self.eod = END_OF_TEXT
            self.unique_identifiers: dict[str, str] = {}

    prefix = str(Path(settings["megatron"]) / "data")
    config = GPTDatasetConfig(
        random_seed=settings["seed"],
        sequence_length=settings["length"],
        blend=([prefix], None),
        split="1,0,0",
        tokenizer=Tokenizer(),
        path_to_cache=settings["cache"],
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        add_extra_token_to_sequence=False,  # each sample is one document: no sample is joined from two
    )
    indexed = GPTDataset.build_low_level_dataset(prefix, config)
    everything = np.arange(settings["samples"], dtype=np.int32)
    dataset = GPTDataset(indexed, prefix, everything, settings["samples"], Split.train, config)
    loader = DataLoader(dataset, batch_size=settings["batch_size"])
    return _read(settings, lambda: (batch["tokens"] for batch in loader))


def indexed_dataset(settings: Settings) -> Facts:
    """Megatron's IndexedDataset, one `get` per sample with ids from our order, stacked and cast by numpy."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    from curriculum import CurriculumSampler, Order

    dataset = IndexedDataset(str(Path(settings["megatron"]) / "data"))
    order = Order.open(Path(settings["tokens"]) / "order")

    def batches() -> Iterator[Any]:
        for ids in CurriculumSampler(order, settings["batch_size"], rank=0, world_size=1):
            yield np.stack([dataset.get(index) for index in ids]).astype(np.int64)

    return _read(settings, batches)


SIDES: dict[str, Side] = {
    OURS: pdpc,
    "streaming": streaming,
    "gpt_dataset": gpt_dataset,
    "indexed_dataset": indexed_dataset,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    options = _options(arguments)
    with work_folder(options.work) as work:
        say(f"tokens: {options.samples:,} samples of {options.length:,} in three formats")
        paths = {
            name: str(path) for name, path in write_all(work, options.samples, options.length, options.seed).items()
        }
        settings = {**chosen(options), **paths, "cache": str(work / "megatron-cache")}
        measured = interleave(list(SIDES), options.rounds, partial(_one_side, settings, work), say)
    for fact in ("samples", "token_sum"):
        found = {side: sorted({facts[fact] for facts in rounds}) for side, rounds in measured.items()}
        if any(values != found[OURS] for values in found.values()):
            raise ValueError(f"the sides did not read the same data: {fact} is {found}")
    ours = column(measured, OURS, "seconds")
    faster = {f"{peer} / {OURS}": ratios(column(measured, peer, "seconds"), ours) for peer in LEAST_TIMES}
    speed = spread(column(measured, OURS, "samples_per_s")).median
    checks = [Check("samples per second", speed, LEAST_PER_S, "at least", "/s")]
    checks += [
        Check(f"faster than {peer}", spread(values).median, least, "at least", "x")
        for (peer, least), values in zip(LEAST_TIMES.items(), faster.values(), strict=True)
    ]
    notes = [
        f"{side}: {spread(column(measured, side, 'samples_per_s')).median:,.0f} samples/s (median)" for side in measured
    ]
    peers = ("mosaicml-streaming", "megatron-core", "torch")
    finish(Result(NAME, chosen(options), peers, measured, faster, checks, notes), keep=options.keep)


def _one_side(settings: dict[str, Any], work: Path, side: str) -> Facts:
    return measure(NAME, side, settings, work)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--samples", type=size, default=100_000, help="samples per round (default 100000)")
    made.add_argument("--length", type=size, default=2048, help="tokens per sample (default 2048)")
    made.add_argument("--batch-size", type=size, default=512, help="samples per batch (default 512)")
    options = made.parse_args(arguments)
    if options.samples < options.batch_size:
        made.error(f"--samples {options.samples} must be at least one batch of {options.batch_size}")
    return options


if __name__ == "__main__":
    main()
