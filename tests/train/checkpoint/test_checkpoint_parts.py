"""Parts of checkpointing: file layout, retention, and errors detected before anything is used."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from curriculum.artifact.files import ArtifactError, hash_file
from curriculum.artifact.manifest import open_manifest
from tests.torture.ranks import CONFIG, MadeUpEngine, on_ranks, same_state, save_step
from train import checkpoint
from train.checkpoint import commit, layout, read, write
from train.checkpoint.layout import KINDS
from train.checkpoint.retention import kept_of
from train.distributed.world import World
from train.settings import CheckpointSettings

SINGLE = World(0, 1, 0, 1, torch.device("cpu"))


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of two ranks, after 4 steps."""
    results = on_ranks(2, lambda world: save_step(tmp_path / "run" / "checkpoints", world, 4))
    assert results[0] == results[1]
    return results[0]


def test_the_files_are_safetensors_and_hold_the_state(saved):
    engine = MadeUpEngine(SINGLE, 4)
    parts = [load_file(saved / f"rank_0000{rank}.safetensors") for rank in range(2)]
    for fragment in engine.fragments():
        for kind in KINDS:
            halves = [part[f"{fragment.name}/{kind}"] for part in parts if f"{fragment.name}/{kind}" in part]
            assert torch.equal(torch.cat(halves), fragment.tensors[kind])


def test_the_manifest_has_the_checksums_without_rereading_the_files(saved):
    manifest = open_manifest(saved, checkpoint.KIND)
    assert manifest.files == {path.name: hash_file(path) for path in saved.glob("*.safetensors")}
    facts = manifest.facts
    assert (facts["step"], facts["number"], facts["world_size"], facts["zero_stage"]) == (4, 1, 2, 1)
    assert set(facts["versions"]) == {"pdpc", "python", "torch", "deepspeed", "transformers"}
    assert set(manifest.inputs) == {"config"}


@pytest.mark.parametrize("writers", [1, 2, 3])
@pytest.mark.parametrize("readers", [1, 2, 4])
def test_any_number_of_ranks_reads_a_checkpoint_of_any_number(tmp_path, writers, readers):
    folder = on_ranks(writers, lambda world: save_step(tmp_path / "c", world, 6))[0]

    def load(world):
        engine = MadeUpEngine(world, 1)
        checkpoint.load(folder, engine)
        return same_state(engine, MadeUpEngine(world, 6)) and engine.filled_times == 1

    assert on_ranks(readers, load) == [True] * readers
    config, state = checkpoint.read_weights(folder)
    assert config == CONFIG
    for fragment in MadeUpEngine(SINGLE, 6).fragments():
        assert torch.equal(state[fragment.name].flatten(), fragment.tensors["param"])


def test_a_rank_reads_only_what_it_needs(saved, monkeypatch):
    """Of other ranks' files only the headers are read, apart from the one pass that verifies the digests."""
    sizes = []
    real = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, place: sizes.append(len(buffers[0])) or real(fd, buffers, place)
    )

    def load(world):
        engine = MadeUpEngine(world, 1)
        checkpoint.load(saved, engine)
        return sum(4 * tensor.numel() for fragment in engine.fragments() for tensor in fragment.tensors.values())

    needed = on_ranks(2, load)
    assert sum(sizes) == sum(needed)


def test_small_buffers_write_and_read_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(read, "CHUNK_BYTES", 64)
    folder = save_step(tmp_path / "c", SINGLE, 3)
    engine = MadeUpEngine(SINGLE, 1)
    checkpoint.load(folder, engine)
    assert same_state(engine, MadeUpEngine(SINGLE, 3))


def test_without_o_direct_files_are_written_through_the_page_cache(tmp_path, monkeypatch):
    real = os.open

    def opened(path, flags, *rest, **named):
        if flags & write.DIRECT and str(path).endswith(".safetensors"):
            raise OSError(22, "Invalid argument")
        return real(path, flags, *rest, **named)

    direct = save_step(tmp_path / "a", SINGLE, 3)
    monkeypatch.setattr(os, "open", opened)
    cached = save_step(tmp_path / "b", SINGLE, 3)
    name = layout.rank_file(0)
    assert (direct / name).read_bytes() == (cached / name).read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_non_finite_state_is_never_published(tmp_path, value, kind):
    save_step(tmp_path / "c", SINGLE, 2)

    def save(world):
        engine = MadeUpEngine(world, 4)
        if world.rank == 1:
            engine.state[3].tensors[kind][5] = value
        save_step(tmp_path / "c", world, 4, engine)

    errors = on_ranks(2, save)
    assert all(isinstance(error, checkpoint.NotFiniteError) for error in errors)
    name = MadeUpEngine(World(1, 2, 1, 2, torch.device("cpu")), 4).state[3].name
    assert all(f"{name}/{kind} is {value} at element 5" in str(error) for error in errors)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step_00000002"]


def test_lack_of_space_is_reported_with_sizes_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(commit, "free_bytes", lambda folder: 1000)
    message = r"bytes are needed \(ranks: 1, largest file 40,000\), but only 1,000 are free"
    with pytest.raises(OSError, match=message) as caught:
        save_step(tmp_path / "c", SINGLE, 2)
    assert caught.value.errno == 28
    assert list((tmp_path / "c").iterdir()) == []


def test_the_newest_few_and_every_nth_are_kept(tmp_path):
    assert kept_of([9, 8, 7, 6, 5, 4], CheckpointSettings(keep_last=2, keep_every=4)) == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]
    assert kept_of([3, 0], CheckpointSettings(keep_last=1, keep_every=2)) == [True, False]
    settings = CheckpointSettings(keep_last=1, keep_every=3)
    for step in range(1, 8):
        save_step(tmp_path, SINGLE, step)
        checkpoint.prune(tmp_path, settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_0000000{step}" for step in (3, 6, 7)]


@pytest.mark.parametrize(("keep_stages", "kept"), [(False, [5]), (True, [2, 4, 5])])
def test_stage_ends_are_kept_if_the_settings_say_so(tmp_path, keep_stages, kept):
    for step in range(1, 6):
        save_step(tmp_path, SINGLE, step)
        checkpoint.prune(tmp_path, CheckpointSettings(keep_last=1, keep_stages=keep_stages), stage_ends=[2, 4])
    assert [checkpoint.step_of(folder) for folder in reversed(checkpoint.candidates(tmp_path))] == kept


@pytest.mark.parametrize("key", ["keep_last", "keep_every", "save_every"])
def test_settings_below_one_are_rejected(key):
    with pytest.raises(ValueError, match=f"checkpoints.{key}=0 must be at least 1"):
        CheckpointSettings(**{key: 0})


def test_steps_of_nine_digits_are_newer_than_those_of_eight(tmp_path):
    for step in (99_999_999, 100_000_000):
        save_step(tmp_path, SINGLE, step)
    assert checkpoint.step_of(checkpoint.newest(tmp_path)) == 100_000_000


def test_an_existing_checkpoint_is_not_rewritten(saved):
    before = (saved / "manifest.json").stat().st_mtime_ns
    assert save_step(saved.parent, SINGLE, 4) == saved
    assert (saved / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ArtifactError, match=r"already exists, after 32 samples.*use another output"):
        save_step(saved.parent, SINGLE, 4, cursor=5)


def test_a_renamed_folder_is_skipped(saved, caplog):
    saved.rename(checkpoint.folder_of(saved.parent, 8))
    assert checkpoint.newest(saved.parent) is None
    assert "holds the checkpoint of step 4" in caplog.text


def test_damage_found_by_load_is_raised_on_every_rank(saved):
    data = bytearray((saved / "rank_00001.safetensors").read_bytes())
    data[-1] ^= 1
    (saved / "rank_00001.safetensors").write_bytes(data)
    errors = on_ranks(3, lambda world: checkpoint.load(saved, MadeUpEngine(world, 1)))
    assert all(
        isinstance(error, ArtifactError) and "rank_00001.safetensors does not match" in str(error) for error in errors
    )


def header(table, data=8, **metadata):
    text = json.dumps({"__metadata__": {"starts": json.dumps({"w": 0}), **metadata}, **table}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header({"w/param": GOOD}, data=4), "its header describes"),
        (header({"w/param": {**GOOD, "dtype": "BF16"}}), "w/param is BF16"),
        (header({"w/param": {**GOOD, "shape": [3]}}), "with 3 elements has offsets"),
        (header({"w/param": {**GOOD, "shape": [-2]}}), "not a float32 vector"),
        (header({"w/param": {**GOOD, "data_offsets": [4, 12]}}), "has offsets [4, 12]"),
        (header({"w/param": {**GOOD, "data_offsets": [0, True]}}), "not a float32 vector"),
        (header({"w/extra": GOOD}), "expected one of param, exp_avg, exp_avg_sq, ema"),
        (header({"v/param": GOOD}), "has a parameter 'v' that the model lacks"),
        (header({"w/param": GOOD}, starts='{"w": 9}'), "begins at 9"),
        (header({"w/param": GOOD}, starts='{"w": "0"}'), "begins at '0'"),
        (header({"w/param": GOOD}, starts="[]"), "begins at None"),
        (header({"w/param": 7}), "cannot be read"),
        (b"[" * 50_000, "does not fit"),
        ((50_000).to_bytes(8, "little") + b"[" * 50_000, "cannot be read"),
        (b"abc", "does not fit"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "does not fit"),
    ],
)
def test_any_other_header_is_rejected(tmp_path, data, message):
    path = tmp_path / "rank_00000.safetensors"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(ArtifactError, match="rank_00000") as error:
            layout.read_header(path, descriptor, {"w": 4})
    finally:
        os.close(descriptor)
    assert message in str(error.value)


def test_gaps_and_overlaps_are_rejected(tmp_path):
    def part(start, length):
        return layout.Part("w", "param", start, length, 0)

    layout.check_complete(tmp_path, [part(2, 2), part(0, 2)], {"w": 4}, ("param",))
    with pytest.raises(ArtifactError, match="holds 3 of 4 elements of w"):
        layout.check_complete(tmp_path, [part(0, 1), part(2, 2)], {"w": 4}, ("param",))
    with pytest.raises(ArtifactError, match="elements 1 to 2 of w/param twice"):
        layout.check_complete(tmp_path, [part(0, 2), part(1, 3)], {"w": 4}, ("param",))


def test_damaged_records_are_set_aside_and_readable_lines_stay(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    lines = [json.dumps({"kind": "train", "step": step}) for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run / "wandb_id").write_text("abc\n")
    manifest = open_manifest(save_step(run / "checkpoints", SINGLE, 3), checkpoint.KIND)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(lines[0] + '\n{"kind": "tr')  # a record after the checkpoint, and a torn one
    assert checkpoint.damaged_records(run, manifest) == []
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace('"step": 2', '"step"; 2'))
    (run / "wandb_id").write_text("abd\n")
    damaged = checkpoint.damaged_records(run, manifest)
    assert damaged == ["metrics.jsonl", "wandb_id"]
    checkpoint.set_aside(run, damaged)
    assert (run / "metrics.jsonl").read_text() == "".join(f"{line}\n" for line in (lines[0], lines[2], lines[0]))
    assert (run / "wandb_id.damaged").read_text() == "abd\n"
    assert not (run / "wandb_id").exists()
    (run / "wandb_id").write_text("new\n")
    assert checkpoint.damaged_records(run, manifest) == damaged  # a restarted file does not match the seal
    assert checkpoint.damaged_records(run, manifest, restarted=damaged) == []
    checkpoint.set_aside(run, damaged)
    assert (run / "wandb_id.damaged").read_text() == "abd\n"
    assert (run / "wandb_id.damaged-2").read_text() == "new\n"


def test_a_kill_while_a_record_is_set_aside_loses_no_line(tmp_path, monkeypatch):
    lines = [json.dumps({"kind": "train", "step": step}) for step in (1, 2)]
    text = f'{lines[0]}\n{{"kind";\n{lines[1]}\n'
    (tmp_path / "metrics.jsonl").write_text(text)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("train.checkpoint.records.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.set_aside(tmp_path, ["metrics.jsonl"])
    assert (tmp_path / "metrics.jsonl").read_text() == text
    assert checkpoint.damaged_records(tmp_path, None) == ["metrics.jsonl"]
    checkpoint.set_aside(tmp_path, ["metrics.jsonl"])
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines
