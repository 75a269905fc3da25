"""Text to TOKENS: nothing lost, held out by document, the same bits at any number of workers."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from curriculum.artifact import ArtifactError, verify
from curriculum.prepare import PrepareSettings, run
from curriculum.text import TextSettings
from curriculum.tokenizer import TextTokenizer, TokenizerSettings, train_tokenizer
from curriculum.tokenizing import Chunk, HeldOut, encode_chunks
from curriculum.tokens import SLICES, Tokens

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["the", "cat", "sat", "\u4e2d\u6587", "return", "x\n", "<|endoftext|>", "\u00e9t\u00e9", "1234"]


def corpus(folder: Path, documents: int = 240) -> Path:
    """Two files, three sources, some blank documents and exact duplicates."""
    rng = random.Random(1)
    folder.mkdir()
    rows = []
    for i in range(documents):
        text = f"{i} " + " ".join(rng.choices(WORDS, k=rng.randrange(1, 60)))
        rows.append({"text": " \n" if i % 40 == 0 else text, "source": ("web", "code", "books")[i % 3]})
    rows += rows[:60]
    for name, part in (("a.jsonl", rows[:150]), ("b.jsonl", rows[150:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


def settings(text: Path, output: Path, tokenizer: str = "train:400", **changes: Any) -> PrepareSettings:
    given = {"seq_len": 32, "validation_fraction": 0.1, "reference_fraction": 0.2, "workers": 1, **changes}
    given.setdefault("input", TextSettings(paths=[str(text)]))
    return PrepareSettings(tokenizer=TokenizerSettings(name=tokenizer), output=str(output), **given)


def prepare(made: PrepareSettings) -> str:
    """Run quietly and return what was printed."""
    console = Console(file=io.StringIO(), width=100)
    run(made, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def texts(folder: Path, name: str) -> list[tuple[str, str]]:
    tokens, tokenizer = Tokens.open(folder, name), TextTokenizer.open(folder / "tokenizer")
    found = [tokens.document(i) for i in range(tokens.documents)]
    return [(source, tokenizer.decode(ids)) for source, ids in found]


def bits(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.suffix == ".bin"}


def test_every_document_arrives_once_with_its_text_and_source(tmp_path: Path) -> None:
    text = corpus(tmp_path / "text")
    printed = prepare(settings(text, tmp_path / "tokens"))
    rows = [json.loads(line) for name in ("a", "b") for line in (text / f"{name}.jsonl").open()]
    written = [row for name in SLICES for row in texts(tmp_path / "tokens", name)]
    assert sorted(written) == sorted((row["source"], row["text"]) for row in rows if row["text"].strip())
    assert "documents left out, blank: 8" in printed
    for word in ("source", "books", "reference", "vocabulary: 400"):
        assert word in printed
    verify(tmp_path / "tokens")
    assert {p.name for p in tmp_path.iterdir()} == {"text", "tokens"}
    assert not list((tmp_path / "tokens").glob("*.tmp"))


def test_slices_are_held_out_by_text_alone(tmp_path: Path) -> None:
    text = corpus(tmp_path / "text")
    prepare(settings(text, tmp_path / "one"))
    first = {name: texts(tmp_path / "one", name) for name in SLICES}
    shares = [len(first[name]) for name in SLICES]
    assert min(shares) > 0
    assert shares[0] > shares[2] > shares[1]
    for name in SLICES:  # exact duplicates land together
        others = {text for other in SLICES if other != name for _, text in first[other]}
        assert not others & {text for _, text in first[name]}
    os.rename(text / "a.jsonl", text / "z.jsonl")  # now read last
    prepare(settings(text, tmp_path / "two"))
    assert {name: sorted(texts(tmp_path / "two", name)) for name in SLICES} == {n: sorted(t) for n, t in first.items()}
    assert Tokens.open(tmp_path / "two").tokenizer_fingerprint == Tokens.open(tmp_path / "one").tokenizer_fingerprint
    prepare(settings(text, tmp_path / "three", seed=1))
    assert sorted(texts(tmp_path / "three", "validation")) != sorted(first["validation"])


def test_held_out_text_does_not_train_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizers").mkdir()
    text = corpus(tmp_path / "text")
    prepare(settings(text, tmp_path / "tokens"))
    seen = sorted({document for _, document in texts(tmp_path / "tokens", "train")})
    duplicated = [document for _, document in texts(tmp_path / "tokens", "train")]
    fingerprint = Tokens.open(tmp_path / "tokens").tokenizer_fingerprint
    assert train_tokenizer(duplicated, 400).fingerprint == fingerprint
    assert train_tokenizer([*seen, "unheard " * 500], 400).fingerprint != fingerprint


def test_two_workers_write_the_same_bits_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curriculum.tokenizing.CHUNK_DOCUMENTS", 17)  # many chunks, so that workers can overtake
    text = corpus(tmp_path / "text")
    for workers in (1, 2):
        prepare(settings(text, tmp_path / str(workers), workers=workers))
    one, two = bits(tmp_path / "1"), bits(tmp_path / "2")
    assert one == two
    assert len(one) == 9
    assert Tokens.open(tmp_path / "1").fingerprint == Tokens.open(tmp_path / "2").fingerprint


def test_whole_is_reused_and_stale_is_refused(tmp_path: Path) -> None:
    text, output = corpus(tmp_path / "text"), tmp_path / "tokens"
    prepare(settings(text, output))
    before = (output / "manifest.json").stat().st_mtime_ns
    printed = prepare(settings(text, output, workers=2))  # the number of workers does not matter
    assert "whole, reused" in printed
    assert "books" in printed
    assert (output / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ArtifactError, match="seq_len"):
        prepare(settings(text, output, seq_len=16))
    with (text / "a.jsonl").open("a") as file:
        file.write('{"text": "one more", "source": "web"}\n')
    with pytest.raises(ArtifactError, match=r"text/0/a\.jsonl"):
        prepare(settings(text, output))


def test_an_existing_tokenizer_is_used_and_kept(tmp_path: Path) -> None:
    text = corpus(tmp_path / "text")
    train_tokenizer(["abc " * 50], 260).save(tmp_path / "tokenizer")
    prepare(settings(text, tmp_path / "tokens", str(tmp_path / "tokenizer")))
    tokens = Tokens.open(tmp_path / "tokens")
    assert tokens.tokenizer_fingerprint == TextTokenizer.open(tmp_path / "tokenizer").fingerprint
    assert TextTokenizer.open(tokens.tokenizer_folder).fingerprint == tokens.tokenizer_fingerprint
    train_tokenizer(["xyz " * 50], 260).save(tmp_path / "tokenizer")
    with pytest.raises(ArtifactError, match="tokenizer"):
        prepare(settings(text, tmp_path / "tokens", str(tmp_path / "tokenizer")))


def test_nothing_to_train_on_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": " ", "source": "s"}\n{"text": "short", "source": "s"}\n')
    for changes, message in (
        (
            {"reference_fraction": 0.8999, "validation_fraction": 0.1},
            "training slice is empty: of 2 documents 1 are blank",
        ),
        ({"reference_fraction": 0.0, "validation_fraction": 0.0}, r"no source of the training slice fills one sample"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(settings(tmp_path / "a.jsonl", tmp_path / "tokens", **changes))
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_empty_held_out_slice_is_said(tmp_path: Path) -> None:
    row = {"text": "a text that is long enough to fill one sample of the training slice", "source": "s"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    printed = prepare(settings(tmp_path / "a.jsonl", tmp_path / "tokens", seq_len=8, reference_fraction=0.0))
    assert "warning: the validation slice is empty: none of 1 documents" in printed
    assert "reference slice" not in printed


def test_a_broken_last_line_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curriculum.tokenizing.CHUNK_DOCUMENTS", 17)
    text = corpus(tmp_path / "text")
    with (text / "b.jsonl").open("a") as file:
        file.write("{")
    train_tokenizer(["abc"], 300).save(tmp_path / "tokenizer")
    for workers in (1, 2):
        with pytest.raises(ValueError, match=r"b\.jsonl, line 151: broken JSON"):
            prepare(settings(text, tmp_path / "tokens", str(tmp_path / "tokenizer"), workers=workers))
    assert {p.name for p in tmp_path.iterdir()} == {"text", "tokenizer"}


def test_text_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = corpus(tmp_path / "text")
    honest = train_tokenizer

    def slow(*args: Any) -> TextTokenizer:
        os.utime(text / "a.jsonl", ns=(0, 0))
        return honest(*args)

    monkeypatch.setattr("curriculum.prepare.train_tokenizer", slow)
    with pytest.raises(ValueError, match=r"a\.jsonl changed while it was being read"):
        prepare(settings(text, tmp_path / "tokens"))
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 1}, "seq_len=1 "),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"reference_fraction": -0.1}, "reference_fraction=-0.1"),
        ({"validation_fraction": 0.5, "reference_fraction": 0.5}, "leave no text"),
        ({"seed": -1}, "seed=-1"),
        ({"workers": 0}, "workers=0"),
        ({"output": ""}, "output is empty"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareSettings(**changes)


def test_a_dead_worker_is_said_and_not_waited_for(tmp_path: Path) -> None:
    import psutil

    train_tokenizer(["abc"], 300).save(tmp_path)
    chunks = (Chunk([i], [0], ["word " * 1000]) for i in itertools.count())
    results = encode_chunks(chunks, tmp_path, HeldOut(0.1, 0.1, 0), "uint16", 2)
    before = set(psutil.Process().children())
    next(results)
    workers = [p for p in psutil.Process().children() if p not in before and "spawn_main" in " ".join(p.cmdline())]
    workers[0].kill()
    with pytest.raises(ChildProcessError, match=r"died, most likely for want of memory .*fewer workers"):
        for _ in results:
            pass
    assert not psutil.wait_procs(workers, timeout=10)[1]


SLOW_PREPARE = """
import sys
import curriculum.prepare as prepare
from curriculum.text import TextSettings
from curriculum.tokenizer import TokenizerSettings
if __name__ == "__main__":
    text, tokenizer, output = sys.argv[1:]
    prepare.run(
        prepare.PrepareSettings(
            input=TextSettings(paths=[text]), tokenizer=TokenizerSettings(name=tokenizer), workers=2, output=output
        )
    )
"""


@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGINT, signal.SIGINT]], ids=["killed", "interrupted"])
def test_workers_end_with_their_run_and_the_next_run_cleans_up(tmp_path: Path, signals: list[signal.Signals]) -> None:
    import psutil

    text, output = corpus(tmp_path / "text"), tmp_path / "tokens"
    train_tokenizer(["abc"], 300).save(tmp_path / "tokenizer")
    script = tmp_path / "slow.py"
    script.write_text(SLOW_PREPARE)
    big = tmp_path / "big.jsonl"
    with big.open("w") as file:  # some ten seconds of work
        for i in range(20_000):
            file.write(json.dumps({"text": f"{i} " * 300, "source": "web"}) + "\n")
    command = [sys.executable, str(script), str(big), str(tmp_path / "tokenizer"), str(output)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        parts = _wait_for(lambda: [p for p in tmp_path.glob(".tokens.tmp-*/parts.tmp/*") if p.stat().st_size])
        assert parts, "the run never began to write"
        children = psutil.Process(started.pid).children(recursive=True)
        assert len(children) >= 2
        for number in signals:
            started.send_signal(number)
            time.sleep(0.02)
        assert started.wait(timeout=30) != 0
    finally:
        started.kill()
        started.wait(timeout=30)
    assert _wait_for(lambda: not psutil.wait_procs(children, timeout=0.1)[1]), "workers outlive the run"
    assert not output.exists()
    prepare(settings(text, output))
    assert not list(tmp_path.glob(".tokens.tmp-*"))


def _wait_for(condition: Any, seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found
