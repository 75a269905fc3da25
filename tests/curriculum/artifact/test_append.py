"""A record that another process moves or writes to is noticed when it is synced."""

import pytest

from curriculum.artifact.append import AppendedFile, Misplaced


@pytest.fixture
def record(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("one\n")
    file = AppendedFile(tmp_path / "run" / "metrics.jsonl")
    file.append(b"two\n")
    file.sync()
    yield file
    file.close()


def test_what_is_appended_follows_what_is_there(record):
    record.append(b"three\n")
    record.flush()
    assert record.path.read_text() == "one\ntwo\nthree\n"
    record.sync()


@pytest.mark.parametrize("change", ["removed", "moved", "replaced", "folder moved", "link"])
def test_a_record_that_is_no_longer_under_its_name_is_noticed(record, tmp_path, change):
    path = record.path
    if change == "removed":
        path.unlink()
    elif change == "folder moved":
        path.parent.rename(tmp_path / "elsewhere")
    else:
        path.rename(tmp_path / "moved")
    if change == "replaced":
        path.write_text("one\ntwo\n")
    if change == "link":
        path.symlink_to(tmp_path / "moved")
    with pytest.raises(Misplaced, match=r"metrics\.jsonl was removed, moved or replaced: another process changed it"):
        record.sync()
    assert Misplaced.exit_code == 74


@pytest.mark.parametrize("text", ["", "one\ntwo\ntheirs\n"])
def test_a_record_that_another_process_cuts_or_appends_to_is_noticed(record, text):
    record.path.write_text(text)
    record.append(b"three\n")
    with pytest.raises(Misplaced, match=r"metrics\.jsonl has \d+ bytes instead of 14: another process changed it"):
        record.sync()
