"""ZeRO 3 over two ranks: weights gathered at once or block by block for an evaluation, and compiled blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models import DecoderConfig, block_runner
from models.decoder import build
from tests.composed import train_settings
from tests.torture.runs import PATIENCE_S
from train.distributed.collectives import Collectives, RankFailed
from train.distributed.world import World
from train.engine import Engine, WeightsDoNotFit, gathered
from train.engine.communication import start

CONFIG = DecoderConfig(vocab_size=61, layers=3, width=12, heads=2, kv_heads=1, ffn=20, max_seq_len=16, end_of_text=0)
PLACES = {"embedding": 1, "layers.1.ffn.down": 2, "head": 1}
"""Modules, and the call of each that fails."""


def make(world: World, *words: str, config: DecoderConfig = CONFIG) -> Engine:
    words = ("output=o", "arm=a", "data.tokens=t", "data.order=o", "zero.stage=3", "micro_batch_size=2", *words)
    settings = train_settings(*words)
    return Engine(build(config, 0, settings.execution), settings, 8, world)


def batch(seed: int, rows: int = 8) -> torch.Tensor:
    return torch.randint(0, 61, (rows, 17), generator=torch.Generator().manual_seed(seed))


def steps(engine: Engine, first: int, last: int) -> list[float]:
    """Train; return the loss of every step."""
    losses = []
    for step in range(first, last):
        engine.set_learning_rate(1e-2)
        nats = torch.zeros((), dtype=torch.float64)
        for part in batch(step).chunk(engine.world.size)[engine.world.rank].chunk(engine.micro_batches):
            found = engine(part)
            engine.backward(found.total / (8 * 16))
            nats += found.losses_BT.double().sum()
        engine.step()
        losses.append(float(engine.world.all_sum(nats)))
    return losses


def evaluated(engine: Engine, *, at_once: bool) -> list[float]:
    """Return the losses of this rank's samples, in batches that differ in length between the ranks."""
    rank, losses = engine.world.rank, []
    with engine.whole_weights(at_once=at_once), torch.inference_mode():
        for seed in range(3):
            losses += engine.decoder.losses(batch(seed, 1 + rank)[:, : 17 - 5 * rank]).flatten().tolist()
        losses += engine.decoder.logits(batch(4, 1)[:, :9])[0, -1].tolist()
    return losses


def evaluation(world: World, precision: str, *, tied: bool) -> dict[str, object]:
    """Evaluate an engine in both ways, train on, and compare with an engine that was not evaluated."""
    config = DecoderConfig(**{**CONFIG.__dict__, "tie_embeddings": tied})
    engine, other = (make(world, f"precision={precision}", config=config) for _ in range(2))
    before = steps(engine, 0, 2) == steps(other, 0, 2)
    values = [evaluated(engine, at_once=at_once) for at_once in (True, False, True)]
    after = steps(engine, 2, 4) == steps(other, 2, 4)
    for one in (engine, other):
        one.destroy()
    return {"same": values[0] == values[1] == values[2], "finite": all(map(abs, values[0])), "back": before and after}


def failure(engine: Engine, place: str, nth: int) -> str:
    """Let the last rank run out of memory in a module at its N-th call, in an evaluation block by block."""
    world, calls = engine.world, []

    def strike(*_: object) -> None:
        calls.append(place)
        if world.rank == world.size - 1 and len(calls) == nth:
            raise torch.OutOfMemoryError("no memory on this rank")

    def work() -> None:
        for seed in range(3):
            engine.decoder.losses(batch(seed, 2))
            if place == "head":  # as the loss, after the last gather
                strike()

    told = ""
    with engine.whole_weights(at_once=False):
        if place != "head":
            engine.decoder.get_submodule(place).register_forward_hook(strike)
        try:
            Collectives(world).run("evaluation", work)
        except RankFailed as error:
            told = str(error)
    return told


def no_room(world: World, patch: pytest.MonkeyPatch) -> list[str]:
    """Return what an evaluation does where only one rank lacks memory: for all weights, then for one block."""
    engine, found = make(world, "precision=fp32"), []
    for most in (15_000, 5_000):
        patch.setattr(gathered, "can_allocate", lambda size, *_, most=most: world.rank == 0 or size <= most)
        try:
            with engine.whole_weights(spare_bytes=4):
                found.append(type(engine.decoder).__name__)
        except WeightsDoNotFit as error:
            found.append(str(error))
    return found


def compiled(world: World, patch: pytest.MonkeyPatch) -> dict[str, object]:
    """Train eagerly and compiled (all but the code generator); return both losses and the number of graphs."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    parts = {True: block_runner.parts(compiled=True, backend=backend), False: block_runner.parts(compiled=False)}
    patch.setattr(block_runner, "parts", lambda *, compiled: parts[compiled])
    found = []
    for compile_ in ("false", "true"):
        words = ("precision=fp32", "execution.checkpointing=selective", f"execution.compile={compile_}")
        engine = make(world, *words)
        losses = steps(engine, 0, 3)
        values = [evaluated(engine, at_once=at_once) for at_once in (True, False)]
        found.append([*losses, *steps(engine, 3, 5), *values[0], *values[1]])
        engine.destroy()
    return {"eager": found[0], "compiled": found[1], "graphs": len(graphs)}


def rank_of_two(folder: str) -> None:
    """Run every case as one rank of two, and write the results to a file."""
    world = start(threads=1)
    found: dict[str, object] = {}
    for precision, tied in (("fp32", False), ("bf16", True)):
        found[f"evaluation {precision}"] = evaluation(world, precision, tied=tied)
    engine, other = make(world, "precision=fp32"), make(world, "precision=fp32")
    for place, nth in PLACES.items():
        found[f"failure {place}"] = failure(engine, place, nth)
    found["trains on"] = steps(engine, 0, 2) == steps(other, 0, 2)
    with pytest.MonkeyPatch.context() as patch:
        found["no room"] = no_room(world, patch)
    with pytest.MonkeyPatch.context() as patch:
        found["compiled"] = compiled(world, patch)
    Path(folder, f"{world.rank}.json").write_text(json.dumps(found))
    world.barrier()


@pytest.fixture(scope="module")
def found(forks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero3")
    ranks = forks.start(f"{__name__}:rank_of_two", {"folder": str(folder)}, 2, folder / "log")
    assert ranks.wait(4 * PATIENCE_S) == [0, 0], ranks.told()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_block_by_block_is_at_once_to_the_bit_and_training_continues_as_if_nothing_happened(found, precision):
    for rank in found:
        assert rank[f"evaluation {precision}"] == {"same": True, "finite": True, "back": True}


@pytest.mark.parametrize("place", PLACES)
def test_a_rank_that_fails_between_gathers_fails_on_all_and_none_hangs(found, place):
    for rank in found:
        assert rank[f"failure {place}"] == "OutOfMemoryError: no memory on this rank"
        assert rank["trains on"]


def test_the_rank_with_the_least_memory_decides_for_all(found):
    for rank in found:
        by_block, nothing = rank["no room"]
        assert by_block == "BlockwiseDecoder"
        assert nothing.startswith("out of memory for the weights of an evaluation (those of one block need 0.0")


def test_compiled_blocks_train_and_evaluate_as_eager_ones(found):
    for rank in found:
        case = rank["compiled"]
        assert case["compiled"] == pytest.approx(case["eager"], rel=1e-5, abs=1e-5)
        assert case["graphs"] >= 2
