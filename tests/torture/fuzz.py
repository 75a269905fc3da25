"""Randomly changed headers and bytes in every file format that is opened: read, or refused by name (T25).

A case changes one file in a way that fits its format: values in a JSON document (huge or negative sizes, nan, text,
null, a thousand levels of nesting), numbers in a binary header, truncation, holes, random bytes. In two of three cases
the manifest is forged to match, so that the reader itself has to detect the change. Passed: the reader accepts the
file, or raises ValueError or OSError with the file's name in the message, within 5 s, and runs no code (some files are
those of `poison`). All cases run in a child process that may use 512 MB more than at its start; if the child dies, its
current case has failed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from curriculum.artifact.files import hash_file
from curriculum.artifact.manifest import MANIFEST, checksum_of
from tests.torture.campaign import Tally, case_seeds
from tests.torture.forks import ROOT
from tests.torture.poison import payloads
from tests.torture.ranks import quiet

FULL = 100_000
SPARE_BYTES = 512 << 20
"""Address space beyond that at the start: not enough for a reader that trusts a huge size in a header."""
LIMIT_S = 5.0
READY = "ready"
ODD = (
    *(0, -1, 1, 2, 255, 2**31 - 1, 2**31, 2**32, -(2**31), 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 10**400),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf"), True, False, None, "", "0", "-1", "x" * 300, "\0"),
    *(
        "../../etc/passwd",
        "/dev/zero",
        "train",
        "<f8",
        "|O",
        "O",
        "<u2",
        [],
        [0],
        [[]],
        [None],
        {},
        {"": 0},
        {"a": {"b": []}},
    ),
)
"""Replacements for a JSON value."""
POISONED = 0.03
DEEP = '"DEEP"'
NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**62, 2**63 - 1, -(2**63))
"""Replacements for an integer in a binary file."""


class TooLongError(BaseException):
    """A reader took longer than LIMIT_S."""


def mutated_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a JSON document in which some values are replaced, removed, or duplicated."""
    value = json.loads(data)
    for _ in range(int(rng.integers(1, 4))):
        value = _changed(value, rng)
    text = json.dumps(value)
    if DEEP in text:
        text = text.replace(DEEP, "[" * 100_000 if rng.random() < 0.5 else "[" * 900 + "]" * 900)
    return text.encode()


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """Return a JSON value with one change at a random place."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[int(rng.integers(len(keys)))]
        roll = rng.random()
        if roll < 0.1:
            del value[key]
        elif roll < 0.15 and isinstance(value, list):
            value.append(value[key])
        elif roll < 0.2 and isinstance(value, dict):
            value[f"{key}x"] = value.pop(key)
        else:
            value[key] = _changed(value[key], rng)
        return value
    if rng.random() < 0.03:
        return json.loads(DEEP)
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.4:
        return value + int(rng.choice([-1, 1, 7, -value, value]))
    return deepcopy(ODD[int(rng.integers(len(ODD)))])


def mutated_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes with some removed, changed, moved or inserted."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(out) + 1)) if rng.random() < 0.6 else int(rng.integers(min(len(out), 64) + 1))
        roll = int(rng.integers(7))
        if roll == 0:
            del out[at:]
        elif roll == 1:
            out[at:at] = rng.bytes(int(rng.integers(1, 40)))
        elif roll == 2 and out:
            out[min(at, len(out) - 1)] ^= 1 << int(rng.integers(8))
        elif roll == 3:
            size = int(rng.choice([4, 8]))
            number = NUMBERS[int(rng.integers(len(NUMBERS)))] % 2 ** (8 * size)
            at -= at % size
            out[at : at + size] = number.to_bytes(size, "little")
        elif roll == 4:
            del out[at : at + int(rng.integers(1, 40))]
        elif roll == 5:
            out[at : at + 16] = bytes(min(16, len(out) - at))
        else:
            out[at:at] = out[: int(rng.integers(1, 200))]
    return bytes(out)


def mutated_lines(data: bytes, rng: np.random.Generator) -> bytes:
    """Return lines of JSON with one changed."""
    lines = data.split(b"\n")
    at = int(rng.integers(max(1, len(lines) - 1)))
    with contextlib.suppress(ValueError):
        lines[at] = mutated_json(lines[at], rng)
    return b"\n".join(lines)


def mutated_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a safetensors file with a changed header."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header and "starts" in header["__metadata__"] and rng.random() < 0.3:
        header["__metadata__"]["starts"] = mutated_json(header["__metadata__"]["starts"].encode(), rng).decode()
        text = json.dumps(header).encode()
    else:
        text = mutated_json(json.dumps(header).encode(), rng)
    text = text.ljust(length) if len(text) <= length else text
    size = len(text) if rng.random() < 0.8 else int(rng.choice(np.array([0, 7, 2**31, 2**62], dtype=np.int64)))
    return size.to_bytes(8, "little") + text + data[8 + length :]


def mutated_chunk(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a chunk with a changed first header."""
    head, _, rest = data.partition(b"\n")
    return mutated_json(head, rng) + b"\n" + rest


MUTATE: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    ".json": mutated_json,
    ".jsonl": mutated_lines,
    ".safetensors": mutated_header,
    ".chunk": mutated_chunk,
}
"""Mutations by file extension, in addition to `mutated_bytes`, which fits any file."""


def changed(path: Path, data: bytes, bad: dict[str, bytes], rng: np.random.Generator) -> bytes:
    """Return changed contents for a file; sometimes one of `bad`, which runs code in a careless reader."""
    if rng.random() < POISONED:
        names = list(bad)
        return bad[names[int(rng.integers(len(names)))]]
    fitting = MUTATE.get(path.suffix)
    if fitting is None or rng.random() < 0.2:
        return mutated_bytes(data, rng)
    return fitting(data, rng)


@lru_cache(maxsize=1)
def _bad(canary: Path) -> dict[str, bytes]:
    return payloads(canary)


def forge(path: Path, data: bytes) -> dict[Path, bytes]:
    """Forge the entry of the manifest that lists a file to match its contents; return the manifest's old contents."""
    for folder in (path.parent, path.parent.parent):
        manifest = folder / MANIFEST
        if path == manifest or not manifest.is_file():
            continue
        before = manifest.read_bytes()
        fields = json.loads(before)
        name = path.relative_to(folder).as_posix()
        if name in fields["files"]:
            entry = hash_file(path)
            fields["files"][name] = {"bytes": entry.bytes, "xxh3_128": entry.xxh3_128}
            manifest.write_text(json.dumps({**fields, "checksum": checksum_of(fields)}))
            return {manifest: before}
    return {}


def sealed(data: bytes) -> bytes:
    """Return a document with its own checksum field recomputed, if possible."""
    try:
        fields = json.loads(data)
        return json.dumps({**fields, "checksum": checksum_of(fields)}).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return data


def problem_of(root: Path, case: int, whole: dict[str, bytes], places: dict[str, Callable[[Path], None]]) -> str | None:
    """Change one file, open it, and restore it; return what went wrong."""
    rng = np.random.default_rng(case)
    names = list(places)
    place = names[int(rng.integers(len(names)))]
    path, canary = root / place, root / "canary"
    data = changed(path, whole[place], _bad(canary), rng)
    forged = rng.random() < 0.67
    if forged and path.name in (MANIFEST, "run.json"):
        data = sealed(data)
    path.write_bytes(data)
    before = forge(path, data) if forged else {}
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        places[place](root)
        return f"{place}: code was run" if canary.exists() else None
    except TooLongError:
        return f"{place}: not done after {LIMIT_S:g} s"
    except (ValueError, OSError) as error:
        if canary.exists():
            return f"{place}: code was run"
        return None if path.name in str(error) or str(path.parent) in str(error) else f"{place}: not named in {error!r}"
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename.removeprefix(str(ROOT))}:{trace.tb_lineno}" if trace else "?"
        return f"{place}: {type(error).__name__} at {where}: {str(error)[:120]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        canary.unlink(missing_ok=True)
        for one, contents in {path: whole[place], **before}.items():
            one.write_bytes(contents)


def run(count: int, seed: int, work: Path) -> Tally:
    """Open `count` changed files in a child process, which is restarted if it dies."""
    from tests.torture.fuzz_places import make_all

    tally = Tally("fuzz", seed=seed)
    root = work / "root"
    with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make_all(root)
    cases = case_seeds(seed, count)
    (work / "cases.json").write_text(json.dumps(cases))
    started, first = time.monotonic(), 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    while first < count:
        words = [sys.executable, "-m", "tests.torture.fuzz", str(root), str(work / "cases.json"), str(first)]
        child = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        ready, *lines = child.stdout.splitlines() or [""]
        if ready != READY:
            raise RuntimeError(f"the child did not start: {child.stderr[-600:]}")
        for line in lines:
            number, _, problem = line.partition(" ")
            tally.add(cases[int(number)], None if problem == "ok" else problem)
        first += len(lines)
        if first < count:
            tally.add(cases[first], f"the reader died with code {child.returncode}: {child.stderr[-300:]}")
            first += 1
            _restore(root, make_all)
    rate = count / (time.monotonic() - started)
    tally.notes.append(f"{rate:.0f} files per second in {len(_places())} places")
    return tally


def _restore(root: Path, make: Callable[[Path], None]) -> None:
    """Write the files again: the child died while one of them was changed."""
    shutil.rmtree(root)
    with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make(root)


def _places() -> dict[str, Callable[[Path], None]]:
    from tests.torture.fuzz_places import PLACES

    return PLACES


def main(root: Path, cases: list[int], first: int) -> None:
    """Run the child: print one line per case."""
    import logging

    places = _places()
    whole = {place: (root / place).read_bytes() for place in places}
    logging.disable(logging.CRITICAL)
    for place, read in places.items():  # so that imports, pools and caches exist before the limit is set
        with _named(place):
            read(root)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + SPARE_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _too_long)
    out = os.fdopen(os.dup(1), "w")
    print(READY, file=out, flush=True)
    for number in range(first, len(cases)):
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            problem = problem_of(root, cases[number], whole, places)
        print(number, " ".join((problem or "ok").split()), file=out, flush=True)


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{place} cannot be read unchanged: {error!r}") from error


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3]))
