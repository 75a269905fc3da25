"""Attempts of one run, in real ranks: a change is rejected by all of them, or accepted on record; and its branches."""

import json
import re
import shutil

import pytest

from curriculum.order.consumed import as_hex, order_hash
from tests.torture.runs import PATIENCE_S, Material
from train import checkpoint
from train.distributed.exit_codes import CHANGED, REFUSED
from train.evaluation.answers import answers_path
from train.records.layout import CHECKPOINTS, METRICS, RUN, WANDB_ID
from train.records.run_json import read_run
from train.resume.branching import copy_at
from train.tracking import read_metrics
from train.tracking.metrics import as_line


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return Material.make(tmp_path_factory.mktemp("lives"))


@pytest.fixture(scope="module")
def begun(forks, material, tmp_path_factory):
    """A run of two ranks, cut off after its checkpoint of step 4."""
    folder = tmp_path_factory.mktemp("runs") / "begun"
    ranks = material.start(forks, folder, fault="loop.before_evaluation:kill")
    assert ranks.wait(PATIENCE_S) == [-9, -9], ranks.told()
    assert checkpoint.newest(folder / CHECKPOINTS).name == "step_00000004"
    return folder


@pytest.fixture
def folder(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


def life(forks, material, folder, *words, ranks=2):
    started = material.start(forks, folder, ranks, words)
    codes = started.wait(PATIENCE_S)
    started.kill()
    text = started.told()
    started.log.unlink()
    return codes, text


def test_a_change_is_rejected_by_all_ranks_with_one_message_and_accepted_on_record(forks, material, folder):
    before = (folder / RUN).read_bytes()
    codes, told = life(forks, material, folder, "optimizer.lr=1e-3")
    assert codes == [CHANGED, CHANGED], told
    assert told.count("optimizer.lr: was 0.003, now 0.001") == 1
    assert "--accept-change optimizer.lr" in told
    assert "Traceback" not in told
    assert (folder / RUN).read_bytes() == before

    words = ["optimizer.lr=1e-3", "accept_change=[optimizer.lr]"]
    cut = material.start(forks, folder, 2, words, fault="loop.after_step:kill")
    assert cut.wait(PATIENCE_S) == [-9, -9]
    assert "accepted on record: optimizer.lr: was 0.003, now 0.001" in cut.told()
    cut.log.unlink()
    assert read_run(folder)["lives"][-1]["accepted"] == [{"field": "optimizer.lr", "old": 0.003, "new": 0.001}]

    codes, told = life(forks, material, folder)
    assert codes == [CHANGED, CHANGED], told
    assert "optimizer.lr: was 0.001, now 0.003" in told

    codes, told = life(forks, material, folder, "optimizer.lr=1e-3")  # the checkpoint still has the old value
    assert codes == [0, 0], told
    assert "accepted on record" not in told
    assert "accepted" not in read_run(folder)["lives"][-1]


def test_the_checkpoint_decides_when_run_json_is_gone(forks, material, folder):
    (folder / RUN).unlink()
    codes, told = life(forks, material, folder, "optimizer.lr=1e-3", ranks=1)
    assert codes == [CHANGED]
    assert "the checkpoint of step 4" in told
    assert "optimizer.lr: was 0.003, now 0.001" in told
    codes, told = life(forks, material, folder, ranks=1)
    assert codes == [0], told
    assert "resumed from step 4" in told


def test_a_model_of_another_shape_is_never_accepted(forks, material, folder):
    codes, told = life(forks, material, folder, "model.layers=2", "accept_change=[model.layers]", ranks=1)
    assert codes == [CHANGED]
    assert "model.layers: was 1, now 2 (the checkpoint's weights do not fit a model of another shape)" in told


def test_a_misspelled_field_is_rejected_before_training(forks, material, folder):
    codes, told = life(forks, material, folder, "accept_change=[optimiser.lr]", ranks=1)
    assert codes == [REFUSED]
    assert "accept_change=optimiser.lr is not a field of a run: use optimizer.lr" in told


def test_an_accepted_order_must_begin_with_what_was_read(forks, material, folder, tmp_path, edit_manifest, forged):
    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(material.order.folder, same)
    forged(material.order, other, 1, 2)
    for place in (same, other):
        edit_manifest(place, lambda fields: fields.update(fingerprint="f" * 32))
    codes, told = life(forks, material, folder, f"data.order={same}", ranks=1)
    assert codes == [CHANGED]
    assert f"fingerprints.order: was '{material.order.fingerprint}'" in told
    accepting = ["accept_change=[fingerprints.order]", "verify_mb=0"]
    codes, told = life(forks, material, folder, f"data.order={other}", *accepting, ranks=1)
    assert codes == [CHANGED]
    assert "step_00000004 has consumed other samples than the first 48 of order" in told
    cut = material.start(forks, folder, 1, [f"data.order={same}", *accepting], "loop.before_step:kill")
    assert cut.wait(PATIENCE_S) == [-9]
    assert "accepted for order" in cut.told()
    codes, told = life(forks, material, folder, f"data.order={same}", "verify_mb=0", ranks=1)  # it is on record
    assert codes == [0], told
    assert "accepted for order" in told


def without_a_file(words, output):
    """Run a rank that loses a file of its tokens after the manifest was read."""
    from curriculum.tokens import ids
    from tests.torture.forks import train

    def gone(*_, **__):
        raise FileNotFoundError(2, "No such file or directory", "tokens/train.bin")

    ids.OpenFile = gone
    return train(words, output)


def test_a_file_that_vanishes_at_the_start_is_rejected(forks, material, folder):
    arguments = {"words": list(material.words), "output": str(folder)}
    ranks = forks.start(f"{__name__}:without_a_file", arguments, 2, folder.with_suffix(".log"))
    assert ranks.wait(PATIENCE_S) == [REFUSED, REFUSED], ranks.told()
    assert "tokens/train.bin disappeared while the run was starting: restore it" in ranks.told()
    assert "Traceback" not in ranks.told()


def test_a_damaged_record_is_restarted_once(forks, material, folder):
    record = next((folder / "consumed").glob("world_*.bin"))
    data = bytearray(record.read_bytes())
    data[0] ^= 1
    record.write_bytes(data)
    for said in (1, 0):
        ranks = material.start(forks, folder, 2, fault="loop.before_step:kill")
        assert ranks.wait(PATIENCE_S) == [-9, -9]
        assert ranks.told().count("does not match the checkpoint") == said
        ranks.log.unlink()
    assert (folder / "consumed" / f"{record.name}.damaged").read_bytes() == bytes(data)
    assert [path.name for path in (folder / "consumed").glob("*.damaged*")] == [f"{record.name}.damaged"]


def test_other_versions_are_a_warning(forks, material, folder):
    facts = read_run(folder)
    facts["versions"]["torch"] = "1.0"
    del facts["format"]
    (folder / RUN).write_text(json.dumps(facts))
    codes, told = life(forks, material, folder, ranks=1)
    assert codes == [0], told
    assert told.count("torch was 1.0 and is ") == 1


def test_a_branch_begins_as_its_trunk_was_and_leaves_it_as_it_is(forks, material, begun, tmp_path, replanned):
    child = replanned(material.order, tmp_path / "child", 4 * material.order.batch_size)
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    words = [f"data.order={child.folder}", f"branch_of={begun}", "arm=branch"]
    codes, told = life(forks, material, tmp_path / "branch", *words)
    assert codes == [0, 0], told
    assert "resumed from step 4" in told
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before
    facts = read_run(tmp_path / "branch")
    assert (facts["status"], facts["arm"], facts["cursor"]) == ("finished", "branch", len(child))
    assert facts["branch"] == {"of": str(begun), "step": 4, "order": material.order.fingerprint}
    assert facts["consumed_hash"] == as_hex(order_hash(child, len(child)))
    codes, told = life(forks, material, tmp_path / "branch", f"data.order={child.folder}", "arm=branch", ranks=1)
    assert codes == [0], told  # finished, whether the trunk is named or not


def test_a_branch_that_cannot_be_is_refused_by_all_ranks(forks, material, begun, folder, tmp_path, replanned):
    child = replanned(material.order, tmp_path / "child", 5 * material.order.batch_size)
    for order, output, said in (
        (child, tmp_path / "branch", r"keeps no checkpoint of step 5, .* \(it keeps 3, 4\): replan at one of those"),
        (material.order, tmp_path / "branch", "was not replanned from the order of that run"),
        (child, folder, "holds a run that is not a branch: choose another output"),
    ):
        codes, told = life(forks, material, output, f"data.order={order.folder}", f"branch_of={begun}", "arm=branch")
        assert codes == [REFUSED, REFUSED], told
        assert re.search(said, told)
        assert "Traceback" not in told
    assert not (tmp_path / "branch").exists()


def test_a_branch_has_the_evaluation_of_its_first_step_and_a_wandb_run_of_its_own(folder, tmp_path):
    metrics, step = folder / METRICS, {"step": 4, "tokens": 768}
    with open(metrics, "a") as file:
        file.write(f"{as_line({'kind': 'stage', **step, 'val/loss': 2.5})}{as_line({'kind': 'train', 'step': 5})}")
    answers_path(folder, 4).parent.mkdir(exist_ok=True)
    answers_path(folder, 4).write_bytes(b"answers")
    (folder / WANDB_ID).write_text("trunk\n")
    copy_at(folder, folder / CHECKPOINTS / "step_00000004", tmp_path / "branch")
    records = read_metrics(tmp_path / "branch" / METRICS)
    assert [record["val/loss"] for record in records if record["kind"] == "stage"] == [2.5]
    assert max(record["step"] for record in records) == 4
    assert answers_path(tmp_path / "branch", 4).read_bytes() == b"answers"
    assert not (tmp_path / "branch" / WANDB_ID).exists()
