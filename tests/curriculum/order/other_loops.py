"""Train on this rank with accelerate's loop, Trainer or Lightning, once per scenario; print what every step read.

    python other_loops.py accelerate|trainer|lightning SCENARIOS

`rank` is the same as one of several ranks that tests.torture.forks starts.
SCENARIOS is a JSON list of objects: samples (the order is a permutation of as many ids), batch_size, accumulation, and
some of epochs, cursor, drop_last, workers, cut (the sampler cuts batches over the ranks itself), stop (after so many
steps), folder (of checkpoints: Trainer resumes from the newest). The last line printed is a JSON list: for every
scenario the ids of every step, or the message of the ValueError that ended it.
"""

import json
import os
import sys
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.processes import PLACE
from curriculum import CurriculumSampler


class Planned(np.ndarray):
    """Ids with the batch size that they are planned for, as an Order has."""

    batch_size: int


class Samples(torch.utils.data.Dataset):
    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor([1.0]), "number": torch.tensor(index)}


class Model(torch.nn.Module):
    """Remembers the ids of every forward pass; a loss for Trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def forward(self, x: torch.Tensor, number: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(number.tolist())
        return {"loss": (self.weight * x).mean()}


def with_accelerate(order: Planned, options: dict[str, Any]) -> list[list[int]]:
    from accelerate import Accelerator

    accumulation = options["accumulation"]
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    ranks = accelerator.num_processes
    if options.get("cut"):
        sampler = CurriculumSampler(order, order.batch_size, accelerator.process_index, ranks)
    else:
        more = {"cursor": options.get("cursor", 0), "drop_last": bool(options.get("drop_last"))}
        sampler = CurriculumSampler.for_accelerate(order, ranks, accumulation, **more)
    loader = DataLoader(Samples(len(order)), batch_sampler=sampler, num_workers=options.get("workers", 0))
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    steps: list[list[int]] = [[]]
    for _ in range(options.get("epochs", 1)):
        for batch in loader:
            with accelerator.accumulate(wrapped):
                accelerator.backward(wrapped(**batch)["loss"])
                optimizer.step()
                optimizer.zero_grad()
            steps[-1] += model.seen.pop()
            if accelerator.sync_gradients:
                steps.append([])
    return steps[:-1]


def with_trainer(order: Planned, options: dict[str, Any]) -> list[list[int]]:
    import transformers

    accumulation, folder = options["accumulation"], options["folder"]

    class Curriculum(transformers.Trainer):
        def get_train_dataloader(self) -> DataLoader:
            sampler = CurriculumSampler.for_accelerate(
                order, self.accelerator.num_processes, accumulation, drop_last=bool(options.get("drop_last"))
            )
            loader = DataLoader(
                self.train_dataset, batch_sampler=sampler, num_workers=options.get("workers", 0),
                collate_fn=self.data_collator,
            )  # fmt: skip
            return self.accelerator.prepare(loader)

    class Steps(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.steps: list[list[int]] = []

        def on_step_end(self, args, state, control, model, **kwargs) -> None:
            self.steps.append([number for part in model.seen for number in part])
            model.seen.clear()
            control.should_training_stop |= state.global_step == options.get("stop")

    arguments = transformers.TrainingArguments(
        output_dir=folder, use_cpu=True, report_to=[], disable_tqdm=True, logging_strategy="no",
        num_train_epochs=options.get("epochs", 1), gradient_accumulation_steps=accumulation, save_steps=1,
        per_device_train_batch_size=order.batch_size // accumulation // int(os.environ.get("WORLD_SIZE", 1)),
        save_strategy="steps" if "stop" in options else "no", remove_unused_columns=False,
    )  # fmt: skip
    steps = Steps()
    trainer = Curriculum(
        Model(), arguments, train_dataset=Samples(len(order)), data_collator=transformers.default_data_collator,
        callbacks=[steps],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=any(name.startswith("checkpoint-") for name in os.listdir(folder)))
    return steps.steps


def with_lightning(order: Planned, options: dict[str, Any]) -> list[list[int]]:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    sampler = CurriculumSampler(order, order.batch_size, rank, ranks, drop_last=bool(options.get("drop_last")))
    loader = DataLoader(Samples(len(order)), batch_sampler=sampler, num_workers=options.get("workers", 0))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=options.get("epochs", 1), max_steps=options.get("steps", -1),
        use_distributed_sampler=False, **quiet,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, loader)
    return module.model.seen


def rank(loop: str, scenarios: list[dict[str, Any]], output: str) -> None:
    """Run as one of the ranks of a fork server; write the list to OUTPUT/RANK.json."""
    place = os.environ["RANK"]
    if os.environ["WORLD_SIZE"] == "1":  # one process as users start it
        for name in PLACE:
            os.environ.pop(name, None)
    else:
        os.environ["LOCAL_WORLD_SIZE"] = os.environ["WORLD_SIZE"]
    os.environ["ACCELERATE_USE_CPU"] = "true"
    found = results(loop, scenarios)
    with open(os.path.join(output, f"{place}.json"), "w") as file:
        json.dump(found, file)


def results(loop: str, scenarios: list[dict[str, Any]]) -> list[object]:
    """Return the ids of every step of each scenario, or the message of the ValueError that ended it."""
    found: list[object] = []
    for options in scenarios:
        order = np.random.default_rng(0).permutation(options["samples"]).view(Planned)
        order.batch_size = options["batch_size"]
        try:
            found.append(LOOPS[loop](order, options))
        except ValueError as error:
            found.append(str(error))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return found


LOOPS = {"accelerate": with_accelerate, "trainer": with_trainer, "lightning": with_lightning}

if __name__ == "__main__":
    print("\n" + json.dumps(results(sys.argv[1], json.loads(sys.argv[2]))), flush=True)
