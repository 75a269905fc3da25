"""Data that somebody writes to while it is read: what is read is intact, or an error names the file and the change."""

import os
import shutil

import numpy as np
import pytest

from curriculum.artifact import blocks, guard
from curriculum.artifact.blocks import BlockArray, hash_blocks
from curriculum.artifact.files import hash_file
from curriculum.artifact.guard import WholeFile
from curriculum.artifact.mapped import OpenFile, UnreadableError
from curriculum.tokens import ids
from curriculum.tokens.ids import NumberFile, TokenIds
from tests.torture.careless import let_the_clock_tick

VALUES = np.random.default_rng(0).integers(0, 2**16, 4000, dtype=np.uint16)
LENGTH = 9
STARTS = np.array([3, 500, 1999, 2500, 3991])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    for module in (guard, blocks, ids):
        monkeypatch.setattr(module, "BLOCK_BYTES", 64)


@pytest.fixture
def path(tmp_path):
    VALUES.tofile(tmp_path / "ids.bin")
    long_ago = os.stat(tmp_path / "ids.bin").st_mtime_ns - 10**12
    os.utime(tmp_path / "ids.bin", ns=(long_ago, long_ago))
    let_the_clock_tick(tmp_path / "ids.bin")
    return tmp_path / "ids.bin"


def digests(path):
    return np.array(hash_blocks(path).digests, dtype="<u8")


def opened(kind, path):
    """Open a file in one of the ways of KINDS; return a function that reads most of it, and one that rechecks it."""
    if kind == "array":
        array = BlockArray(path, "<u2", len(VALUES), digests(path))
        return lambda: np.concatenate([array[start : start + LENGTH] for start in STARTS]), array.recheck
    files = [NumberFile(path, "<u2", len(VALUES), digests=digests(path))]
    rows = TokenIds(files, LENGTH)
    if kind == "span":
        return lambda: np.concatenate([rows.span(start, start + LENGTH) for start in STARTS]), rows.recheck
    return lambda: rows.rows(STARTS).reshape(-1), rows.recheck


KINDS = ("array", "rows", "span")
EXPECTED = np.concatenate([VALUES[start : start + LENGTH] for start in STARTS])


def overwrite(path, values, keep_times=False):
    """Write other values over those of an open file; `keep_times`: with its old modification time, as cp -p does."""
    let_the_clock_tick(path)
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(values.tobytes())
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_times", [False, True])
def test_data_that_is_overwritten_is_never_read(path, kind, keep_times, caplog):
    read, recheck = opened(kind, path)
    assert np.array_equal(read(), EXPECTED)
    overwrite(path, VALUES[::-1], keep_times)
    what = "its contents changed at" if keep_times else "it was written to"
    for _ in range(2):
        with pytest.raises(
            UnreadableError, match=r"ids\.bin is damaged between bytes \d+ and \d+: its checksum.*" + what
        ):
            read()
    assert UnreadableError.exit_code == 74
    assert "ids.bin changed while it was in use" in caplog.text
    overwrite(path, VALUES)  # restored
    assert np.array_equal(read(), EXPECTED)
    recheck()


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_is_overwritten_leaves_the_rest_readable(path, kind):
    read, _ = opened(kind, path)
    read()
    changed = VALUES.copy()
    changed[1000:1100] += 1  # between the rows that are read
    overwrite(path, changed)
    assert np.array_equal(read(), EXPECTED)
    changed[2503] += 1
    overwrite(path, changed)
    with pytest.raises(UnreadableError, match=r"between bytes 4992 and 5056"):
        read()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["chmod", "touch", "link", "unlink", "replace", "rename", "same bytes"])
def test_what_leaves_the_bytes_alone_does_no_harm(path, kind, change, caplog):
    read, recheck = opened(kind, path)
    read()
    if change == "chmod":
        path.chmod(0o600)
    elif change == "touch":
        path.touch()
    elif change == "link":
        os.link(path, path.with_name("second"))
    elif change == "unlink":
        path.unlink()
    elif change == "replace":
        path.with_name("other").write_bytes(bytes(8000))
        os.replace(path.with_name("other"), path)
    elif change == "rename":
        path.rename(path.with_name("moved"))
    else:
        overwrite(path, VALUES)
    assert np.array_equal(read(), EXPECTED)
    recheck()
    assert np.array_equal(read(), EXPECTED)
    assert caplog.text.count("changed while it was in use") == 1


@pytest.fixture
def caching(monkeypatch):
    """A network file system, which answers from its cache until a file is opened again."""
    cache, real = {}, OpenFile.stamp

    def refreshed(self):
        cache[id(self)] = real(self)
        return cache[id(self)]

    monkeypatch.setattr(OpenFile, "stamp", lambda self: cache.setdefault(id(self), real(self)))
    monkeypatch.setattr(OpenFile, "unchanged", lambda self, stamp: self.stamp() == stamp)
    monkeypatch.setattr(OpenFile, "refreshed", refreshed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_that_a_cache_hides_is_found_before_its_effects_are_saved(path, kind, caching, monkeypatch):
    read, recheck = opened(kind, path)
    read()
    recheck()
    changed = VALUES.copy()
    changed[5] += 1  # in a block that was verified before
    overwrite(path, changed)
    assert read()[2] == changed[5]
    for action in (recheck, read, recheck):  # a second checkpoint is not written either
        with pytest.raises(UnreadableError, match="between bytes 0 and 64"):
            action()


@pytest.mark.parametrize("kind", KINDS)
def test_caches_are_passed_from_time_to_time(path, kind, caching, monkeypatch):
    read, _ = opened(kind, path)
    read()
    overwrite(path, VALUES[::-1])
    monkeypatch.setattr(guard, "REFRESH_S", 0.0)
    with pytest.raises(UnreadableError, match="is damaged between"):
        read()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_read_before_a_change_of_other_bytes_is_no_error(path, kind, caching):
    read, recheck = opened(kind, path)
    read()
    changed = VALUES.copy()
    changed[1000:1100] += 1
    overwrite(path, changed)
    read()
    recheck()
    assert np.array_equal(read(), EXPECTED)


def test_rows_are_sampled_until_all_of_their_blocks_were_verified(path, monkeypatch):
    compared, digest = [], guard.xxhash.xxh3_64_intdigest
    read, _ = opened("rows", path)
    monkeypatch.setattr(guard.xxhash, "xxh3_64_intdigest", lambda data: compared.append(1) or digest(data))
    for _ in range(10):
        read()
    assert len(compared) == len({0, 15, 62, 78, 124})


def test_data_that_was_damaged_before_the_run_is_found_by_the_samples(path):
    known = digests(path)
    overwrite(path, VALUES[::-1])
    rows = TokenIds([NumberFile(path, "<u2", len(VALUES), digests=known)], LENGTH)
    with pytest.raises(
        UnreadableError, match=r"ids\.bin is damaged between bytes 0 and 64: its checksum differs: restore"
    ):
        rows.rows(STARTS)


def test_without_checksums_written_data_is_an_error_and_another_status_a_warning(path, caplog):
    rows = TokenIds([NumberFile(path, "<u2", len(VALUES))], LENGTH)
    path.chmod(0o600)
    for _ in range(2):
        assert np.array_equal(rows.rows(STARTS).reshape(-1), EXPECTED)
    assert caplog.text.count("has no checksums of blocks to tell whether it is still intact") == 1
    overwrite(path, VALUES)
    with pytest.raises(
        UnreadableError, match=r"ids\.bin changed while it was in use: it was written to .*no checksums"
    ):
        rows.rows(STARTS)


def test_a_file_that_is_closed_and_opened_again_is_recognised(path, tmp_path, monkeypatch):
    monkeypatch.setattr(ids, "MOST_OPEN", 1)
    shutil.copy(path, tmp_path / "second.bin")
    known = digests(path)
    files = [NumberFile(name, "<u2", len(VALUES), digests=known) for name in (path, tmp_path / "second.bin")]
    rows = TokenIds(files, LENGTH)
    both = np.array([3, 4003])
    rows.rows(both)
    (tmp_path / "other").write_bytes(bytes(8000))
    os.replace(tmp_path / "other", path)  # closed at this moment
    with pytest.raises(UnreadableError, match=r"ids\.bin is damaged .* another file has taken its place"):
        rows.rows(both)


def test_a_whole_file_is_compared_with_its_checksum_once_and_with_its_stamp_after_every_reading(path):
    whole = WholeFile(path, hash_file(path))
    whole.check()
    whole.begin()
    whole.check()
    path.chmod(0o600)
    whole.check()
    overwrite(path, VALUES[::-1])
    with pytest.raises(UnreadableError, match=r"ids\.bin changed while it was being read: it was written to"):
        whole.check()
    again = WholeFile(path, hash_file(path.with_name("ids.bin")))
    overwrite(path, VALUES)
    again.begin()
    with pytest.raises(UnreadableError, match=r"ids\.bin does not match its checksum"):
        again.check()
    gone = WholeFile(path, hash_file(path))
    path.unlink()
    gone.begin()
    with pytest.raises(FileNotFoundError):
        gone.check()
