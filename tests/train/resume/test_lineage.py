import logging

import numpy as np
import pytest

from curriculum.arrange import arrange
from curriculum.artifact.create import write_manifest
from curriculum.artifact.files import ArtifactError
from curriculum.order.consumed import as_hex, order_hash
from curriculum.order.order import Order, ancestors
from train.resume.lineage import check_resume

STEP, CURSOR = 3, 48


@pytest.fixture(scope="module")
def order(tokens_folder, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("orders") / "order")
    return arrange.run(arrange.ArrangeSettings(tokens=str(tokens_folder), output=folder, batch_size=16, stages=2))


@pytest.fixture
def checkpoint(order, tmp_path):
    """A checkpoint of a run after three steps of the order; keyword arguments replace facts of its manifest."""

    def write(trained_on: Order = order, **facts):
        folder = tmp_path / "step_00000003"
        folder.mkdir()
        read = as_hex(order_hash(trained_on, CURSOR))
        facts = {"step": STEP, "cursor": CURSOR, "consumed_hash": read, **facts}
        kept = {key: value for key, value in facts.items() if value is not None}
        write_manifest(folder, "checkpoint", config={}, inputs={"order": trained_on.fingerprint}, facts=kept)
        return folder

    return write


def test_a_run_resumes_with_its_own_order(order, checkpoint):
    assert ancestors(order) == []
    check_resume(checkpoint(), order)


@pytest.mark.parametrize("cursor", [CURSOR, CURSOR + 16])
def test_a_run_resumes_with_an_order_replanned_at_or_after_its_cursor(
    order, checkpoint, replanned, tmp_path, caplog, cursor
):
    child = replanned(order, tmp_path / "child", cursor)
    assert child.fingerprint != order.fingerprint
    assert ancestors(child) == [order.fingerprint]
    caplog.set_level(logging.INFO)
    check_resume(checkpoint(), child)
    assert f"resuming with order {child.fingerprint}, replanned at cursor {cursor} from order" in caplog.text


def test_a_run_resumes_with_a_grandchild(order, checkpoint, replanned, tmp_path):
    child = replanned(order, tmp_path / "child", CURSOR)
    grandchild = replanned(child, tmp_path / "grandchild", CURSOR + 32)
    assert ancestors(grandchild) == [order.fingerprint, child.fingerprint]
    check_resume(checkpoint(), grandchild)


def test_an_order_that_was_replanned_before_the_cursor_is_rejected(order, checkpoint, replanned, tmp_path):
    child = replanned(order, tmp_path / "child", CURSOR - 16)
    with pytest.raises(
        ArtifactError, match=r"has consumed 48 samples .* replanned from it at the earlier cursor 32: replan again"
    ):
        check_resume(checkpoint(), child)


def test_a_grandchild_whose_past_changed_in_between_is_rejected_by_the_hash(order, checkpoint, replanned, tmp_path):
    child = replanned(order, tmp_path / "child", CURSOR - 16)
    grandchild = replanned(child, tmp_path / "grandchild", CURSOR + 16)
    with pytest.raises(ArtifactError, match="has consumed other samples than the first 48"):
        check_resume(checkpoint(), grandchild)


def test_a_parent_is_no_descendant(order, checkpoint, replanned, tmp_path):
    child = replanned(order, tmp_path / "child", CURSOR)
    with pytest.raises(
        ArtifactError, match=f"trained on order {child.fingerprint}.*neither that nor replanned from it"
    ):
        check_resume(checkpoint(child), order)


def test_a_damaged_order_is_rejected_with_both_hashes(order, checkpoint, forged, tmp_path):
    other = forged(order, tmp_path / "other", 5, 30)
    assert other.fingerprint == order.fingerprint
    with pytest.raises(ArtifactError) as refusal:
        check_resume(checkpoint(), other)
    for part in ("step_00000003", str(other.folder), *(as_hex(order_hash(one, CURSOR)) for one in (order, other))):
        assert part in str(refusal.value)


def test_damage_after_the_cursor_does_not_affect_the_past(order, checkpoint, forged, tmp_path):
    other = forged(order, tmp_path / "other", CURSOR, CURSOR + 1)
    assert (other[0:CURSOR] == order[0:CURSOR]).all()
    assert not (other[CURSOR : len(order)] == order[CURSOR : len(order)]).all()
    check_resume(checkpoint(), other)


def test_a_checkpoint_at_another_cursor_or_without_a_hash_is_rejected(order, checkpoint, tmp_path):
    folder = checkpoint(cursor=CURSOR - 1)
    with pytest.raises(ArtifactError, match=r"at step 3 after 47 samples, but order .* has that step after 48"):
        check_resume(folder, order)
    (folder / "manifest.json").unlink()
    folder.rmdir()
    with pytest.raises(ArtifactError, match=r"does not record what was consumed \(facts.consumed_hash\)"):
        check_resume(checkpoint(consumed_hash=None), order)


@pytest.mark.parametrize(
    "facts", [{"ancestors": []}, {"ancestors": None}, {"replanned_at": None}, {"replanned_at": {}}]
)
def test_a_child_without_its_replanning_cursor_is_rejected(order, replanned, tmp_path, facts):
    child = replanned(order, tmp_path / "child", CURSOR, **facts)
    with pytest.raises(ArtifactError, match=r"names the parent .*facts.ancestors, facts.replanned_at"):
        ancestors(child)


def test_the_fixture_replans_only_the_tail(order, replanned, tmp_path):
    child = replanned(order, tmp_path / "child", CURSOR)
    assert np.array_equal(child[:CURSOR], order[:CURSOR])
    assert np.array_equal(child[CURSOR:], order[CURSOR:][::-1])
