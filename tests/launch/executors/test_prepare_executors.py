"""`pdpc prepare` by processes, ranks and actors: the same bytes with every executor, whichever worker dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.cli import main
from tests.conftest import write_text
from tests.launch.executors.ray_cluster import losing_an_actor
from tests.train.descendants import descendants

CHUNKS = 9


@pytest.fixture(scope="module")
def words(tmp_path_factory, tokens_folder):
    """Arguments common to all commands (all but output and engine), for a text of CHUNKS chunks."""
    text = tmp_path_factory.mktemp("prepare") / "text"
    write_text(text, 200)
    size = -(-(text / "text.jsonl").stat().st_size // CHUNKS)
    common = [f"input.paths=[{text}]", f"tokenizer.name={tokens_folder / 'tokenizer'}", "seq_len=32"]
    return [*common, f"chunk_bytes={size}"]


@pytest.fixture(scope="module")
def expected(words, tmp_path_factory):
    """The files written by one uninterrupted process."""
    folder = tmp_path_factory.mktemp("plain") / "tokens"
    assert main(["prepare", *words, "processes=1", f"output={folder}"]) == 0
    return files(folder)


def files(folder: Path) -> dict[str, object]:
    found = {path.name: path.read_bytes() for path in folder.glob("*.bin")}
    return {**found, "fingerprint": json.loads((folder / "manifest.json").read_text())["fingerprint"]}


@pytest.mark.parametrize(("processes", "fault"), [(2, "chunk.before_rename:nth=5"), (3, "")])
def test_processes_one_of_which_dies(words, expected, tmp_path, monkeypatch, caplog, processes, fault):
    monkeypatch.setenv("PDPC_FAULT", fault)  # one of two processes gets at least five of the nine chunks
    assert main(["prepare", *words, f"processes={processes}", f"output={tmp_path / 'tokens'}"]) == 0
    assert ("died with exit code -9: starting a replacement" in caplog.text) == bool(fault)
    assert files(tmp_path / "tokens") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_a_worker_reports_an_error_in_the_text(tmp_path, capsys, words):
    lines = [json.dumps({"text": f"text {i}", "source": "s"}) for i in range(100)]
    (tmp_path / "text.jsonl").write_text("\n".join([*lines, "{"]))
    settings = [f"input.paths=[{tmp_path}/text.jsonl]", words[1], "seq_len=32", "chunk_bytes=1000", "processes=2"]
    assert main(["prepare", *settings, f"output={tmp_path / 'tokens'}"]) == 2
    assert "text.jsonl, line 101: invalid JSON" in capsys.readouterr().err
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGINT, signal.SIGINT]], ids=["killed", "interrupted"])
def test_workers_end_with_their_parent_and_the_next_run_resumes(tmp_path, words, expected, contained, signals):
    """The workers hang in their third chunks, so that the work cannot finish before the signals arrive."""
    output = tmp_path / "tokens"
    program = [sys.executable, "-m", "launch.cli", "prepare", *words, f"output={output}", "processes=2"]
    faulty = {**contained, "PDPC_FAULT": "chunk.before_rename:nth=3:hang"}
    started = subprocess.Popen(program, env=faulty, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("tokens.chunks/*.chunk"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        for number in signals:
            started.send_signal(number)
            time.sleep(0.02)
        assert started.wait(timeout=30) != 0
    finally:
        started.kill()
        started.wait(timeout=30)
    assert len(list(tmp_path.glob("tokens.chunks/*.chunk"))) == 4
    assert not output.exists()
    assert main(["prepare", *words, f"output={output}", "processes=1"]) == 0
    assert files(output) == expected


def test_actors_of_a_ray_cluster_one_of_which_is_killed(words, expected, tmp_path, monkeypatch):
    small = [word for word in words if not word.startswith("chunk_bytes")]
    with losing_an_actor(monkeypatch) as killed:
        assert main(["prepare", *small, "chunk_bytes=500", "engine=ray", f"output={tmp_path / 'tokens'}"]) == 0
    assert killed
    assert files(tmp_path / "tokens") == expected


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
def test_ctrl_c_while_workers_start_prints_one_line(words, tmp_path, delay_s):
    """A terminal sends SIGINT to the whole process group, workers that are still importing included.

    No worker gets past its first chunk, so that the work cannot finish before.
    """
    faulty = {**os.environ, "PDPC_FAULT": "chunk.before_write:hang"}
    command = [sys.executable, "-m", "launch.cli", "prepare", *words, "processes=2", f"output={tmp_path / 'tokens'}"]
    process = subprocess.Popen(
        command, env=faulty, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(descendants(process.pid)) < 3 and time.monotonic() < deadline:  # two workers and the resource tracker
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "Traceback" not in out
    assert out.count("interrupted; run the same command again to resume") == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_ends_prepare_with_75_and_one_line(tmp_path, capfd, words, monkeypatch, processes):
    monkeypatch.setenv("PDPC_FAULT", "chunk.half_written:nth=2:raise")
    output = tmp_path / "tokens"
    assert main(["prepare", *words, f"processes={processes}", f"output={output}"]) == 75
    printed = capfd.readouterr().err
    assert "pdpc prepare: [Errno 28] No space left on device" in printed
    assert "Traceback" not in printed
    assert not output.exists()
    assert not list((tmp_path / "tokens.chunks").glob("*.tmp-*"))
