"""Drafts name their writers, and only those of writers that are gone are removed."""

import os
import re

import pytest

from curriculum.artifact.drafts import LEASE_S, WRITER, draft_of, machine, remove_abandoned
from tests.torture.careless import ELSEWHERE, another_node

GONE = 999_999_999


def draft(folder, where=None, pid=GONE, name="thing", idle_s=0.0):
    """Create a draft of a process of this machine, or of another one, last written `idle_s` seconds ago."""
    path = folder / f".{name}.tmp-{where or machine()}-{pid}-0123abcd"
    path.mkdir()
    (path / "data").write_text("half")
    for part in (path / "data", path):
        now = part.stat().st_mtime
        os.utime(part, (now - idle_s, now - idle_s))
    return path


def test_a_draft_names_its_machine_and_its_process_and_cannot_be_guessed(tmp_path):
    one, other = (draft_of(tmp_path / "thing") for _ in range(2))
    assert one.parent == tmp_path
    assert one != other
    found = WRITER.fullmatch(one.name.removeprefix(".thing.tmp-"))
    assert (found["machine"], int(found["pid"])) == (machine(), os.getpid())


def test_machines_differ_by_host_boot_and_container(monkeypatch):
    here = machine()
    names = {here}
    for host, boot in (("node7", "a"), ("node7", "b"), ("node8", "a")):
        with another_node(host, boot):
            names.add(machine())
    monkeypatch.setattr("os.readlink", lambda path: "pid:[1]")
    names.add(machine())
    assert len(names) == 5


@pytest.mark.parametrize("host", ["a-b-c.example", "x" * 64, "h\u00f6st name/..", ""])
def test_any_host_gives_a_name_that_is_recognised(tmp_path, host):
    with another_node(host):
        path = draft_of(tmp_path / "thing")
        path.mkdir()
        assert int(WRITER.fullmatch(path.name.removeprefix(".thing.tmp-"))["pid"]) == ELSEWHERE
        remove_abandoned(tmp_path, "thing")
        assert path.exists()


@pytest.mark.parametrize("name", ["x" * 255, "\u6587" * 85])
def test_the_longest_name_has_a_draft(tmp_path, name):
    path = draft_of(tmp_path / name)
    path.mkdir()
    other = tmp_path / re.sub(r"-\d+-", f"-{GONE}-", path.name)
    other.mkdir()
    remove_abandoned(tmp_path, name)
    assert (path.exists(), other.exists()) == (True, False)


def test_only_what_a_process_of_this_machine_left_is_removed_at_once(tmp_path, caplog):
    kept = [draft(tmp_path, pid=os.getpid()), draft(tmp_path, "node7.0123abcd"), draft(tmp_path, name="other")]
    gone = draft(tmp_path)
    remove_abandoned(tmp_path, "thing")
    assert [path.exists() for path in kept] == [True] * 3
    assert not gone.exists()
    assert re.search(rf"by process {GONE} on node7 \(last write \d s ago\): left alone", caplog.text)
    assert caplog.text.count("left alone") == 1


def test_what_another_machine_left_is_removed_when_nothing_was_written_for_a_day(tmp_path):
    old, writing = draft(tmp_path, "node7.0123abcd", 1, idle_s=LEASE_S + 60), draft(tmp_path, "node8.0123abcd", 1)
    os.utime(writing, (0, 0))  # but its file was written to just now
    remove_abandoned(tmp_path, "thing", now=(writing / "data").stat().st_mtime)
    assert (old.exists(), writing.exists()) == (False, True)
    remove_abandoned(tmp_path, "thing", now=(writing / "data").stat().st_mtime + LEASE_S + 60)
    assert not writing.exists()


def test_names_with_patterns_in_them_match_only_themselves(tmp_path):
    kept = draft(tmp_path, name="thing1")
    gone = draft(tmp_path, name="thing[1]*")
    remove_abandoned(tmp_path, "thing[1]*")
    assert (kept.exists(), gone.exists()) == (True, False)


def test_a_folder_is_swept_of_drafts_only(tmp_path):
    files = [tmp_path / name for name in (".x.tmp-notes", ".tmp-", ".x.tmp-a-1-2", "x.tmp-1")]
    for path in files:
        path.write_text("mine")
    gone = draft(tmp_path, name="run.json")
    link = tmp_path / f".y.tmp-{machine()}-{GONE}-0123abcd"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "data").write_text("precious")
    link.symlink_to(tmp_path / "theirs")
    remove_abandoned(tmp_path)
    assert [path.exists() for path in files] == [True] * 4
    assert not gone.exists()
    assert not link.is_symlink()
    assert (tmp_path / "theirs" / "data").read_text() == "precious"
