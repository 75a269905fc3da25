"""Array files with one checksum per block: damage is found in the blocks that are read, and only those are checked."""

import numpy as np
import pytest

from curriculum.artifact import blocks, guard
from curriculum.artifact.blocks import BlockArray, Blocks, BlockWriter, hash_blocks, write_blocks
from curriculum.artifact.create import create
from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import open_manifest

VALUES = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    for module in (guard, blocks):
        monkeypatch.setattr(module, "BLOCK_BYTES", 64)


@pytest.fixture
def folder(tmp_path):
    """An artifact of two arrays, written in pieces that do not align with the blocks."""
    with create(tmp_path / "thing", "thing", config={}, inputs={}) as draft:
        writers = {}
        for name, pieces in (("a.bin", (1, 16, 0, 15, 100, 333, 535)), ("b.bin", (7,))):
            with BlockWriter(draft.path / name, "<u4") as writer:
                start = 0
                for size in pieces:
                    writer.write(VALUES[start : start + size])
                    start += size
            writers[name] = writer
        draft.facts["blocks"] = write_blocks(draft.path, {name: made.hashes.digests for name, made in writers.items()})
        draft.entries.update({name: made.hashes.entry for name, made in writers.items()})
    return tmp_path / "thing"


def opened(folder, name="a.bin", rows=1000, width=0):
    manifest = open_manifest(folder, "thing")
    digests = Blocks(folder, manifest).of(name, manifest.files[name].bytes)
    return BlockArray(folder / name, "<u4", rows, digests, width)


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_what_was_written_is_read(folder):
    assert len(opened(folder)) == 1000
    for start, stop in ((0, 1000), (0, 1), (15, 17), (999, 1000), (5, 5), (7, 3), (-3, 1000)):
        assert opened(folder)[start:stop].tolist() == VALUES[start:stop].tolist()
    assert opened(folder, "b.bin", 7)[:].tolist() == VALUES[:7].tolist()
    assert opened(folder, rows=250, width=4)[3:5].tolist() == VALUES[12:20].reshape(2, 4).tolist()


@pytest.mark.parametrize("where", [slice(None), slice(None, None, -1), slice(999, None, -7), slice(3, None, 5)])
def test_every_flipped_bit_is_found_however_the_rows_are_taken(folder, where):
    assert opened(folder)[where].tolist() == VALUES[where].tolist()
    for bit in range(0, 32_000, 331):
        flip(folder / "a.bin", bit)
        with pytest.raises(ArtifactError, match=rf"a\.bin is damaged between bytes {bit // 512 * 64} and "):
            opened(folder)[where]
        flip(folder / "a.bin", bit)


def test_only_what_is_touched_is_looked_at(folder):
    flip(folder / "a.bin", 8 * 2000)  # block 31: rows 496 to 511
    array = opened(folder)
    assert array[0:496].tolist() == VALUES[:496].tolist()
    assert array[512:].tolist() == VALUES[512:].tolist()
    assert array[500:500].tolist() == []
    for start, stop in ((495, 497), (511, 512), (0, 1000)):
        with pytest.raises(ArtifactError, match="between bytes 1984 and 2048"):
            array[start:stop]


def test_a_block_is_checked_once(folder, monkeypatch):
    array = opened(folder)
    checked = []
    digest = guard.xxhash.xxh3_64_intdigest
    monkeypatch.setattr(guard.xxhash, "xxh3_64_intdigest", lambda data: checked.append(1) or digest(data))
    array[0:16], array[3:9], array[0:17]
    assert len(checked) == 2


def test_damaged_checksums_are_found_at_the_door(folder):
    for bit in range(0, 8 * (folder / "blocks.bin").stat().st_size, 97):
        flip(folder / "blocks.bin", bit)
        with pytest.raises(ArtifactError, match=r"blocks\.bin does not match its checksum"):
            opened(folder)
        flip(folder / "blocks.bin", bit)


def test_files_of_another_length_or_place_are_named(folder):
    with pytest.raises(ArtifactError, match=r"a\.bin has 4000 bytes instead of 3996"):
        opened(folder, rows=999)
    (folder / "a.bin").write_bytes(bytes(4000))
    with pytest.raises(ArtifactError, match="is damaged between bytes 0 and 64"):
        opened(folder)[0:1]
    (folder / "a.bin").write_bytes(VALUES.tobytes()[64:] + VALUES.tobytes()[:64])
    with pytest.raises(ArtifactError, match="is damaged between bytes 0 and 64"):
        opened(folder)[0:1]
    (folder / "a.bin").write_bytes(VALUES.tobytes()[:-1])
    with pytest.raises(ArtifactError, match="has 3999 bytes instead of 4000: it is damaged"):
        opened(folder)


def test_an_empty_file_has_no_blocks(tmp_path):
    with BlockWriter(tmp_path / "a.bin", "<u4") as writer:
        writer.write(VALUES[:0])
    assert (writer.hashes.digests, writer.hashes.entry.bytes) == ([], 0)
    array = BlockArray(tmp_path / "a.bin", "<u4", 0, np.zeros(0, np.uint64))
    assert (len(array), array[:].tolist()) == (0, [])


def test_files_are_hashed_alike_when_they_are_written_and_when_they_are_read(folder):
    found = hash_blocks(folder / "a.bin")
    manifest = open_manifest(folder, "thing")
    assert found.entry == manifest.files["a.bin"]
    assert found.digests == Blocks(folder, manifest).of("a.bin", 4000).tolist()
    assert Blocks(folder, manifest).of("c.bin", 4000) is None
    with pytest.raises(ArtifactError, match=r"blocks\.bin has 64 checksums of a\.bin, which has 70 blocks"):
        Blocks(folder, manifest).of("a.bin", 70 * 64)
