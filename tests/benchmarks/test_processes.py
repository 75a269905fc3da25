"""A side runs in a separate process, whose memory and failure are reported."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.processes import SideError, below, evict, measure, peak_bytes, shared_once_bytes
from benchmarks.score_file import draw, read_scores, write_scores

LARGE = 64 << 20


def test_a_side_reports_its_time_and_its_own_peak(tmp_path: Path) -> None:
    np.concatenate(list(draw(100_000, 0))).tofile(tmp_path / "scores.f32")
    settings = {"scores": str(tmp_path / "scores.f32"), "preference": "pdpc", "batch_size": 64, "seed": 0}
    facts = measure("arrange_memory", "numpy", settings, tmp_path)
    assert facts["id_sum"] == 100_000 * 99_999 // 2
    assert 0 < facts["seconds"] < 60
    assert 10 << 20 < facts["peak_bytes"] <= facts["peak_bound_bytes"] < 2 << 30


def test_a_side_that_fails_is_an_error_with_its_last_output(tmp_path: Path) -> None:
    with pytest.raises(SideError, match=r"(?s)'numpy' of arrange_memory ended with code 1.*nothing\.f32"):
        measure("arrange_memory", "numpy", {"scores": str(tmp_path / "nothing.f32")}, tmp_path)


def test_descendants_are_found_with_their_own_peaks() -> None:
    inner = f"import time; x = bytearray({LARGE}); print('ready', flush=True); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    parent = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        (child,) = below(parent.pid)
        assert LARGE < peak_bytes(child) < LARGE + (64 << 20)
        assert LARGE < shared_once_bytes(child) <= peak_bytes(child)
        assert peak_bytes(parent.pid) < LARGE
        subprocess.run(["kill", str(child)], check=True)
    finally:
        parent.wait(10)
    time.sleep(0.01)
    assert peak_bytes(child) == 0


def test_scores_depend_only_on_the_seed_and_are_read_as_written(tmp_path: Path) -> None:
    path = write_scores(tmp_path, 3000, 5)
    score_N = np.concatenate(list(read_scores(path)))
    assert score_N.dtype == np.float32
    assert np.array_equal(score_N, np.concatenate(list(draw(3000, 5))))
    assert not np.array_equal(score_N, np.concatenate(list(draw(3000, 6))))
    assert score_N.mean() == pytest.approx(0.35, abs=0.01)
    evict(tmp_path)
    with_ids = write_scores(tmp_path, 3000, 5, compression="zstd", sample_column=True)
    assert np.array_equal(np.concatenate(list(read_scores(with_ids))), score_N)
