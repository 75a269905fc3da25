"""What binds the attempts of a run: every setting has its place, and changes are judged by name."""

import json
import signal
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import pytest
import torch

from curriculum.artifact.files import ArtifactError
from models.setting import BINDS, FREE, binds
from models.setting import fixed as never
from train.checkpoint import UnreadableCheckpoint
from train.config.compose import compose
from train.distributed.exit_codes import CHANGED, Refused
from train.distributed.world import World
from train.records.layout import RUN
from train.records.run_json import read_run
from train.resume import claim
from train.resume.identity import (
    DECODER,
    FINGERPRINTS,
    Change,
    binding,
    changes,
    check_acceptable,
    defaults,
    fixed,
    flat,
    free,
    identity,
    judge,
    unrecorded,
)
from train.resume.lineage import ChangedRun, conversion
from train.resume.runfolder import RunFolder, finished
from train.settings import TrainSettings

WORDS = ["output=o", "arm=a", "data.tokens=t", "data.order=o"]
SETTINGS = compose("train", TrainSettings, WORDS)
NO_DATA = dict.fromkeys(FINGERPRINTS)


def every_field(schema: type, prefix: str = "") -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the dotted name and the metadata of every setting under a dataclass."""
    hints = get_type_hints(schema)
    for item in fields(schema):
        if is_dataclass(hints[item.name]):
            yield from every_field(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item.metadata


def test_every_setting_says_whether_it_binds_a_run():
    stated = dict(every_field(TrainSettings))
    silent = [name for name, metadata in stated.items() if metadata.get("binds") not in (True, False)]
    assert not silent, "a new setting says metadata=BINDS or metadata=FREE (models/setting.py)"
    assert sorted([*binding(), *free()]) == sorted(stated)


def test_a_setting_that_does_not_say_binds():
    assert binds({})
    assert [binds(metadata) for metadata in (BINDS, FREE, never("why"))] == [True, False, True]


@pytest.mark.parametrize("name", ["optimizer.lr", "seed", "model.z_loss", "zero.reduce_in", "guards.finite"])
def test_what_changes_the_numbers_binds(name):
    assert name in binding()


@pytest.mark.parametrize("name", ["output", "zero.stage", "model.attention", "data.order", "guards.stop_after"])
def test_what_changes_none_is_free(name):
    assert name in free()


def test_what_is_fixed_binds():
    known = {*binding(), *(f"fingerprints.{name}" for name in FINGERPRINTS), *(f"decoder.{name}" for name in DECODER)}
    assert set(fixed()) <= known
    assert {"model.layers", "model.tie_embeddings", "fingerprints.tokens", "decoder.vocab_size"} <= set(fixed())


def test_the_identity_has_the_binding_settings_only():
    made = flat(identity(SETTINGS), NO_DATA, {})
    assert {name for name in made if not name.startswith("fingerprints.")} == set(binding())


@pytest.mark.parametrize("name", [name for name in binding() if name in defaults()])
def test_a_setting_missing_from_an_older_identity_had_its_default(name):
    now = flat(identity(SETTINGS), NO_DATA, {})
    older = json.loads(json.dumps(identity(SETTINGS)))
    branch, _, leaf = name.rpartition(".")
    removed = (older[branch] if branch else older).pop(leaf)
    found = changes(flat(older, NO_DATA, {}), now)
    default = json.loads(json.dumps(defaults()[name]))
    assert found == ([] if removed == default else [Change(name, default, removed)])


def test_a_group_missing_from_an_older_identity_had_its_defaults():
    older = identity(SETTINGS)
    del older["guards"]
    assert changes(flat(older, NO_DATA, {}), flat(identity(SETTINGS), NO_DATA, {})) == []
    other = compose("train", TrainSettings, [*WORDS, "guards.finite=false"])
    found = changes(flat(older, NO_DATA, {}), flat(identity(other), NO_DATA, {}))
    assert [change.field for change in found] == ["guards.finite"]


def test_a_removed_setting_is_named():
    older = {**identity(SETTINGS), "gone": {"key": 1}}
    found = changes(flat(older, NO_DATA, {}), flat(identity(SETTINGS), NO_DATA, {}))
    assert found == [Change("gone.key", 1, None)]


def test_decoder_fields_missing_from_an_older_run_are_no_change():
    now = {"vocab_size": 64, "max_seq_len": 16}
    assert changes(flat({}, {}, {}), flat({}, {}, now)) == []
    assert changes(flat({}, {}, {"vocab_size": 128}), flat({}, {}, now)) == [Change("decoder.vocab_size", 128, 64)]


def test_all_changes_are_named_with_the_words_that_accept_them():
    found = [Change("optimizer.lr", 0.1, 0.2), Change("seed", 1, 2), Change("arm", "a", "b")]
    with pytest.raises(ChangedRun) as refusal:
        judge("run r", found, ["arm"], trained=True)
    told = str(refusal.value)
    assert "optimizer.lr: was 0.1, now 0.2; seed: was 1, now 2" in told
    assert told.endswith("add --accept-change optimizer.lr --accept-change seed")
    assert refusal.value.exit_code == CHANGED == 78
    judge("run r", found, ["arm", "optimizer.lr", "seed"], trained=True)


def test_a_fixed_field_says_why_once_something_was_trained():
    found = [Change("model.layers", 2, 3)]
    with pytest.raises(ChangedRun, match=r"model.layers: was 2, now 3 \(the checkpoint's weights do not fit"):
        judge("run r", found, ["model.layers"], trained=True)
    judge("run r", found, ["model.layers"], trained=False)


def test_a_change_is_on_record_in_one_step_or_in_several():
    lives = [
        {},
        {"accepted": [{"field": "seed", "old": 1, "new": 2}]},
        {"accepted": [{"field": "seed", "old": 2, "new": 3}, {"field": "arm", "old": "a", "new": "b"}]},
    ]
    assert unrecorded([Change("seed", 1, 3), Change("seed", 2, 3), Change("arm", "a", "b")], lives) == []
    left = [Change("seed", 1, 4), Change("seed", 3, 2), Change("precision", "bf16", "fp32")]
    assert unrecorded(left, lives) == left


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("optimizer.rate", "use optimizer"),
        ("log_every", "may change at any time"),
        ("x", "use the name given in the error message"),
    ],
)
def test_a_name_that_is_not_a_field_is_rejected(name, told):
    with pytest.raises(ValueError, match=told):
        check_acceptable([name])


def test_every_field_can_be_named():
    check_acceptable([*binding(), "decoder.vocab_size", "fingerprints.order"])


def test_the_line_of_a_conversion():
    two = {"world_size": 2, "zero_stage": 1, "micro_batch_size": 3, "accumulation": 2}
    lives = [{"step": 0, **two}, {"step": 4, **two, "world_size": 3}]
    assert conversion(lives, 8, {**two, "world_size": 3}) is None
    assert conversion(lives, 4, two) is None
    assert conversion([], 0, two) is None
    assert conversion([{"step": 0, "world_size": 3}], 4, two) is None
    assert conversion(lives, 8, {**two, "world_size": 1, "accumulation": 1}) == (
        "the checkpoint of step 8 was written by 3 ranks (ZeRO 1, 2 micro-batches of 3) and is converted for 1 rank "
        "(ZeRO 1, 1 micro-batch of 3)"
    )


@pytest.fixture
def claimed(tmp_path):
    facts = {"arm": "a", "seed": 0, "parameters": 1, "paths": {}, "identity": {}, "fingerprints": {}, "versions": {}}
    run = RunFolder.claim(tmp_path)
    run.facts = {**facts, "format": 2, "status": "running", "lr": 1e-05}
    run.finish(5, "0" * 16)
    yield run
    run.release()


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "config.json",
        "metrics.jsonl",
        "export",
        "d.jsonl",
        "notes.txt",
        "checkpoint-500",
        "checkpoints",
    ],
)
def test_a_folder_with_other_files_is_no_output(tmp_path, name):
    (tmp_path / name).write_text("not of a run")
    (tmp_path / ".gitkeep").touch()
    with pytest.raises(ValueError, match=rf"contains other files \({name}\): choose a new folder"):
        RunFolder.claim(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, ".gitkeep"}


def test_another_programs_checkpoints_and_run_json_are_no_run(tmp_path):
    (tmp_path / "checkpoints" / "step_00000500").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"contains other files \(checkpoints\)"):
        RunFolder.claim(tmp_path)
    (tmp_path / "run.json").write_text('{"name": "mine"}')
    with pytest.raises(ValueError, match="it is not a run of pdpc train"):
        RunFolder.claim(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "run.json"}


@pytest.mark.parametrize("names", [[], ["lost+found"], ["slurm-12.out", "train.log"], [".lock", "config.yaml"]])
def test_an_empty_folder_logs_and_what_a_killed_start_leaves_are_an_output(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    RunFolder.claim(tmp_path).release()


def test_a_signal_is_recorded_unless_the_run_is_finished(tmp_path):
    facts = {"arm": "a", "seed": 0, "parameters": 1, "paths": {}, "identity": {}, "fingerprints": {}, "versions": {}}
    run = RunFolder.claim(tmp_path)
    run.stop(signal.SIGINT)
    assert not (tmp_path / "run.json").exists()
    run.facts = {**facts, "format": 2, "status": "running", "lives": [{"step": 0}, {"step": 4}]}
    run.stop(signal.SIGTERM)
    found = read_run(tmp_path)
    assert (found["status"], found["lives"][0]) == ("stopped by SIGTERM", {"step": 0})
    assert found["lives"][1]["stopped"]["signal"] == "SIGTERM"
    run.facts["status"] = "running"
    run.finish(5, "0" * 16)
    run.stop(signal.SIGINT)
    assert read_run(tmp_path)["status"] == "finished"
    run.release()


def test_a_folder_that_cannot_be_created_is_no_output(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"output=.*/file is a file"):
        RunFolder.claim(tmp_path / "file")
    with pytest.raises(ValueError, match=r"output=.*/file/run is below .*/file, which is a file"):
        RunFolder.claim(tmp_path / "file" / "run")
    with pytest.raises(
        ValueError, match=r"output=/proc/run cannot be written .*: choose a folder this user can write to"
    ):
        RunFolder.claim(Path("/proc/run"))


def test_a_refused_run_leaves_nothing_behind(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".lock").touch()
    before = sorted(tmp_path.rglob("*"))
    for folder in (tmp_path / "new" / "run", tmp_path / "empty", tmp_path / "other"):
        RunFolder.claim(folder).abandon()
        assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_is_refused_after_it_is_claimed_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("the scores are unusable")

    monkeypatch.setattr(claim, "check_scores", refuse)
    monkeypatch.setattr(RunFolder, "admit", lambda *_: [])
    monkeypatch.setattr(claim, "contents_of", lambda _: {})
    manifest = SimpleNamespace(config={}, inputs={}, facts={"slice": "train"})
    inputs = SimpleNamespace(
        order=SimpleNamespace(manifest=manifest, batch_size=8),
        decoder=SimpleNamespace(parameter_count=lambda: 1),
        initial=None,
        findings=SimpleNamespace(as_fact=dict),
    )
    settings = compose("train", TrainSettings, ["output=o", "arm=a", "data.tokens=t", "data.order=o"])
    alone = World(0, 1, 0, 1, torch.device("cpu"))
    with pytest.raises(Refused, match="the scores are unusable"):
        claim.claim_run(tmp_path / "new" / "run", settings, inputs, alone)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_that_is_read_only_is_finished(claimed, monkeypatch):
    claimed.release()
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("train.resume.runfolder.admit", lambda *_: [])
    assert finished(claimed.path, None, None)
    claimed.facts["status"] = "running"
    claimed._write()
    with pytest.raises(ValueError, match="is read-only"):
        finished(claimed.path, None, None)


def test_a_checkpoint_that_cannot_be_read_ends_the_run_before_training(claimed, monkeypatch):
    claimed.facts["status"] = "running"
    claimed._write()
    folder = claimed.path / "checkpoints" / "step_00000004"
    folder.mkdir(parents=True)

    def failed(*_):
        raise OSError(5, "Input/output error", str(folder))

    monkeypatch.setattr("train.resume.runfolder.open_manifest", failed)
    with pytest.raises(UnreadableCheckpoint, match=r"step_00000004 cannot be read .*Input/output error") as caught:
        finished(claimed.path, None, None)
    assert caught.value.exit_code == 74


def test_waiting_for_a_locked_run_is_logged(claimed, caplog):
    with pytest.raises(ValueError, match=r"is being written by another process \(pid .*\): wait for it"):
        RunFolder.claim(claimed.path, wait_s=0.5)
    assert caplog.text.count("is being written by another process") == 1
    assert "waiting for up to 0.5 s" in caplog.text


def test_a_flipped_bit_of_run_json_is_found(claimed):
    path = claimed.path / RUN
    assert read_run(claimed.path) == claimed.facts
    whole = path.read_bytes()
    for place in range(0, len(whole), 2):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            path.write_bytes(data)
            with pytest.raises(ArtifactError, match=RUN):
                read_run(claimed.path)


def test_a_run_json_without_a_checksum_is_an_older_one(claimed):
    facts = {key: value for key, value in claimed.facts.items() if key != "format"}
    (claimed.path / RUN).write_text(json.dumps(facts))
    assert read_run(claimed.path) == facts
