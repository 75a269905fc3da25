"""Tokenizing workers are killed at any point of a chunk, or while the chunks are joined; then everything is run again.

An attempt draws a chunk size, forks one to three workers that share the chunks, kills one or more at a named point or
at a random time, may damage a finished chunk, kills the joining too, runs again, and compares: TOKENS have the
fingerprint of an uninterrupted run in one chunk, no intact chunk is redone, and nothing else is left next to them.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

from rich.console import Console

from curriculum.artifact.manifest import open_manifest, verify
from curriculum.text.text import TextSettings
from curriculum.tokens.encode import one_thread
from curriculum.tokens.job import TextJob, TextWorker
from curriculum.tokens.settings import PrepareSettings
from curriculum.tokens.tokenizer import TokenizerSettings
from curriculum.tokens.tokens import KIND
from tests.torture.campaign import Tally, case_seeds
from tests.torture.scoring import JOINS, POINTS, fork, was_killed
from train import faults

FULL = 500
MOST_WORKERS = 3
CHUNK_BYTES = (900, 2500, 6000)


def run(count: int, seed: int, work: Path) -> Tally:
    """Make `count` attempts, each with one or more kills; every attempt must end with the same fingerprint."""
    tally = Tally("prepare", seed=seed)
    text = _text(work / "text")
    with one_thread():
        plain = _job(text, work / "plain", None)
        _tokenise(plain, 0, 1)
        plain.finish()
        expected = open_manifest(work / "plain", KIND).fingerprint
        kills = 0
        for case in case_seeds(seed, count):
            folder = work / f"case-{case}"
            problem, killed = _attempt(text, folder, expected, random.Random(case))
            kills += killed
            tally.add(case, problem)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(folder.with_name(f"{folder.name}.chunks"), ignore_errors=True)
    tally.notes.append(f"{kills} processes were killed")
    return tally


def _attempt(text: Path, folder: Path, expected: str, draw: random.Random) -> tuple[str | None, int]:
    size, killed = draw.choice(CHUNK_BYTES), 0
    job = _job(text, folder, size)
    with job.store.held():
        job.begin()
    workers = []
    count = draw.randint(1, MOST_WORKERS)
    for number in range(count):
        fate = draw.choice(POINTS) if number == 0 or draw.random() < 0.5 else ""
        drill = f"{fate}:nth={draw.randint(1, 6)}" if fate else ""
        workers.append(fork(lambda n=number: _tokenise(_job(text, folder, size), n, count), drill))
    if draw.random() < 0.3:
        time.sleep(draw.uniform(0, 0.05))
        os.kill(workers[-1], signal.SIGKILL)
    killed += sum(was_killed(worker) for worker in workers)
    sound = {path.name: path.stat().st_ino for path in job.store.folder.glob("*.chunk")}
    if sound and draw.random() < 0.3:
        damaged = draw.choice(sorted(sound))
        del sound[damaged]
        data = bytearray((job.store.folder / damaged).read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (job.store.folder / damaged).write_bytes(data)
    if was_killed(fork(lambda: _tokenise(_job(text, folder, size), 0, 1, missing=True), "")):
        return "the second run was killed by something else", killed
    after = {path.name: path.stat().st_ino for path in job.store.folder.glob("*.chunk")}
    twice = [name for name, inode in sound.items() if after.get(name) != inode]
    if twice:
        return f"{twice[0]} was finished and was redone", killed
    if len(after) != len(job.chunks):
        return f"{len(after)} of {len(job.chunks)} chunks exist after the second run", killed
    drill = draw.choice((*JOINS, ""))
    joining = fork(lambda: _job(text, folder, size).finish(), drill)
    if not drill:
        time.sleep(draw.uniform(0, 0.03))
        os.kill(joining, signal.SIGKILL)
    killed += was_killed(joining)
    if _job(text, folder, size).reused() is None:
        _job(text, folder, size).finish()
    verify(folder)
    if open_manifest(folder, KIND).fingerprint != expected:
        return "the tokens are not those of an uninterrupted run", killed
    left = [path.name for path in folder.parent.glob(f"*{folder.name}?*")]
    if left:
        return f"{left[0]} is left", killed
    return None, killed


def _tokenise(job: TextJob, number: int, workers: int, missing: bool = False) -> None:
    left = job.begin() if missing or workers == 1 else job.chunks
    worker = TextWorker(job)
    for chunk in left[number::workers]:
        worker.do(chunk)


def _job(text: Path, folder: Path, chunk_bytes: int | None) -> TextJob:
    settings = PrepareSettings(
        input=TextSettings(paths=[str(text)]),
        tokenizer=TokenizerSettings(name="train:280"),
        seq_len=16,
        chunk_bytes=chunk_bytes,
        output=str(folder),
    )
    return TextJob(settings, Console(file=io.StringIO()), mark=faults.fault)


def _text(folder: Path) -> Path:
    """Write documents of three sources: plain, compressed and as text files."""
    draw = random.Random(0)
    folder.mkdir()
    words = ["the", "cat", "sat", "\u4e2d\u6587", "return", "x\n", "<|endoftext|>", "1234"]
    rows = [
        {"text": " ".join(draw.choices(words, k=draw.randrange(0, 60))), "source": ("web", "code", "books")[i % 3]}
        for i in range(200)
    ]
    lines = ["".join(json.dumps(row) + "\n" for row in part).encode() for part in (rows[:120], rows[120:])]
    (folder / "a.jsonl").write_bytes(lines[0])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines[1], mtime=0))
    for name, text in (("c.txt", "some words"), ("d.txt", "")):
        (folder / name).write_text(text)
    return folder
