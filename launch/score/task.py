"""A worker of `pdpc score` under any executor: open the job, load the models, score chunks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum.scores.job import ScoringJob, ScoringWorker
from curriculum.scores.scorer import ChunkScorer, Reference, ScoringOptions
from curriculum.tokens.tokens import Tokens
from curriculum.work.cpus import usable_cpus
from launch.score.references import check_model, identity_of, load_reference
from launch.score.settings import ScoreSettings
from train.faults import fault
from train.memory.heap import keep_freed_memory

if TYPE_CHECKING:
    import torch

    from models.losses.loss_model import LossModel

ROOF_ROWS = {"cpu": 256, "cuda": 8192}
ROOF_TURNS = 3


class ScoreTask:
    """`pdpc score` as a task for the executors. `identities`: fingerprints of the models, if known."""

    verb, on_gpu, memory_hint = "score", True, "processes or batch_size"

    def __init__(self, settings: ScoreSettings, identities: Mapping[str, str] | None = None) -> None:
        self._settings, self._identities = settings, identities
        self.output, self.processes, self.threads = Path(settings.output), settings.processes, settings.threads

    def open(self) -> ScoringJob:
        """Open TOKENS and check the models' folders."""
        return open_job(self._settings, fault, self._identities)

    def load(self, job: ScoringJob, number: int) -> ScoringWorker:
        """Load each model once, on the worker's device."""
        device = device_of(number)
        scorer = ChunkScorer(job.tokens, load_references(self._settings, job, device), job.options)
        if device.type == "cpu":
            keep_freed_memory()
        return ScoringWorker(job, scorer, roof_of(scorer))

    def computing(self) -> AbstractContextManager[None]:
        """Limit PyTorch to the task's CPU threads inside the block."""
        return threads(self.threads)

    def usual_processes(self) -> int:
        """Return one process per GPU, or per core without GPUs."""
        import torch

        return torch.cuda.device_count() or usable_cpus()


def open_job(
    settings: ScoreSettings,
    mark: Callable[[str], None] = lambda point: None,
    identities: Mapping[str, str] | None = None,
) -> ScoringJob:
    """Open TOKENS and check the models' folders. Raises ValueError for unusable inputs before any weights are read.

    `identities`: fingerprints of the models, if known; computing them reads the weights.
    """
    tokens = {name: Tokens.open(settings.tokens, name) for name in settings.slices}
    first = next(iter(tokens.values()))
    for name, folder in settings.models.items():
        check_model(name, Path(folder), first, name in settings.same_tokens)
    identities = identities or {name: identity_of(Path(folder)) for name, folder in settings.models.items()}
    options = ScoringOptions(
        settings.batch_size,
        settings.precision,
        settings.documents,
        settings.first_tokens,
        settings.fraction,
        settings.compile,
        settings.threads,
    )
    return ScoringJob(Path(settings.output), tokens, identities, options, chunk_tokens=settings.chunk_tokens, mark=mark)


def load_references(settings: ScoreSettings, job: ScoringJob, device: torch.device) -> dict[str, Reference]:
    """Load the models by name."""
    first = next(iter(job.tokens.values()))
    return {
        name: load_reference(
            Path(folder),
            job.identities[name],
            job.tokens,
            settings.precision,
            device=device,
            on_text=check_model(name, Path(folder), first, name in settings.same_tokens),
            compiled=settings.compile,
        )
        for name, folder in settings.models.items()
    }


def device_of(worker: int) -> torch.device:
    """Return the worker's GPU, assigned round-robin, or the CPU."""
    import torch

    count = torch.cuda.device_count()
    return torch.device("cuda", worker % count) if count else torch.device("cpu")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Limit PyTorch to `number` CPU threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def roof_of(scorer: ChunkScorer) -> float:
    """Return the forward roof of this process: tokens/s if the models consisted only of their matrix products.

    Times one product per weight shape with ROOF_ROWS rows, about 0.1 s in all; attention, norms and the loss are not
    included.
    """
    import torch

    seconds = 0.0
    with torch.inference_mode():
        for reference in scorer.references.values():
            counts: dict[torch.Size, int] = {}
            example: dict[torch.Size, torch.Tensor] = {}
            for weight in product_weights(reference.model):
                counts[weight.shape] = counts.get(weight.shape, 0) + 1
                example[weight.shape] = weight
            seconds += sum(count * _product_s(example[shape]) for shape, count in counts.items())
    return 1 / seconds if seconds else 0.0


def product_weights(model: LossModel) -> list[torch.Tensor]:
    """Return the weights that a token is multiplied with: all matrices but an embedding that is not the head too."""
    import torch

    inner: Any = getattr(model, "model", model)
    embeddings = [module.weight for module in inner.modules() if isinstance(module, torch.nn.Embedding)]
    heads = {id(module.weight) for module in inner.modules() if isinstance(module, torch.nn.Linear)}
    skipped = {id(weight) for weight in embeddings} - heads
    return [weight for weight in inner.parameters() if weight.dim() == 2 and id(weight) not in skipped]


def _product_s(weight: torch.Tensor) -> float:
    """Return the seconds per token of a product with one weight, the best of ROOF_TURNS."""
    import torch

    rows = ROOF_ROWS.get(weight.device.type, ROOF_ROWS["cpu"])
    x = torch.ones(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
    best = float("inf")
    for _ in range(ROOF_TURNS):
        started = time.perf_counter()
        torch.mm(x, weight.t())
        if weight.is_cuda:
            torch.cuda.synchronize(weight.device)
        best = min(best, time.perf_counter() - started)
    return best / rows
