"""An engine in this process: it saves exactly its state, and damage is detected before anything is used."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import OtherVersion
from models import DecoderConfig
from models.decoder import build
from tests.composed import train_settings
from train import checkpoint
from train.config.compose import compose
from train.distributed.world import World
from train.engine import MOMENTS, Engine
from train.engine.communication import start
from train.settings import CheckpointSettings, TrainSettings

CONFIG = DecoderConfig(vocab_size=64, layers=2, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=16, end_of_text=0)


def make(world: World, precision: str, stage: int = 1, seed: int = 0) -> Engine:
    words = [
        "output=o",
        "arm=a",
        "data.tokens=t",
        "data.order=o",
        f"precision={precision}",
        f"zero.stage={stage}",
        "micro_batch_size=4",
    ]
    return Engine(build(CONFIG, seed), train_settings(*words), 8, world)


def steps(engine: Engine, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        engine.set_learning_rate(1e-2)
        for micro in range(engine.micro_batches):
            ids = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(step * 10 + micro))
            out = engine(ids)
            engine.backward(out.total / 128)
            engine.step()
            losses.append(out.total.item())
    return losses


def save(engine, world, folder, step):
    read = {"cursor": step * 8, "consumed_hash": f"{step:016x}"}
    return checkpoint.save(folder, engine, world, step=step, tokens=step, config={}, inputs={}, hooks={}, **read)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_resumed_engine_continues_bit_for_bit(world, tmp_path, precision, stage):
    straight = make(world, precision, stage)
    steps(straight, 0, 4)
    folder = save(straight, world, tmp_path / "c", 4)
    expected = steps(straight, 4, 9)
    resumed = make(world, precision, stage, seed=5)
    manifest = checkpoint.load(folder, resumed)
    assert manifest.facts["updates"] == resumed.updates() == 4
    assert steps(resumed, 4, 9) == expected
    assert resumed.updates() == 9


def test_gradient_accumulation_equals_one_batch_in_plain_torch(world):
    engine = make(world, "fp32")
    steps(engine, 0, 3)
    plain = build(CONFIG, 0)
    from train.engine import parameter_groups

    optimizer = torch.optim.AdamW(
        parameter_groups(
            plain, compose("train", TrainSettings, ["output=o", "arm=a", "data.tokens=t", "data.order=o"]).optimizer
        ),
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    for step in range(3):
        batch = torch.cat(
            [torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(step * 10 + m)) for m in range(2)]
        )
        (plain(batch).total / 128).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for (name, ours), theirs in zip(engine.decoder.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.data, theirs.data, rtol=2e-4, atol=2e-5, msg=name)


def test_weights_read_back_are_the_master_weights(world, tmp_path):
    engine = make(world, "bf16")
    steps(engine, 0, 2)
    config, state = checkpoint.read_weights(save(engine, world, tmp_path / "c", 2))
    assert config == CONFIG
    for fragment in engine.fragments():
        assert torch.equal(state[fragment.name].flatten(), fragment.tensors["param"])
        assert torch.equal(dict(engine.decoder.named_parameters())[fragment.name], state[fragment.name].bfloat16())


def test_the_attention_backend_of_a_run_does_not_bind_readers(world, tmp_path):
    engine = make(world, "fp32")
    engine.decoder.config = replace(CONFIG, attention="sdpa")
    steps(engine, 0, 1)
    config, _ = checkpoint.read_weights(save(engine, world, tmp_path / "c", 1))
    assert config == CONFIG
    assert config.attention == "auto"


def test_a_checkpoint_split_over_three_ranks_reads_as_one(world, tmp_path):
    """The same tensors, split into uneven fragments over three files, load like the complete ones."""
    from safetensors.torch import load_file, save_file

    from curriculum.artifact.create import write_manifest
    from curriculum.artifact.manifest import open_manifest

    engine = make(world, "fp32")
    steps(engine, 0, 2)
    whole = save(engine, world, tmp_path / "c", 2)
    cut = tmp_path / "d" / "step_00000002"
    cut.mkdir(parents=True)
    tensors = load_file(whole / "rank_00000.safetensors")
    for rank, (low, high) in enumerate(((0.0, 0.3), (0.3, 0.3), (0.3, 1.0))):
        parts, starts = {}, {}
        for name, tensor in tensors.items():
            begin, end = int(low * len(tensor)), int(high * len(tensor))
            if end > begin:
                parts[name] = tensor[begin:end].clone()
                starts[name.rpartition("/")[0]] = begin
        save_file(parts, cut / f"rank_{rank:05d}.safetensors", metadata={"starts": json.dumps(starts)})
    write_manifest(cut, "checkpoint", config={}, inputs={}, facts=open_manifest(whole, "checkpoint").facts)
    expected = steps(engine, 2, 5)
    resumed = make(world, "fp32", seed=3)
    checkpoint.load(cut, resumed)
    assert steps(resumed, 2, 5) == expected
    for kind in ("param", *MOMENTS):
        assert all(torch.isfinite(fragment.tensors[kind]).all() for fragment in resumed.fragments())


def test_a_damaged_checkpoint_is_skipped_for_the_previous_one(world, tmp_path, caplog):
    engine = make(world, "fp32")
    for step in (1, 2):
        steps(engine, step - 1, step)
        save(engine, world, tmp_path, step)
    assert checkpoint.newest(tmp_path).name == "step_00000002"
    file = tmp_path / "step_00000002" / "rank_00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 4
    file.write_bytes(data)
    assert checkpoint.newest(tmp_path).name == "step_00000001"
    assert "does not match its checksum" in caplog.text
    (tmp_path / "step_00000003.tmp-0a1b2c3d").mkdir()
    checkpoint.clean(tmp_path, 1)
    checkpoint.prune(tmp_path, CheckpointSettings(keep_last=1))
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000001", "step_00000002.damaged"}
    steps(engine, 2, 3)
    save(engine, world, tmp_path, 2)
    assert checkpoint.newest(tmp_path).name == "step_00000002"
    (tmp_path / "step_00000001_mine.damaged").mkdir()  # not ours: it stays
    checkpoint.prune(tmp_path, CheckpointSettings(keep_last=1))
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000002", "step_00000001_mine.damaged"}


def test_a_checkpoint_that_cannot_be_read_is_not_damaged(world, tmp_path, monkeypatch):
    engine = make(world, "fp32")
    for step in (1, 2):
        steps(engine, step - 1, step)
        save(engine, world, tmp_path, step)

    def stale(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    with monkeypatch.context() as patched:
        patched.setattr("train.checkpoint.find.hash_file", stale)
        with pytest.raises(
            checkpoint.UnreadableCheckpoint, match=r"step_00000002 cannot be read .*Stale file"
        ) as caught:
            checkpoint.newest(tmp_path)
    assert caught.value.exit_code == 74
    assert checkpoint.newest(tmp_path).name == "step_00000002"


def test_a_checkpoint_of_another_version_is_not_damaged(world, tmp_path, monkeypatch):
    engine = make(world, "fp32")
    steps(engine, 0, 1)
    save(engine, world, tmp_path, 1)
    monkeypatch.setattr("curriculum.artifact.manifest.FORMAT_VERSION", 2)
    with pytest.raises(OtherVersion, match="has format version 1, but this PDPC reads 2"):
        checkpoint.newest(tmp_path)


def test_a_checkpoint_of_another_model_is_rejected(world, tmp_path):
    engine = make(world, "fp32")
    steps(engine, 0, 1)
    folder = save(engine, world, tmp_path, 1)
    other = Engine(
        build(DecoderConfig(**{**CONFIG.__dict__, "layers": 1}), 0),
        compose(
            "train",
            TrainSettings,
            ["output=o", "arm=a", "data.tokens=t", "data.order=o", "precision=fp32", "micro_batch_size=4"],
        ),
        8,
        world,
    )
    with pytest.raises(ArtifactError, match=r"has a parameter 'layers\.1\..*' that the model lacks"):
        checkpoint.load(folder, other)


def fail_on_rank_0(folder):
    """Save, as one rank, where rank 0 cannot, and write the outcome to a file."""
    folder = Path(folder)
    here = start(threads=1)
    (folder / "in_the_way").touch(exist_ok=True)
    engine = make(here, "fp32")
    steps(engine, 0, 1)
    try:
        save(engine, here, folder / "in_the_way", 1)
        outcome = "saved"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    (folder / f"outcome_{here.rank}").write_text(outcome)
    here.barrier()


def test_a_failure_on_one_rank_ends_the_save_on_both(forks, tmp_path):
    ranks = forks.start(f"{__name__}:fail_on_rank_0", {"folder": str(tmp_path)}, 2, tmp_path / "log")
    assert ranks.wait(60) == [0, 0], ranks.told()
    outcomes = [(tmp_path / f"outcome_{rank}").read_text() for rank in range(2)]
    assert outcomes[0].startswith("FileExistsError: [Errno 17] checkpoint")
    assert outcomes[0] == outcomes[1]
