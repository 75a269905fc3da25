"""DPO, SimPO and LOGO through the loop: as plain PyTorch, killed and resumed, on other ranks, with bad input."""

import math

import numpy as np
import pytest
import torch

from models.attention import Documents
from models.config import Lora
from models.decoder import build
from models.huggingface import export, load
from models.lora import adapted, merged, read_adapter
from tests.torture.runs import PATIENCE_S, Ending, difference
from tests.train.objectives.pairs_material import write_material
from train import checkpoint
from train.config.compose import compose
from train.engine import Engine
from train.evaluation.answers import answers_path, read_answers
from train.evaluation.pairs import answered
from train.inputs import open_inputs
from train.objectives import objective_of
from train.settings import TrainSettings
from train.tracking import read_metrics


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return write_material(tmp_path_factory.mktemp("pairs"))


def trained(forks, material, folder, words, ranks=2, fault=None):
    """Train; return exit codes and the log."""
    started = material.start(forks, folder, ranks, words, fault)
    codes = started.wait(PATIENCE_S)
    started.kill()
    return codes, started.told()


def by_hand(material, words, steps):
    """Return SimPO's mean loss per step in plain PyTorch: one process, whole sequences, full logits."""
    settings = compose("train", TrainSettings, [*material.words, *words, "output=none"])
    inputs = open_inputs(settings)
    decoder, order = build(inputs.decoder, settings.seed), inputs.order
    adamw = torch.optim.AdamW(decoder.parameters(), betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    found = []
    for step in range(steps):
        ids = order[step * order.batch_size : (step + 1) * order.batch_size]
        losses = []
        for row in answered(inputs.tokens, ids):
            chosen, *rejected = [_mean_logp(decoder, row.prompt, answer) for answer in row.answers]
            parts = [-torch.log(torch.sigmoid(2.5 * (chosen - part) - 1.375)) for part in rejected]
            losses.append(sum(parts) / len(parts))
        loss = sum(losses) / len(losses)
        adamw.param_groups[0]["lr"] = inputs.schedule(step)
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        found.append(loss.item())
    return found


def _mean_logp(decoder, prompt, answer):
    ids = torch.from_numpy(np.concatenate([prompt, answer]))
    hidden_BTW = decoder.hidden(ids[None, :-1], Documents((len(ids) - 1,)))  # end-of-text does not end a sequence
    logp_TV = decoder.head(hidden_BTW)[0].log_softmax(dim=-1)
    return logp_TV.gather(1, ids[1:, None])[len(prompt) - 1 :, 0].mean()


PLAIN = ("optimizer.weight_decay=0", "optimizer.clip_norm=0")


def test_simpo_trains_like_plain_pytorch_and_is_the_same_killed_and_resumed(forks, material, tmp_path):
    words = ("objective=simpo", "log_every=2", *PLAIN)
    codes, told = trained(forks, material, tmp_path / "whole", words)
    assert codes == [0, 0], told
    records = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    losses = [record["train/loss"] for record in records if record["kind"] == "train"]
    expected = by_hand(material, words, 4)
    assert losses[:2] == pytest.approx([np.mean(expected[:2]), np.mean(expected[2:4])], rel=1e-4)
    first = records[0]
    assert first["rewards/margins"] == pytest.approx(first["rewards/chosen"] - first["rewards/rejected"])
    assert first["logps/chosen"] == pytest.approx(first["rewards/chosen"] / 2.5)

    codes, told = trained(forks, material, tmp_path / "run", words, fault="checkpoint.after_rename:kill")
    assert codes[0] == -9, told  # the other rank may find its connection lost first
    assert material.finish(forks, tmp_path / "run", 2, words) is None
    assert difference(tmp_path / "run", material, Ending.of(tmp_path / "whole")) is None

    stage = [record for record in records if record["kind"] == "stage"][-1]
    items = read_answers(answers_path(tmp_path / "whole", stage["step"]))
    for name in ("val/loss", "val/rewards/accuracies", "val/rewards/margins"):
        assert items[name].mean() == pytest.approx(stage[name])
        assert len(items[name].ids) == 8  # heldout.max_samples


def test_dpo_starts_at_the_logarithm_of_two_and_keeps_its_reference(forks, material, tmp_path):
    words, folder = ("objective=dpo",), tmp_path / "run"
    codes, told = trained(forks, material, folder, words, fault="checkpoint.after_rename:kill")
    assert codes[0] == -9, told  # the other rank may find its connection lost first
    stored = (folder / "reference" / "train.npy").read_bytes()
    records = read_metrics(folder / "metrics.jsonl")
    assert records[0]["train/loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert records[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    codes, told = trained(forks, material, folder, words, ranks=1)
    assert codes == [0], told
    assert (folder / "reference" / "train.npy").read_bytes() == stored
    assert read_metrics(folder / "metrics.jsonl")[-1]["val/rewards/accuracies"] >= 0


BAD = [
    (("objective=language_model",), r"are PAIRS, which objective=language_model cannot train on"),
    (("objective=simpo", "model.z_loss=1e-4"), r"model.z_loss=0.0001 has no effect with objective=simpo"),
    (
        ("objective=dpo", "pair_loss.gamma=1"),
        r"pair_loss.gamma=1.0 has no effect with objective=dpo: use objective=simpo",
    ),
    (("objective=simpo", "pair_loss.beta=0"), r"pair_loss.beta=0.0 must be above 0"),
    (("objective=simpo", "data.scores=x"), r"data.scores=x has no effect with objective=simpo"),
    (("objective=simpo", "lora.rank=4"), r"lora.rank=4 adapts weights that exist: add init=FOLDER"),
    (("objective=simpo", "lora.targets=[x]"), r"lora.targets=\['x'\] must be some of q, k"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_what_does_not_fit_is_rejected_before_work_starts(material, words, message):
    def opened():
        settings = compose("train", TrainSettings, [*material.words, *words, "output=none"])
        return objective_of(settings, open_inputs(settings).tokens)

    with pytest.raises(ValueError, match=message):
        opened()


def test_tokens_are_no_pairs(material):
    text = str(material.order.folder.parent / "text")
    words = [word for word in material.words if not word.startswith("data.")]
    words += [f"data.tokens={text}/tokens", f"data.order={text}/order", "objective=simpo", "output=none"]
    settings = compose("train", TrainSettings, words)
    with pytest.raises(ValueError, match=r"objective=simpo compares answers, but data.tokens=.* are TOKENS"):
        objective_of(settings, open_inputs(settings).tokens)


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "fp32")])
def test_adapters_have_the_gradient_of_autograd_and_nothing_else_has_state(material, world, stage, precision):
    words = [*material.words, "objective=simpo", f"zero.stage={stage}", f"precision={precision}", "output=none"]
    settings = compose("train", TrainSettings, words)
    inputs = open_inputs(settings)
    objective = objective_of(settings, inputs.tokens)

    def model():
        decoder = adapted(build(inputs.decoder, 0), Lora(2, 4.0, ("q", "o", "down")), seed=1)
        for name, parameter in decoder.named_parameters():
            if name.endswith("lora_B"):
                torch.nn.init.constant_(parameter, 0.05)
        return decoder

    micro = objective.micro_batch([0, 1, 2], 3)
    engine = Engine(model(), settings, 3, world)
    engine.set_learning_rate(0.0)
    engine.backward(objective.losses(engine, micro).total / 3)
    norm = engine.gradient_norm().item()
    engine.step()
    names = {fragment.name.rpartition(".")[2] for fragment in engine.fragments()}
    engine.destroy()
    decoder = model()

    def plain(*arguments, **more):
        return decoder(*arguments, **more)

    plain.world = world
    (objective.losses(plain, micro).total / 3).backward()
    exact = torch.stack([p.grad.norm() for p in decoder.parameters() if p.requires_grad]).norm().item()
    assert norm == pytest.approx(exact, rel=1e-4 if precision == "fp32" else 0.05)
    assert names == {"lora_A", "lora_B"}


def test_a_run_with_adapters_resumes_on_other_ranks_and_exports_them_alone_and_merged(forks, material, tmp_path):
    settings = compose("train", TrainSettings, [*material.words, "objective=simpo", "output=none"])
    inputs = open_inputs(settings)
    init, tokenizer = tmp_path / "init", inputs.tokens.tokenizer_folder
    base = build(inputs.decoder, 5).state_dict()
    export(init, inputs.decoder, base, dtype=torch.float32, tokenizer_folder=tokenizer, card=None)
    words = ("objective=simpo", f"init={init}", "lora.rank=2", "lora.targets=[q,v,down]", "zero.stage=3")
    codes, told = trained(forks, material, tmp_path / "run", words, fault="checkpoint.after_rename:kill")
    assert codes[0] == -9, told  # the other rank may find its connection lost first
    assert material.finish(forks, tmp_path / "run", 1, [*words[:-1], "zero.stage=1"]) is None
    run = tmp_path / "run"
    _, lora, _ = checkpoint.read_trained(checkpoint.newest(run / "checkpoints"))
    found, adapter = read_adapter(run / "adapter", inputs.decoder)
    assert found == lora == Lora(2, 16.0, ("q", "v", "down"))
    assert any(values.abs().max() > 0 for name, values in adapter.items() if name.endswith("lora_B"))
    whole = load(run / "export", torch.float32).state_dict()
    for name, values in merged(base, adapter, lora).items():
        torch.testing.assert_close(whole[name], values)
    records = [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "train"]
    assert [record["step"] for record in records] == list(range(1, len(material.order) // 12 + 1))
