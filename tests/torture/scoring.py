"""Scoring workers are killed at any point of a chunk, or while the chunks are joined; then everything is run again.

An attempt forks two workers that share the chunks, kills one or both at a named point or at a random time, may kill the
joining too, runs again, and compares: the scores have the bytes of an uninterrupted run, no finished chunk is redone,
and none is missing.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from curriculum.artifact.manifest import verify
from curriculum.scores.job import NOTES, ScoringJob
from curriculum.scores.scorer import ChunkScorer, Reference, ScoringOptions
from curriculum.tokens.tokens import Tokens
from curriculum.work.chunks import Chunk
from tests.torture.campaign import Tally, case_seeds
from train import faults

FULL = 500
WORKERS = 2
POINTS = ("chunk.before_write", "chunk.half_written", "chunk.before_rename", "chunk.after_write")
JOINS = ("chunk.before_join", "chunk.after_join")
OPTIONS = ScoringOptions(4, "fp32")
SAMPLES = {"books": 61, "code": 90}


def run(count: int, seed: int, work: Path) -> Tally:
    """Make `count` attempts, each with one or more kills; every attempt must end with the same bytes."""
    import torch

    torch.set_num_threads(1)
    tally = Tally("scoring", seed=seed)
    tokens = _tokens(work / "tokens")
    scorer = ChunkScorer({"train": tokens}, _references(tokens), OPTIONS)
    plain = _job(work / "plain", tokens)
    _score(plain, scorer, 0, 1, plain.chunks)
    plain.finish(quiet=True)
    expected = (work / "plain" / "train.parquet").read_bytes()
    kills = 0
    for case in case_seeds(seed, count):
        folder = work / f"case-{case}"
        problem, killed = _attempt(folder, tokens, scorer, expected, random.Random(case))
        kills += killed
        tally.add(case, problem)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder.with_name(f"{folder.name}.chunks"), ignore_errors=True)
    tally.notes.append(f"{kills} processes were killed; {len(plain.chunks)} chunks of two models per attempt")
    return tally


def _attempt(
    folder: Path, tokens: Tokens, scorer: ChunkScorer, expected: bytes, draw: random.Random
) -> tuple[str | None, int]:
    job, killed = _job(folder, tokens), 0
    with job.store.held():
        job.store.begin()
    job.store.note(NOTES, scorer.notes())
    workers = []
    for number in range(WORKERS):
        fate = draw.choice(POINTS) if number == 0 or draw.random() < 0.5 else ""
        drill = f"{fate}:nth={draw.randint(1, 6)}" if fate else ""
        workers.append(fork(lambda n=number: _score(job, scorer, n, WORKERS, job.chunks), drill))
    if draw.random() < 0.3:
        time.sleep(draw.uniform(0, 0.05))
        os.kill(workers[-1], signal.SIGKILL)
    killed += sum(was_killed(worker) for worker in workers)
    before = {path.name: path.stat().st_ino for path in job.store.folder.glob("*.chunk")}
    again = fork(lambda: _score(job, scorer, 0, 1, job.store.missing(job.chunks)), "")
    if was_killed(again):
        return "the second run was killed by something else", killed
    after = {path.name: path.stat().st_ino for path in job.store.folder.glob("*.chunk")}
    twice = [name for name, inode in before.items() if after.get(name) != inode]
    if twice:
        return f"{twice[0]} was finished and was redone", killed
    if len(after) != len(job.chunks):
        return f"{len(after)} of {len(job.chunks)} chunks exist after the second run", killed
    killed += was_killed(fork(lambda: job.finish(quiet=True), draw.choice(JOINS)))
    if _job(folder, tokens).reused() is None:
        _job(folder, tokens).finish(quiet=True)
    verify(folder)
    if (folder / "train.parquet").read_bytes() != expected:
        return "the scores are not those of an uninterrupted run", killed
    if list(folder.parent.glob(f"{folder.name}.chunks")):
        return "the chunks are still there", killed
    return None, killed


def fork(action: Callable[[], object], drill: str) -> int:
    """Run an action in a forked process with a fault armed; return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        faults.arm(drill)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        action()
        code = 0
    finally:
        os._exit(code)


def was_killed(pid: int) -> bool:
    """Wait for a forked process; return whether it was killed."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL), f"a worker ended with {code}"
    return code != 0


def _score(job: ScoringJob, scorer: ChunkScorer, number: int, workers: int, chunks: list[Chunk]) -> None:
    job.store.begin()
    job.store.note(NOTES, scorer.notes())
    for chunk in chunks[number::workers]:
        job.store.write(chunk, scorer.score(chunk))


def _job(folder: Path, tokens: Tokens) -> ScoringJob:
    identities = {"weak": "0", "strong": "1"}
    return ScoringJob(folder, {"train": tokens}, identities, OPTIONS, chunk_tokens=32, mark=faults.fault)


def _references(tokens: Tokens) -> dict[str, Reference]:
    from models.config import DecoderConfig
    from models.decoder import build

    config = DecoderConfig(
        vocab_size=tokens.vocab_size,
        layers=1,
        width=16,
        heads=2,
        kv_heads=1,
        ffn=24,
        max_seq_len=32,
        end_of_text=tokens.end_of_text,
    )
    return {name: Reference(build(config, seed), str(seed), None, None) for seed, name in enumerate(("weak", "strong"))}


def _tokens(folder: Path) -> Tokens:
    """Write TOKENS of two sources of random documents, with samples of 4 tokens."""
    from tests.curriculum.conftest import write_tokens

    return write_tokens(folder, SAMPLES)
