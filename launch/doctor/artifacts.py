"""Are the run's inputs whole, and do they fit each other?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from curriculum.artifact.manifest import read_manifest, verify
from launch.doctor.check import Finding, Subject, ok, refused
from train.evaluation.harness.tasks import BenchmarkSettings
from train.memory.footprint import size_of


def tokens(subject: Subject) -> Iterator[Finding]:
    """Verify TOKENS."""
    if subject.has("data.tokens"):
        yield _verified(subject, Path(subject.settings.data.tokens), "tokens")


def order(subject: Subject) -> Iterator[Finding]:
    """Verify ORDER."""
    if subject.has("data.order"):
        yield _verified(subject, Path(subject.settings.data.order), "order")


def scores(subject: Subject) -> Iterator[Finding]:
    """Verify SCORES."""
    if subject.settings.data.scores is not None:
        yield _verified(subject, Path(subject.settings.data.scores), "scores")


def inputs(subject: Subject) -> Iterator[Finding]:
    """Open everything as `train` does before it starts."""
    from train.inputs import check_scores, open_inputs

    if not subject.has("data.tokens", "data.order"):
        return
    try:
        found = open_inputs(replace(subject.settings, benchmarks=BenchmarkSettings()))
        check_scores(subject.settings, found)
    except (ValueError, OSError) as error:
        yield refused(error)
        return
    yield ok(
        f"{len(found.order):,} samples of {found.tokens.seq_len} tokens in {found.order.steps} steps, "
        f"{found.decoder.parameter_count():,} parameters"
    )


def _verified(subject: Subject, folder: Path, kind: str) -> Finding:
    """Return whether an artifact is whole; files of more than `verify_mb` are compared by size only."""
    limit = subject.settings.verify_mb * 1_000_000
    try:
        manifest = read_manifest(folder, kind)
        verify(folder, limit)
    except (ValueError, OSError) as error:
        return refused(error)
    large = sum(entry.bytes > limit for entry in manifest.files.values())
    size = size_of(sum(entry.bytes for entry in manifest.files.values()))
    unread = f"; {large} larger than verify_mb={subject.settings.verify_mb} by size only" if large else ""
    return ok(f"{folder}: {len(manifest.files)} files ({size}) match their checksums{unread}")
