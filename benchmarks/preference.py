"""python -m benchmarks.preference BENCHMARKS TOKENIZER

DPO and SimPO compared with TRL (DPOTrainer, and CPOTrainer with loss_type=simpo) on real pairs: questions of PIQA and
OpenBookQA with the right answer chosen and the others rejected. BENCHMARKS holds their train splits as Parquet
(piqa/train.parquet, openbookqa/train.parquet), TOKENIZER is a Hugging Face folder with a tokenizer.

Parity: loss and gradients of a batch in float32, from the same random weights (for DPO with another random model as
reference), largest difference relative to the largest gradient of the tensor. Target: 1e-5.

Speed: training steps on the same batches in one process, a round of one side after a round of the other; ours are the
calls of train/loop.py (Engine, ZeRO 0, float32), theirs compute_loss, backward, clipping and torch's fused AdamW, with
the reference's log-probabilities computed beforehand on both sides. Collation counts on both sides. Target: 1.2 times
TRL's pairs per second.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.options import add_sizes, chosen, parser, say
from benchmarks.processes import peak_bytes
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread

NAME = "preference"
LARGEST_DIFFERENCE, LEAST_TIMES = 1e-5, 1.2
BETA, GAMMA = {"dpo": 0.1, "simpo": 2.0}, 1.0


def records(folder: Path, task: str, number: int) -> list[dict[str, str]]:
    """Return pairs of a task as text: several of a question that has several wrong answers."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / task / "train.parquet").to_pylist()
    found = []
    for row in rows:
        if task == "piqa":
            prompt, answers, right = row["goal"], [row["sol1"], row["sol2"]], row["label"]
        else:
            prompt, answers = row["question_stem"], row["choices"]["text"]
            right = row["choices"]["label"].index(row["answerKey"])
        found += [
            {"prompt": prompt, "chosen": f" {answers[right]}", "rejected": f" {answer}"}
            for number, answer in enumerate(answers)
            if number != right and answer != answers[right]
        ]
        if len(found) >= number:
            break
    return found[:number]


def llama(options: argparse.Namespace, vocabulary: int, seed: int) -> Any:
    """Return a random Llama of transformers in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=options.width,
        intermediate_size=options.ffn,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        max_position_embeddings=2048,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config).float()


def decoder_of(model: Any, work: Path) -> Any:
    """Return our decoder with the same weights."""
    import torch

    from models.huggingface import load

    with tempfile.TemporaryDirectory(dir=work) as name:
        model.save_pretrained(name)
        return load(Path(name), torch.float32).train()


def trainer_of(objective: str, model: Any, reference: Any, rows: Sequence[Any], tokenizer: Any, work: Path) -> Any:
    """Return TRL's trainer on text pairs."""
    from datasets import Dataset

    common = {
        "output_dir": str(work),
        "per_device_train_batch_size": 1,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "beta": BETA[objective],
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }
    data = Dataset.from_list(list(rows))
    if objective == "dpo":
        from trl import DPOConfig, DPOTrainer

        arguments = DPOConfig(max_length=None, precompute_ref_log_probs=True, precompute_ref_batch_size=16, **common)
        return DPOTrainer(
            model=model, ref_model=reference, args=arguments, train_dataset=data, processing_class=tokenizer
        )
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    arguments = CPOConfig(max_length=2048, loss_type="simpo", simpo_gamma=GAMMA, cpo_alpha=0.0, **common)
    return CPOTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)


def answered_of(objective: str, example: dict[str, Any]) -> Any:
    """Return one of TRL's tokenized examples as a prompt with answers."""
    import numpy as np

    from models.losses.pair_batch import Answered

    def ids(values: Sequence[int]) -> Any:
        return np.array(values, dtype=np.int64)

    if objective == "dpo":
        return Answered(ids(example["prompt_ids"]), [ids(example["chosen_ids"]), ids(example["rejected_ids"])])
    prompt = sum(label == -100 for label in example["chosen_labels"])
    whole = [example[f"{side}_input_ids"] for side in ("chosen", "rejected")]
    return Answered(ids(whole[0][:prompt]), [ids(row[prompt:]) for row in whole])


def examples_of(trainer: Any) -> list[dict[str, Any]]:
    """Return all tokenized examples of a trainer."""
    return [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]


def reference_of(examples: Sequence[dict[str, Any]]) -> Any:
    """Return log p of every answer under the reference, as TRL computed it."""
    import torch

    names = ("ref_chosen_logps", "ref_rejected_logps")
    return torch.tensor([example[name] for example in examples for name in names], dtype=torch.float32)


def our_loss(model: Any, objective: str, examples: Sequence[dict[str, Any]]) -> Any:
    """Return the mean loss of a batch, differentiable; `model` is a decoder or an engine around one."""
    import torch

    from models.losses.pair_batch import log_probabilities, pair_batch
    from models.losses.pair_loss import PairLoss

    batch = pair_batch([answered_of(objective, example) for example in examples])
    logp_Q = log_probabilities(model, batch, torch.device("cpu"))
    loss = PairLoss(objective, BETA[objective], GAMMA if objective == "simpo" else 0.0)
    reference_Q = reference_of(examples) if objective == "dpo" else None
    return loss(logp_Q, batch, reference_Q).loss_P.mean()


def parity(options: argparse.Namespace, objective: str, task: str, tokenizer: Any, work: Path) -> float:
    """Return the largest difference of loss and gradients."""
    import torch

    from models.huggingface.names import tensor_names

    rows = records(options.benchmarks, task, options.pairs)
    model, reference = (llama(options, len(tokenizer), seed) for seed in (options.seed, options.seed + 1))
    trainer = trainer_of(objective, model, reference, rows, tokenizer, work)
    examples = examples_of(trainer)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    theirs.backward()
    decoder = decoder_of(model, work)
    ours = our_loss(decoder, objective, examples)
    ours.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    worst = abs(float(ours.detach()) / float(theirs.detach()) - 1)
    names = tensor_names(decoder.config)
    for name, parameter in decoder.named_parameters():
        expected = gradients[names[name][0]]
        assert parameter.grad is not None
        worst = max(worst, float((parameter.grad - expected).abs().max() / expected.abs().max()))
    shown = f"loss {float(ours.detach()):.6f}, TRL {float(theirs.detach()):.6f}"
    say(f"{objective} on {task}: {shown}; largest difference {worst:.1e}")
    assert torch.isfinite(ours)
    return worst


def batches_of(examples: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield batches of the examples, again and again."""
    first = 0
    while True:
        if first + size > len(examples):
            first = 0
        yield examples[first : first + size]
        first += size


def sides(
    options: argparse.Namespace, objective: str, tokenizer: Any, work: Path, world: Any
) -> dict[str, Callable[[], None]]:
    """Return a function per side that makes one training step."""
    import torch

    from train.engine import Engine
    from train.settings import DataSettings, ModelSettings, OptimizerSettings, TrainSettings, ZeroSettings

    rows = [row for task in ("piqa", "openbookqa") for row in records(options.benchmarks, task, options.pairs)]
    model = llama(options, options.vocabulary, options.seed)
    decoder = decoder_of(model, work)
    trainer = trainer_of(objective, model, None, rows, tokenizer, work)
    examples = examples_of(trainer)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    their_batches, our_batches = (batches_of(examples, options.batch_size) for _ in range(2))

    def theirs() -> None:
        trainer.compute_loss(trainer.model, trainer.data_collator(list(next(their_batches)))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()

    settings = TrainSettings(
        output="none",
        arm="benchmark",
        data=DataSettings("none", "none"),
        model=ModelSettings(**{key: getattr(options, key) for key in ("layers", "width", "heads", "kv_heads", "ffn")}),
        optimizer=OptimizerSettings(lr=1e-6),
        zero=ZeroSettings(stage=0),
        precision="fp32",
        micro_batch_size=options.batch_size,
    )
    engine = Engine(decoder, settings, options.batch_size, world)

    def ours() -> None:
        engine.backward(our_loss(engine, objective, next(our_batches)))
        engine.step()

    trainer.model.train()
    return {"pdpc": ours, "trl": theirs}


def _measure(steps: dict[str, Callable[[], None]], options: argparse.Namespace, side: str) -> dict[str, Any]:
    began, processor = time.perf_counter(), time.process_time()
    for _ in range(options.steps):
        steps[side]()
    seconds = time.perf_counter() - began
    rate = options.steps * options.batch_size / seconds
    cpu_s = time.process_time() - processor
    return {"seconds": seconds, "processor_s": cpu_s, "pairs_per_s": rate, "peak_bytes": peak_bytes()}


def main(arguments: list[str] | None = None) -> None:
    """Compare, measure and report."""
    options = _options(arguments)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    checks: list[Check] = []
    compared: dict[str, list[float]] = {}
    measured: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="pdpc-preference-") as name:
        work = Path(name)
        tiny = SimpleNamespace(**{**vars(options), "layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "ffn": 96})
        for objective in BETA:
            for task in ("piqa", "openbookqa"):
                worst = parity(tiny, objective, task, tokenizer, work)  # type: ignore[arg-type]
                checks.append(Check(f"{objective} on {task}: difference", worst, LARGEST_DIFFERENCE, "at most"))
        from train.engine.communication import start

        world = start(options.threads)
        for objective in BETA:
            steps = sides(options, objective, tokenizer, work, world)
            for step in steps.values():
                step()
            found = interleave(list(steps), options.rounds, partial(_measure, steps, options), say)
            rate = ratios(column(found, "pdpc", "pairs_per_s"), column(found, "trl", "pairs_per_s"))
            compared[f"pairs per second, {objective}: pdpc / trl"] = rate
            checks.append(Check(f"{objective} as fast as TRL", spread(rate).median, LEAST_TIMES, "at least", "x"))
            measured |= {f"{side} {objective}": rounds for side, rounds in found.items()}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in chosen(options).items()}
    settings |= {"benchmarks": "piqa, openbookqa", "tokenizer": options.tokenizer.name}
    notes = ["both sides of the speed in one process: peak memory is that of both together"]
    peers = ("torch", "transformers", "trl", "accelerate", "deepspeed")
    finish(Result(NAME, settings, peers, measured, compared, checks, notes), keep=options.keep)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("benchmarks", type=Path, help="folder with piqa/train.parquet and openbookqa/train.parquet")
    made.add_argument("tokenizer", type=Path, help="Hugging Face folder with a tokenizer")
    sizes = {
        "pairs": (64, "pairs of each task"),
        "batch_size": (8, "pairs per step"),
        "layers": (4, "blocks"),
        "width": (128, "width"),
        "heads": (4, "query heads"),
        "kv_heads": (4, "key and value heads"),
        "ffn": (344, "inner width of the feed-forward network"),
        "vocabulary": (4096, "vocabulary size of the timed model"),
        "steps": (2, "steps per round"),
        "threads": (1, "CPU threads"),
    }
    add_sizes(made, sizes)
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
