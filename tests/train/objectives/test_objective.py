"""Objectives other than next-token prediction train through the same loop and engine."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from curriculum.pairs.pairs import Pairs
from curriculum.tokens.tokens import Tokens
from models import DecoderConfig
from models.decoder import build
from tests.torture.forks import train as rank_of
from tests.torture.runs import BATCH, PATIENCE_S, Material
from tests.train.objectives import toys
from train.batches import batches
from train.config.compose import compose
from train.distributed.world import World
from train.engine import Engine
from train.inputs import open_inputs
from train.objectives import objective_of
from train.objectives.language_model import LanguageModel
from train.records.run_json import read_run
from train.settings import OBJECTIVES, TrainSettings
from train.tracking import read_metrics

TOYS = {name: f"tests.train.objectives.toys:{name.title()}" for name in ("weighted", "unlearned", "simpo")}
ONE_RANK = World(0, 1, 0, 1, torch.device("cpu"))
CONFIG = DecoderConfig(vocab_size=64, layers=2, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=16, end_of_text=0)
DRAWN = np.random.default_rng(0).integers(1, 64, (3, 17))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return Material.make(tmp_path_factory.mktemp("objectives"))


def with_toys(words, output):
    """Run one rank of a run with the toy objectives registered."""
    OBJECTIVES.update(TOYS)
    return rank_of(words, output)


def trained(forks, material, folder, *words, ranks=2, fault=None):
    """Train; return the exit codes, the training records and the log."""
    arguments = {"words": [*material.words, "log_every=1", *words], "output": str(folder)}
    environment = {"PDPC_FAULT": fault} if fault else {}
    started = forks.start(f"{__name__}:with_toys", arguments, ranks, folder.with_suffix(".log"), environment)
    codes = started.wait(PATIENCE_S)
    started.kill()
    records = [record for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == "train"]
    return codes, records, started.told()


def by_hand(material, loss_of, steps):
    """Return the mean loss per step in plain PyTorch: one process, no micro-batches, no clipping."""
    settings = compose("train", TrainSettings, [*material.words, "output=none"])
    inputs = open_inputs(settings)
    decoder, order = build(inputs.decoder, settings.seed), inputs.order
    adamw = torch.optim.AdamW(decoder.parameters(), betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    found = []
    for step in range(steps):
        ids = order[step * BATCH : (step + 1) * BATCH].tolist()
        loss = loss_of(decoder, inputs.tokens, ids)
        adamw.param_groups[0]["lr"] = inputs.schedule(step)
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        found.append(loss.item())
    return found


PLAIN = ("precision=fp32", "optimizer.weight_decay=0", "optimizer.clip_norm=0", f"micro_batch_size={BATCH // 4}")


def test_importance_weights_train_like_a_weighted_mean_of_cross_entropies(forks, material, tmp_path):
    codes, records, output = trained(forks, material, tmp_path / "run", "objective=weighted", *PLAIN)
    assert codes == [0, 0], output

    def weighted_mean(decoder, tokens, ids):
        rows = torch.from_numpy(tokens.sample(ids))
        labels = rows[:, 1:]
        logits = decoder.logits(rows[:, :-1])
        losses = torch.nn.functional.cross_entropy(logits.mT, labels, ignore_index=-100, reduction="none")
        weights = torch.tensor([toys.weight_of(sample) for sample in ids])
        return (weights[:, None] * losses).sum() / (labels != -100).sum()

    expected = by_hand(material, weighted_mean, 4)
    assert [record["train/loss"] for record in records[:4]] == pytest.approx(expected, rel=1e-4)
    assert read_run(tmp_path / "run")["identity"]["objective"] == "weighted"


def test_a_preference_loss_in_two_passes_trains_like_one_pass_with_full_logits(forks, material, tmp_path):
    codes, records, output = trained(forks, material, tmp_path / "run", "objective=simpo", *PLAIN)
    assert codes == [0, 0], output

    def simpo(decoder, tokens, ids):
        objective = toys.SimpoByAutograd(tokens)
        return objective.losses(decoder, objective.micro_batch(ids, len(ids))) / len(ids)

    losses = [record["train/loss"] for record in records]
    assert losses[:4] == pytest.approx(by_hand(material, simpo, 4), rel=1e-4)
    assert losses[-1] < losses[0]
    assert "train/ppl" not in records[0]
    assert records[0]["tokens"] > BATCH  # labels, not pairs


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_passes_have_the_gradient_of_one_pass_at_every_zero_stage(world, stage):
    words = ["output=o", "arm=a", "data.tokens=t", "data.order=o", "micro_batch_size=2", "precision=fp32"]
    settings = compose("train", TrainSettings, [*words, f"zero.stage={stage}"])
    tokens = SimpleNamespace(seq_len=16, end_of_text=0, sample=lambda ids: DRAWN[ids])
    engine = Engine(build(CONFIG, 0), settings, 4, world)
    for step in range(2):  # ZeRO 3 records the module order in the first
        engine.set_learning_rate(0.0)
        for part in ([0, 1], [2]):
            losses = toys.Simpo(tokens).losses(engine, toys.Simpo(tokens).micro_batch(part, 2))
            engine.backward(losses.total / 3)
        norm = engine.gradient_norm().item()
        engine.step()
        assert norm > 0, step
    engine.destroy()
    decoder = build(CONFIG, 0)
    by_autograd = toys.SimpoByAutograd(tokens)
    (by_autograd.losses(decoder, by_autograd.micro_batch([0, 1, 2], 4)) / 3).backward()
    exact = torch.stack([parameter.grad.norm() for parameter in decoder.parameters()]).norm().item()
    assert norm == pytest.approx(exact, rel=1e-4)


def test_a_reached_objective_ends_the_run_before_its_order(forks, material, tmp_path):
    words = ("objective=unlearned", "checkpoints.save_every=null", "optimizer.lr=1e-2", "schedule=constant")
    folder = tmp_path / "run"
    codes, records, output = trained(forks, material, folder, *words, fault="loop.before_evaluation:kill")
    assert codes == [-9, -9], output
    losses = [record["train/loss"] for record in records]
    assert losses == sorted(losses), "losses must rise"
    assert losses[-1] > toys.ENOUGH > losses[-2]
    assert records[-1]["unlearn/loss"] == pytest.approx(losses[-1])
    assert records[-1]["unlearn/enough"] == toys.ENOUGH
    steps = records[-1]["step"]
    assert steps < material.order.stage_ends[-1]
    codes, records, output = trained(
        forks, material, folder, *words
    )  # only the missed evaluation runs, no step is added
    assert codes == [0, 0], output
    assert records[-1]["step"] == steps
    run = read_run(folder)
    assert (run["status"], run["cursor"]) == ("finished", steps * BATCH)
    stages = [record["step"] for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == "stage"]
    assert stages[-1] == steps


def test_language_model_divides_by_labels_and_pads_with_rows_of_zero_loss(tokens_folder):
    tokens = Tokens.open(tokens_folder, "train")
    objective = LanguageModel(tokens)
    assert objective.count(8, 250) == 250
    micro = objective.micro_batch([3, 5], 4)
    assert np.array_equal(micro.ids_BS[:2], tokens.sample([3, 5]))
    assert (micro.ids_BS[2:] == -100).all()
    assert objective.micro_batch([], 4).ids_BS.shape == (4, tokens.seq_len + 1)
    assert not objective.reached(None)
    assert objective.summary(0.0) == {"train/loss": 0.0, "train/ppl": 1.0}


def test_an_unknown_objective_is_rejected_and_every_registered_one_loads(monkeypatch):
    words = ["output=o", "arm=a", "data.tokens=t", "data.order=o"]
    with pytest.raises(ValueError, match=r"objective='ppo' is unknown: use one of \['language_model', 'dpo', "):
        compose("train", TrainSettings, [*words, "objective=ppo"])
    for name in OBJECTIVES:
        pairs = object.__new__(Pairs)  # opened nowhere: `of` only looks at its type
        objective = objective_of(compose("train", TrainSettings, [*words, f"objective={name}"]), pairs)
        assert objective.name == name


def test_batches_are_divided_by_what_the_objective_counts(material):
    inputs = open_inputs(compose("train", TrainSettings, [*material.words, "output=none"]))
    batch = next(batches(inputs.order, inputs.tokens, ONE_RANK, BATCH, 0, toys.Simpo(inputs.tokens)))
    assert batch.global_count == BATCH
    assert batch.global_tokens == inputs.tokens.real_tokens(inputs.order[:BATCH]).sum()
