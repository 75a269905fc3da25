"""The running average follows the weights, survives checkpoints, and can be exported and evaluated."""

import json
from types import SimpleNamespace

import pytest
import torch

from curriculum.artifact.files import ArtifactError
from launch.evaluate.settings import EvaluateSettings
from launch.export import ExportSettings
from models import DecoderConfig
from models.decoder import build
from tests.composed import train_settings
from train import checkpoint
from train.engine import Engine
from train.export import weights as averaging
from train.export.choice import WEIGHTS, check_choice
from train.export.weights import choose_weights
from train.hooks.averages import RunningAverage, decay_of
from train.records.run_json import WRITTEN
from train.settings import AveragingSettings

CONFIG = DecoderConfig(vocab_size=64, layers=2, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=16, end_of_text=0)
WORDS = ["output=o", "arm=a", "data.tokens=t", "data.order=o", "micro_batch_size=4"]
AVERAGED = ["averaging.decay=0.8", "averaging.every=2"]


def make(world, *words, seed=0):
    settings = train_settings(*WORDS, *words)
    engine = Engine(build(CONFIG, seed), settings, 4, world)
    return SimpleNamespace(engine=engine, progress=SimpleNamespace(step=0)), RunningAverage(settings.averaging)


def train(loop, hook, steps):
    """Take steps; return the weights after each of them."""
    seen = []
    for _ in range(steps):
        ids = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(loop.progress.step))
        loop.engine.set_learning_rate(1e-2)
        loop.engine.backward(loop.engine(ids).total / 64)
        loop.engine.step()
        loop.progress.step += 1
        hook.post_step(loop, None)
        seen.append(vectors(loop.engine, "param"))
    return seen


def vectors(engine, kind):
    return {part.name: part.tensors[kind].clone() for part in engine.fragments()}


def save(run, loop, world, **hooks):
    step = loop.progress.step
    read = {"cursor": step * 4, "consumed_hash": f"{step:016x}", "tokens": step}
    places = {"config": {}, "inputs": {}, "hooks": hooks}
    return checkpoint.save(run / "checkpoints", loop.engine, world, step=step, **read, **places)


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(dict.fromkeys(WRITTEN, "x")))
    return tmp_path


@pytest.mark.parametrize("words", [["precision=fp32", "zero.stage=1"], ["precision=bf16", "zero.stage=3"]])
def test_the_average_follows_the_float32_weights(world, words):
    loop, hook = make(world, *AVERAGED, *words)
    hook.pre_train(loop)
    expected = {name: tensor.double() for name, tensor in vectors(loop.engine, "param").items()}
    seen = train(loop, hook, 9)
    for update, weights in enumerate(seen[1::2]):
        decay = decay_of(AveragingSettings(0.8, 2), update)
        expected = {name: decay * expected[name] + (1 - decay) * weights[name].double() for name in expected}
    for name, average in vectors(loop.engine, "ema").items():
        torch.testing.assert_close(average.double(), expected[name], rtol=1e-5, atol=1e-7)


def test_the_first_updates_forget_the_start():
    settings = AveragingSettings(decay=0.999)
    assert [decay_of(settings, n) for n in (0, 1)] == [0.1, 2 / 11]
    assert decay_of(settings, 10**6) == 0.999


def test_averaging_changes_no_weight(world):
    plain, off = make(world, "precision=fp32")
    kept, hook = make(world, "precision=fp32", *AVERAGED)
    hook.pre_train(kept)
    off.post_step = lambda *_: None
    theirs, ours = train(plain, off, 4)[-1], train(kept, hook, 4)[-1]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert "ema" not in next(plain.engine.fragments()).tensors


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_checkpoint_brings_the_average_to_any_stage(world, run_folder, stage):
    loop, hook = make(world, *AVERAGED, "precision=fp32", "zero.stage=1")
    hook.pre_train(loop)
    train(loop, hook, 5)
    folder = save(run_folder, loop, world, averages=hook.state())
    other, resumed = make(world, *AVERAGED, "precision=fp32", f"zero.stage={stage}", seed=3)
    facts = checkpoint.load(folder, other.engine).facts
    resumed.load_state(facts["hooks"]["averages"])
    resumed.pre_train(other)
    other.progress.step = 5
    whole = choose_weights(run_folder, "running").read()[1]
    for name, average in vectors(other.engine, "ema").items():
        torch.testing.assert_close(average, whole[name].flatten(), rtol=0, atol=0)
    train(loop, hook, 4)
    train(other, resumed, 4)
    for name, average in vectors(other.engine, "ema").items():  # another stage rounds its gradients differently
        torch.testing.assert_close(average, vectors(loop.engine, "ema")[name], rtol=1e-5, atol=1e-6)


def test_a_run_may_start_averaging_from_a_checkpoint_without_an_average(world, run_folder):
    plain, off = make(world, "precision=fp32")
    off.post_step = lambda *_: None
    train(plain, off, 2)
    folder = save(run_folder, plain, world)
    loop, hook = make(world, "precision=fp32", *AVERAGED, seed=4)
    checkpoint.load(folder, loop.engine)
    hook.pre_train(loop)
    for name, average in vectors(loop.engine, "ema").items():
        assert torch.equal(average, vectors(loop.engine, "param")[name])
    with pytest.raises(ArtifactError, match=r"has no running average: train the run with averaging\.decay above 0"):
        choose_weights(run_folder, "running")


def test_the_average_is_rolled_back_with_the_weights(world, run_folder):
    loop, hook = make(world, "precision=fp32", *AVERAGED)
    hook.pre_train(loop)
    train(loop, hook, 4)
    folder, then = save(run_folder, loop, world, averages=hook.state()), vectors(loop.engine, "ema")
    state = checkpoint.load(folder, loop.engine).facts["hooks"]["averages"]
    train(loop, hook, 4)
    checkpoint.load(folder, loop.engine)
    hook.post_restore(loop, state)
    assert hook.state() == state
    assert all(torch.equal(average, then[name]) for name, average in vectors(loop.engine, "ema").items())
    train(loop, hook, 4)
    hook.post_restore(loop, None)  # a checkpoint from before the average started
    assert hook.state() == {"updates": 0}
    weights = vectors(loop.engine, "param")
    assert all(torch.equal(average, weights[name]) for name, average in vectors(loop.engine, "ema").items())


def test_the_mean_of_the_last_checkpoints(world, run_folder, caplog):
    loop, hook = make(world, "precision=fp32")
    hook.post_step = lambda *_: None
    seen = []
    for _ in range(4):
        seen += train(loop, hook, 1)
        save(run_folder, loop, world)
    chosen = choose_weights(run_folder, average=3)
    assert chosen.how == "mean of the checkpoints of steps 2, 3, 4"
    assert chosen.name == "step_00000004_mean_of_3"
    config, state = chosen.read()
    assert config.width == 16
    for name, mean in state.items():
        expected = torch.stack([weights[name] for weights in seen[1:]]).double().mean(0).float()
        torch.testing.assert_close(mean.flatten(), expected, rtol=0, atol=0)
    assert choose_weights(run_folder).how == "trained, step 4"
    victim = checkpoint.folder_of(run_folder / "checkpoints", 3) / "rank_00000.safetensors"
    data = bytearray(victim.read_bytes())
    data[-9] ^= 1
    victim.write_bytes(data)
    assert [checkpoint.step_of(path) for path in choose_weights(run_folder, average=3).sources] == [4, 2, 1]
    assert str(victim) in caplog.text
    with pytest.raises(ArtifactError, match=r"average=4 needs more complete checkpoints than run .* has \(3\)"):
        choose_weights(run_folder, average=4)


@pytest.mark.parametrize("settings", [EvaluateSettings, ExportSettings])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "best"}, "weights='best' is unknown: use one of last, running"),
        ({"average": 0}, "average=0 must be at least 1 checkpoint"),
        ({"weights": "running", "average": 2}, "average=2 is a mean of trained weights"),
    ],
)
def test_invalid_choices_are_named(settings, changes, message):
    places = {"run": "r"} | ({"output": "o"} if settings is ExportSettings else {})
    with pytest.raises(ValueError, match=message):
        settings(**places, **changes)
    with pytest.raises(ValueError, match=message):
        check_choice(**{"weights": "last", "average": 1} | changes)


@pytest.mark.parametrize(("key", "value"), [("decay", 1.0), ("decay", -0.1), ("every", 0)])
def test_invalid_averages_are_named(key, value):
    with pytest.raises(ValueError, match=rf"averaging\.{key}={value}"):
        AveragingSettings(**{key: value})


def test_kinds_are_those_of_the_choices():
    assert set(averaging.KIND_OF) == set(WEIGHTS)


def test_an_export_without_an_output_is_that_of_the_end_of_the_run():
    assert ExportSettings(run="r").output is None
    for changed in ({"dtype": "bf16"}, {"weights": "running"}, {"average": 2}):
        with pytest.raises(ValueError, match="give output=FOLDER"):
            ExportSettings(run="r", **changed)


def test_a_checkpoint_of_a_run_with_another_tokenizer_is_named(tmp_path):
    facts = {"arm": "late", "fingerprints": {"tokenizer": "a"}}
    for found in ({}, {"tokenizer": "a"}):
        averaging.check_own(tmp_path, SimpleNamespace(inputs=found), facts)
    with pytest.raises(ArtifactError, match="is a checkpoint of another run: its tokenizer is not the one"):
        averaging.check_own(tmp_path, SimpleNamespace(inputs={"tokenizer": "b"}), facts)
