import numpy as np
import pytest

from curriculum.artifact import ArtifactError
from curriculum.chunks import ChunkFolder, cut


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
    (folder.folder / f"{chunks[0].name}.tmp-x-1").write_bytes(b"half")
    assert folder.missing(chunks) == [chunks[1]]
    assert not list(folder.folder.glob("*.tmp-*"))


def test_another_plan_and_a_second_writer_are_refused(tmp_path):
    ChunkFolder(tmp_path / "c", {"config": {"precision": "fp32"}}).begin()
    other = ChunkFolder(tmp_path / "c", {"config": {"precision": "bf16"}})
    with pytest.raises(ArtifactError, match=r"config.precision: 'fp32' there, 'bf16' now"):
        other.begin()
    with other.held(), pytest.raises(ArtifactError, match="another process is writing"), other.held():
        pass
