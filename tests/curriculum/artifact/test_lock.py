"""One holder at a time, whose name a second one reads; free when its process ends, however it ends."""

import errno
import fcntl
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.lock import CannotLock, Held, Lock, is_held

HOLD = """
import sys, time
from pathlib import Path
from curriculum.artifact.lock import Lock
sys.argv = ["/opt/bin/pdpc", "train", "data=secret", "verb"]
lock = Lock(Path({path!r}), "run r")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/lock."""
    command = [sys.executable, "-c", HOLD.format(path=str(tmp_path / "lock"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_holder_is_refused_and_reads_who_has_it(tmp_path, holder):
    who = f"pid {holder.pid} on {socket.gethostname()}: bin/pdpc train"
    message = f"run r is being written by another process ({who}): wait for it, or choose another output"
    with pytest.raises(Held, match=f"^{re.escape(message)}$"):
        Lock(tmp_path / "lock", "run r")
    assert issubclass(Held, ArtifactError)


def test_a_killed_holder_leaves_it_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Lock(tmp_path / "lock", "run r"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "lock").read_text()


def test_who_waits_gets_it_when_it_is_released(tmp_path, caplog, monkeypatch):
    first = Lock(tmp_path / "lock", "run r")
    monkeypatch.setattr(time, "sleep", lambda _: first.release())
    with Lock(tmp_path / "lock", "run r", wait_s=30.0):
        pass
    assert caplog.text.count("run r is being written by another process (pid ") == 1
    assert "waiting for up to 30 s" in caplog.text
    first.release()


def test_a_released_lock_names_nobody(tmp_path):
    with Lock(tmp_path / "lock", "run r"):
        pass
    assert (tmp_path / "lock").read_text() == ""


def test_a_file_that_names_nobody_is_held_all_the_same(tmp_path):
    with Lock(tmp_path / "lock", "run r"):
        for text in ("", "[1]", "{}", "\x00", '{"pid": '):
            (tmp_path / "lock").write_text(text)
            with pytest.raises(Held, match="another process: wait"):
                Lock(tmp_path / "lock", "run r")


def test_a_folder_removed_by_its_holder_is_made_again(tmp_path):
    folder = tmp_path / "deep" / "folder"
    first = Lock(folder / "lock", "folder")
    shutil.rmtree(folder)
    with Lock(folder / "lock", "folder"), pytest.raises(Held):
        Lock(folder / "lock", "folder")
    first.release()


def test_a_program_that_was_started_does_not_keep_it(tmp_path):
    lock = Lock(tmp_path / "lock", "run r")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        lock.release()
        Lock(tmp_path / "lock", "run r").release()
        process.kill()


def test_a_forked_child_keeps_it(tmp_path):
    lock = Lock(tmp_path / "lock", "run r")
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    lock.release()
    with pytest.raises(Held):
        Lock(tmp_path / "lock", "run r")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    Lock(tmp_path / "lock", "run r").release()


def test_a_file_that_cannot_be_written_is_an_error_of_the_disk(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(OSError, match="lock"):
        Lock(tmp_path / "lock", "run r")


def test_is_held_tells_a_holder_from_a_killed_one_and_from_one_elsewhere(holder, tmp_path):
    path = tmp_path / "lock"
    assert is_held(path) is True
    holder.kill()
    holder.wait()
    assert is_held(path) is False
    assert is_held(tmp_path / "none") is False
    path.write_text('{"pid": 1, "host": "another", "machine": "another.0123abcd", "command": "pdpc train"}')
    assert is_held(path) is None
    Lock(path, "run r", local=True).release()
    assert is_held(path) is False


def test_who_may_only_read_the_folder_cannot_open_the_lock(tmp_path):
    (tmp_path / "lock").touch(0o644)  # as an earlier version left it
    Lock(tmp_path / "lock", "run r").release()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    for mode, expected in ((0o775, 0o660), (0o777, 0o666), (0o1777, 0o660)):
        folder = tmp_path / f"{mode:o}"
        folder.mkdir()
        folder.chmod(mode)
        Lock(folder / "lock", "run r").release()
        assert (folder / "lock").stat().st_mode & 0o777 == expected


def test_a_lock_of_another_user_names_its_owner(tmp_path, monkeypatch):
    (tmp_path / "lock").touch(0o600)

    def denied(path, flags, mode=0o777):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("curriculum.artifact.files.os.open", denied)
    owner = pwd.getpwuid(os.getuid()).pw_name
    with pytest.raises(PermissionError, match=f"Permission denied: it is {owner}'s: '.*lock'"):
        Lock(tmp_path / "lock", "run r")


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_named_as_that(tmp_path, code, monkeypatch):
    def fails(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("curriculum.artifact.lock.fcntl.flock", fails)
    message = rf"lock is on a file system that cannot lock files \(flock: {os.strerror(code)}\).*another file system"
    with pytest.raises(CannotLock, match=message):
        Lock(tmp_path / "lock", "run r")


def test_a_holder_that_was_killed_on_another_machine_is_watched_before_its_lock_is_taken(tmp_path, monkeypatch, caplog):
    path = tmp_path / "lock"
    path.write_text('{"pid": 7, "host": "node7", "machine": "node7.0123abcd", "command": "bin/pdpc train"}')
    monkeypatch.setattr("curriculum.artifact.lock.SILENT_S", 0.3)
    began = time.monotonic()
    with Lock(path, "run r"):
        assert time.monotonic() - began >= 0.3
        assert f'"pid": {os.getpid()}' in path.read_text()
    assert "run r was last written (pid 7 on node7: bin/pdpc train): waiting for 0.3 s to be sure" in caplog.text
    path.write_text('{"pid": 7, "host": "node7", "machine": "node7.0123abcd", "command": "bin/pdpc train"}')
    began = time.monotonic()
    Lock(path, "swap files", local=True).release()
    assert time.monotonic() - began < 0.3


def test_a_holder_updates_its_file_and_stops_when_it_releases(tmp_path, monkeypatch):
    monkeypatch.setattr("curriculum.artifact.lock.BEAT_S", 0.01)
    before = set(threading.enumerate())
    lock = Lock(tmp_path / "lock", "run r")
    os.utime(tmp_path / "lock", (0, 0))
    deadline = time.monotonic() + 30
    while (tmp_path / "lock").stat().st_mtime == 0:
        assert time.monotonic() < deadline
    lock.release()
    assert set(threading.enumerate()) <= before


def test_a_reader_that_tests_the_lock_does_not_refuse_a_writer(tmp_path):
    Lock(tmp_path / "lock", "run r").release()
    with open(tmp_path / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        Lock(tmp_path / "lock", "run r").release()
