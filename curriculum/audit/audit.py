"""The audit of an ORDER: does it match its manifest and its plan, each sample exactly as often as planned?

    from curriculum.audit import audit
    result = audit(Order.open("order"))
    assert result.sound, [check for check in result.checks if check.sound is False]

Memory: one byte per sample (two more if samples are repeated or looked up by their scores), and chunks of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curriculum.artifact.blocks import Blocks, hash_blocks
from curriculum.artifact.files import FileEntry
from curriculum.artifact.guard import BLOCK_BYTES, Digests
from curriculum.artifact.manifest import Manifest, identity_of
from curriculum.audit.checks import Check
from curriculum.audit.origin import check_parent, check_scores
from curriculum.audit.positions import Walk, check_uses
from curriculum.order.order import Order
from curriculum.preference import Preference
from curriculum.scores.columns import SampleColumns


@dataclass(frozen=True)
class Audit:
    """The result of each check, and the figures. The figures are None if files are damaged."""

    checks: list[Check]
    positions: int | None = None
    different_samples: int | None = None
    """Samples that occur in the order at least once."""
    most_uses: int | None = None
    """How often the most frequent sample occurs in it."""
    deviation: float | None = None
    """Largest distance of a cell's running count from its plan, in samples."""

    @property
    def sound(self) -> bool:
        """Did every check that was run pass?"""
        return all(check.sound is not False for check in self.checks)


def audit(
    order: Order,
    columns: SampleColumns | None = None,
    parent: Order | None = None,
    preference: type[Preference] | None = None,
) -> Audit:
    """Read and check a whole order: files block by block, then every step and every position.

    `columns` (the TOKENS and scores that it was arranged from) make it possible to recompute the buckets from the
    scores; `parent` is the order that a replanned one began as, `preference` the class that it was arranged by, if
    that is code outside PDPC (`curriculum.preference.own.load`). O(positions), two or three passes over them.
    """
    checks = [_check_manifest(order.manifest), *_check_files(order.folder, order.manifest)]
    if any(check.sound is False for check in checks[1:]):
        return Audit([*checks, Check("positions", None, "not read, because files are damaged: arrange it again")])
    walk = Walk(order)
    checks += walk.checks()
    if walk.countable:
        checks += [
            *check_uses(order, walk.times_N, parent is not None),
            check_scores(order, columns, walk.times_N, preference),
            *check_parent(order, parent),
        ]
    return Audit(checks, len(order), walk.different, int(walk.times_N.max(initial=0)), walk.deviation)


def _check_manifest(manifest: Manifest) -> Check:
    found = identity_of(manifest.kind, manifest.inputs, manifest.facts, manifest.files, manifest.outside)
    if found != manifest.fingerprint:
        return Check("manifest", False, f"fingerprint is {manifest.fingerprint}, but its contents give {found}")
    return Check("manifest", True, f"fingerprint {manifest.fingerprint}")


def _check_files(folder: Path, manifest: Manifest) -> Iterator[Check]:
    """Compare every file with its checksum and any block checksums; yield one check per file that differs."""
    digests = Blocks(folder, manifest)
    wrong = 0
    for name, entry in sorted(manifest.files.items()):
        problem = _difference(folder / name, entry, digests.of(name, entry.bytes))
        if problem:
            wrong += 1
            yield Check("files", False, f"{name} {problem}")
    if not wrong:
        total = sum(entry.bytes for entry in manifest.files.values())
        yield Check(
            "files", True, f"{total:,} bytes in {len(manifest.files)} files and {len(digests):,} blocks match checksums"
        )


def _difference(path: Path, entry: FileEntry, blocks: Digests | None) -> str:
    """Return in which blocks a file differs from its checksums; "" if in none."""
    found = hash_blocks(path)
    expected = found.digests if blocks is None else blocks.tolist()
    bad = [number for number, (a, b) in enumerate(zip(found.digests, expected, strict=False)) if a != b]
    if bad:
        first = bad[0] * BLOCK_BYTES
        more = f" and {len(bad) - 1} more blocks" if len(bad) > 1 else ""
        return (
            f"is damaged in block {bad[0]} of {len(found.digests)} (bytes {first:,} to "
            f"{min(first + BLOCK_BYTES, entry.bytes) - 1:,}){more}"
        )
    return "" if found.entry == entry else "differs from its checksum in the manifest"
