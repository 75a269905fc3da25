import numpy as np
import pytest

from curriculum.artifact.drafts import machine
from curriculum.artifact.files import ArtifactError
from curriculum.work.chunks import ChunkFolder, cut, cut_text


def test_chunks_are_whole_batches_and_cover_every_sample_once():
    chunks = cut({"train": 103, "validation": 5}, seq_len=10, batch_size=4, tokens=200)
    assert [(c.slice, c.start, c.stop) for c in chunks[:2]] == [("train", 0, 20), ("train", 20, 40)]
    for name, count in (("train", 103), ("validation", 5)):
        spans = [(c.start, c.stop) for c in chunks if c.slice == name]
        assert [i for start, stop in spans for i in range(start, stop)] == list(range(count))


def test_a_chunk_comes_back_and_a_damaged_one_is_missing(tmp_path):
    folder = ChunkFolder(tmp_path / "chunks", {"a": 1})
    folder.begin()
    chunks = cut({"train": 8}, 10, 4, 40)
    columns = {"loss": np.arange(4, dtype=np.float32), "tokens": np.full(4, 9, dtype=np.int32)}
    for chunk in chunks:
        folder.write(chunk, columns)
    assert folder.missing(chunks) == []
    back = folder.read(chunks[0])
    assert {name: column.tolist() for name, column in back.items()} == {n: c.tolist() for n, c in columns.items()}
    path = folder.folder / chunks[1].name
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    left = folder.folder / f".{chunks[0].name}.tmp-{machine()}-999999999-0123abcd"
    elsewhere = folder.folder / f".{chunks[0].name}.tmp-node7.0123abcd-999999999-0123abcd"
    for draft in (left, elsewhere):
        draft.write_bytes(b"half")
    assert folder.missing(chunks) == [chunks[1]]
    assert (left.exists(), elsewhere.exists()) == (False, True)


def test_a_chunk_of_several_blocks_comes_back_block_by_block(tmp_path):
    folder = ChunkFolder(tmp_path / "chunks", {"a": 1})
    folder.begin()
    (chunk,) = cut_text(10, 1)
    folder.write_blocks(chunk, ({"ids": np.arange(size, dtype=np.uint16)} for size in (3, 0, 5)))
    assert [block["ids"].tolist() for block in folder.blocks(chunk)] == [[0, 1, 2], [], [0, 1, 2, 3, 4]]
    path = folder.folder / chunk.name
    data = path.read_bytes()
    border = data.rindex(b"{")
    for broken in (data[:border], data[:-1], data + b"x", data[border:], data[:border] + data):
        path.write_bytes(broken)
        assert folder.missing([chunk]) == [chunk]
    path.write_bytes(data)
    assert folder.missing([chunk]) == []
    folder.add_dependency("another tokenizer")
    assert folder.missing([chunk]) == [chunk]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    folder = ChunkFolder(tmp_path / "chunks", {"a": 1})
    (chunk,) = cut_text(10, 1)

    def blocks():
        yield {"ids": np.arange(3)}
        raise ValueError("a broken line")

    folder.begin()
    with pytest.raises(ValueError, match="a broken line"), folder.held():
        folder.write_blocks(chunk, blocks())
    assert not folder.folder.exists()


def test_chunks_of_a_text_cover_every_place_once():
    chunks = cut_text(10, 4, 12)
    assert [(c.start, c.stop) for c in chunks] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert [len(cut_text(places, 1)) for places in (1, 1 << 18, 1 << 30, 1 << 40)] == [1, 1, 1024, 1 << 15]
    assert [(c.start, c.stop) for c in cut_text(3, 1 << 62)] == [(0, 1), (1, 2), (2, 3)]


def test_another_plan_and_a_second_writer_are_refused(tmp_path):
    first = ChunkFolder(tmp_path / "c", {"config": {"precision": "fp32"}})
    for plan in ({"config": {"precision": "bf16"}}, first.plan):  # without a chunk, there is nothing to lose
        ChunkFolder(tmp_path / "c", plan).begin()
    first.write(cut({"train": 4}, 10, 4, 40)[0], {"loss": np.zeros(4)})
    other = ChunkFolder(tmp_path / "c", {"config": {"precision": "bf16"}})
    with pytest.raises(ArtifactError, match=r"config.precision: was 'fp32', now 'bf16'"):
        other.begin()
    with other.held(), pytest.raises(ArtifactError, match=r"c is being written by another process \(pid"), other.held():
        pass


@pytest.mark.parametrize("name", ["notes.txt", "data.jsonl"])
def test_a_folder_with_other_files_is_neither_cleared_nor_removed(tmp_path, name):
    folder = ChunkFolder(tmp_path / "chunks", {"a": 1})
    folder.folder.mkdir()
    (folder.folder / name).write_text("mine")
    with (
        pytest.raises(ArtifactError, match=rf"contains other files \({name}\), and unfinished work is kept"),
        folder.held(),
    ):
        pass
    folder.remove()
    assert [path.name for path in folder.folder.iterdir()] == [name]


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path):
    """What lies behind it may have the names of ours, and would be cleared."""
    (tmp_path / "model" / "tokenizer").mkdir(parents=True)
    (tmp_path / "chunks").symlink_to(tmp_path / "model")
    linked = ChunkFolder(tmp_path / "chunks", {"a": 1})
    with pytest.raises(ArtifactError, match=r"is a link to .*model, and is not followed"), linked.held():
        raise AssertionError("held")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["tokenizer"]


def test_no_setting_makes_more_chunks_than_a_folder_can_hold():
    with pytest.raises(ValueError, match=r"chunk_bytes makes 1,099,511,627,776 chunks, .*: raise it"):
        cut_text(1 << 40, 1, 1)
    with pytest.raises(ValueError, match=r"chunk_tokens makes 1,099,511,627,776 chunks, .*: raise it"):
        cut({"train": 1 << 40}, 10, 1, 1)
