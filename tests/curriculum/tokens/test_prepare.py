"""Text to TOKENS: nothing is lost, documents are held out as a whole, any number of workers gives the same bits."""

from __future__ import annotations

import io
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from curriculum.arrange.arrange import ArrangeSettings
from curriculum.arrange.arrange import run as arrange
from curriculum.artifact.create import create
from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import verify
from curriculum.audit.audit import audit
from curriculum.order.order import Order
from curriculum.preference import Mixture, Pdpc, Preference, Shuffled
from curriculum.scores.columns import SampleColumns
from curriculum.scores.scores import Scores
from curriculum.text.text import TextSettings, open_text
from curriculum.tokens.encode import HeldOut
from curriculum.tokens.job import TextJob, TextWorker, run
from curriculum.tokens.settings import PrepareSettings
from curriculum.tokens.tokenizer import TextTokenizer, TokenizerSettings, train_tokenizer
from curriculum.tokens.tokens import PARTS, SLICES, Tokens, part_name
from curriculum.work.chunks import Chunk
from tests.scores import write_slice

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
    given = {"seq_len": 32, "validation_fraction": 0.1, "reference_fraction": 0.2, **changes}
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
    for name in SLICES:  # exact duplicates share a slice
        others = {text for other in SLICES if other != name for _, text in first[other]}
        assert not others & {text for _, text in first[name]}
    os.rename(text / "a.jsonl", text / "z.jsonl")  # now read last
    prepare(settings(text, tmp_path / "two"))
    assert {name: sorted(texts(tmp_path / "two", name)) for name in SLICES} == {n: sorted(t) for n, t in first.items()}
    assert Tokens.open(tmp_path / "two").tokenizer_fingerprint == Tokens.open(tmp_path / "one").tokenizer_fingerprint
    prepare(settings(text, tmp_path / "three", seed=1))
    assert sorted(texts(tmp_path / "three", "validation")) != sorted(first["validation"])


def test_a_target_is_held_wholly_out_of_training(tmp_path: Path) -> None:
    text, folder = corpus(tmp_path / "text"), tmp_path / "tokens"
    made = settings(text, folder, targets={"web": 0.7}, validation_by_source={"code": 0.4})
    assert "held out of training: web (70.0% for the reference models, the rest for validation)" in prepare(made)
    found = {(name, source): 0 for name in SLICES for source in ("books", "code", "web")}
    for name in SLICES:
        for source, _ in texts(folder, name):
            found[name, source] += 1
    assert found["train", "web"] == 0
    read = sum(found[name, "web"] for name in SLICES)
    assert abs(found["reference", "web"] / read - 0.7) < 0.15
    assert found["validation", "web"] == read - found["reference", "web"]
    code = sum(found[name, "code"] for name in SLICES)
    assert abs(found["validation", "code"] / code - 0.4) < 0.15

    held_out = HeldOut(0.1, 0.2, 0)
    rows = [row for name in ("a", "b") for row in map(json.loads, (text / f"{name}.jsonl").open())]
    books = [row["text"] for row in rows if row["source"] == "books" and row["text"].strip()]
    for index, name in enumerate(SLICES):  # a source without shares of its own is held out as before
        expected = sorted(book for book in books if held_out.slice_of(book.encode(), "books")[0] == index)
        assert sorted(text for source, text in texts(folder, name) if source == "books") == expected
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["targets"] == {"web": 0.7}
    counts = {row["name"]: row["documents"] for row in manifest["facts"]["slices"]["train"]["sources"]}
    assert counts["web"] == 0
    assert not {"targets", "validation_by_source"} & set(settings(text, folder).content())
    with pytest.raises(ArtifactError, match=r"targets.*another output"):
        prepare(settings(text, folder, targets={"web": 0.6}, validation_by_source={"code": 0.4}))


def test_a_target_can_be_arranged_scored_and_trained_around(tmp_path: Path) -> None:
    """Neither a source without training samples nor an order of one source is special to any part of the pipeline."""
    text, folder = corpus(tmp_path / "text"), tmp_path / "tokens"
    prepare(settings(text, folder, targets={"web": 0.7}))
    train, reference = (Tokens.open(folder, name) for name in ("train", "reference"))
    generic = np.random.default_rng(0).uniform(3, 4, len(train)).astype(np.float32)
    gain = np.random.default_rng(1).uniform(0, 1, len(train)).astype(np.float32)
    with create(tmp_path / "scores", "scores", config={}, inputs={"tokens/train": train.fingerprint}) as draft:
        real_N = train.real_tokens(np.arange(len(train)))
        write_slice(draft.path, "train", {"generic": generic, "adapted": generic - gain}, real_N)

    def made(name: str, preference: Preference, **changes: Any) -> Order:
        given = {"tokens": str(folder), "scores": str(tmp_path / "scores"), "batch_size": 4, "stages": 1, **changes}
        return arrange(ArrangeSettings(output=str(tmp_path / name), preference=preference, **given))

    late = made("late", Pdpc(score="loss_generic - loss_adapted", stratify_by=None))
    assert sorted(late[:].tolist()) == list(range(len(train)))
    high_N = gain[late[:]] > np.median(gain)
    half = len(late) // 2
    assert high_N[half:].mean() > high_N[:half].mean() + 0.3
    within = made("within", Pdpc(score="1 - exp(loss_adapted - loss_generic)"))
    assert within.manifest.facts["spread_evenly"] == []  # a source without samples has no bucket to spread
    mixed = made("mixed", Mixture(shares={0.0: {"code": 0.2}, 1.0: {"code": 0.6}}))
    of_web: dict[str, Any] = {"slice": "reference", "sources": ["web"], "scores": None}
    adapted = made("adapted", Shuffled(), **of_web)
    assert {reference.sources[source] for source in reference.source_of(adapted[:])} == {"web"}
    assert len(adapted) == len(reference.samples_of(reference.sources.index("web")))
    for order, part in ((late, train), (within, train), (mixed, train), (adapted, reference)):
        scores = Scores.open(tmp_path / "scores", "train") if part is train else None
        result = audit(order, SampleColumns(part, scores, None))
        assert [check for check in result.checks if check.sound is not True] == []
    some = made("some", Shuffled(), **of_web, max_tokens=32 * 9)
    assert len(some) == 9
    assert set(some[:]) < set(adapted[:])
    with pytest.raises(ValueError, match=r"sources names wbe, but the sources are books, code, web"):
        made("no", Shuffled(), **{**of_web, "sources": ["wbe"]})
    with pytest.raises(ValueError, match=r"have no samples in slice 'train'"):
        made("no", Shuffled(), sources=["web"])


def test_an_unknown_target_and_one_without_samples_are_named(tmp_path: Path) -> None:
    text = corpus(tmp_path / "text")
    for key in ("targets", "validation_by_source"):
        with pytest.raises(ValueError, match=rf"{key} names wbe, but the sources are books, code, web"):
            prepare(settings(text, tmp_path / "tokens", **{key: {"wbe": 0.5}}))
    printed = prepare(settings(text, tmp_path / "tokens", targets={"web": 1.0}))
    assert "warning: the target web has no sample in the validation slice (0 documents)" in printed


def test_held_out_text_does_not_train_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizers").mkdir()
    text = corpus(tmp_path / "text")
    prepare(settings(text, tmp_path / "tokens"))
    seen = sorted({document for _, document in texts(tmp_path / "tokens", "train")})
    duplicated = [document for _, document in texts(tmp_path / "tokens", "train")]
    fingerprint = Tokens.open(tmp_path / "tokens").tokenizer_fingerprint
    assert train_tokenizer(duplicated, 400).fingerprint == fingerprint
    assert train_tokenizer([*seen, "unheard " * 500], 400).fingerprint != fingerprint


@pytest.mark.parametrize("chunk_bytes", [700, 9000])
def test_chunks_of_any_size_give_the_bits_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    text = corpus(tmp_path / "text")
    prepare(settings(text, tmp_path / "one"))
    monkeypatch.setattr("curriculum.tokens.encode.BLOCK_DOCUMENTS", 17)  # several blocks per chunk
    prepare(settings(text, tmp_path / "many", chunk_bytes=chunk_bytes))
    one, many = bits(tmp_path / "one"), bits(tmp_path / "many")
    assert one == many
    assert len(one) == 10  # three parts of three slices, and blocks.bin
    assert Tokens.open(tmp_path / "one").fingerprint == Tokens.open(tmp_path / "many").fingerprint


def test_the_bits_are_those_of_one_pass_over_the_documents(tmp_path: Path) -> None:
    """Compare with the documented layout: source by source, an end-of-text before each document and one at the end."""
    text, folder = corpus(tmp_path / "text"), tmp_path / "tokens"
    made = settings(text, folder, chunk_bytes=500)
    prepare(made)
    tokenizer, held_out = TextTokenizer.open(folder / "tokenizer"), HeldOut(0.1, 0.2, 0)
    kept = [(i, text, source) for i, (text, source) in enumerate(open_text(made.input).documents()) if text.strip()]
    for index, name in enumerate(SLICES):
        ids: list[int] = []
        starts, origins = [], []
        for source in ("books", "code", "web"):
            mine = [(i, t) for i, t, s in kept if s == source and held_out.slice_of(t.encode(), s)[0] == index]
            for origin, document in mine:
                starts.append(len(ids))
                origins.append(origin)
                ids += [tokenizer.end_of_text, *tokenizer.encode([document])[0].tolist()]
            ids += [tokenizer.end_of_text] * bool(mine)
        for part, expected, dtype in (("ids", ids, "<u2"), ("starts", starts, "<i8"), ("origins", origins, "<i8")):
            assert np.fromfile(folder / part_name(name, part), dtype).tolist() == expected


def test_what_is_done_stays_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, output = corpus(tmp_path / "text"), tmp_path / "tokens"
    prepare(settings(text, tmp_path / "whole"))
    honest = TextWorker.do
    done: list[int] = []

    def interrupted(self: TextWorker, chunk: Chunk) -> tuple[int, int, int]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(chunk.number)
        return honest(self, chunk)

    monkeypatch.setattr(TextWorker, "do", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings(text, output, chunk_bytes=2000))
    done.clear()
    damaged = tmp_path / "tokens.chunks" / "text.0000001.chunk"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (tmp_path / "tokens.chunks" / ".text.0000002.chunk.tmp-host.01234567-1-01234567").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"config\.seed: was 0, now 1.*remove that folder"):
        prepare(settings(text, output, chunk_bytes=2000, seed=1))
    with pytest.raises(ArtifactError, match=r"chunk_places: was 2000"):
        prepare(settings(text, output, chunk_bytes=3000))
    monkeypatch.setattr(TextWorker, "do", lambda self, chunk: done.append(chunk.number) or honest(self, chunk))
    printed = prepare(settings(text, output, chunk_bytes=2000, seq_len=32))
    assert re.search(r"2 of \d+ chunks are already done", printed)
    assert done[:2] == [1, 3]
    assert bits(output) == bits(tmp_path / "whole")
    assert not (tmp_path / "tokens.chunks").exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_flipped_bit_of_any_part_is_found_when_it_is_read(tmp_path: Path, part: str) -> None:
    prepare(settings(corpus(tmp_path / "text"), tmp_path / "tokens"))
    path = tmp_path / "tokens" / part_name("train", part)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    tokens = Tokens.open(tmp_path / "tokens")
    with pytest.raises(
        ArtifactError, match=rf"train\.{part}\.bin is damaged between bytes 0 and {len(data)}: its checksum"
    ):
        tokens.sample([0]), tokens.document(0), tokens.origin(0)


def test_a_worker_that_sees_another_text_does_nothing(tmp_path: Path) -> None:
    text = corpus(tmp_path / "text")
    made = settings(text, tmp_path / "tokens", chunk_bytes=2000)
    job = TextJob(made, Console(file=io.StringIO()))
    job.begin()
    os.utime(text / "a.jsonl", ns=(0, 0))
    with pytest.raises(ArtifactError, match=r"inputs\.text/0/a\.jsonl"):
        TextWorker(TextJob(made, Console(file=io.StringIO())))


def test_whole_is_reused_and_stale_is_refused(tmp_path: Path) -> None:
    text, output = corpus(tmp_path / "text"), tmp_path / "tokens"
    prepare(settings(text, output))
    before = (output / "manifest.json").stat().st_mtime_ns
    printed = prepare(settings(text, output, chunk_bytes=999))  # the chunk size does not matter
    assert "complete, reused" in printed
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
            "training slice is empty: of 2 documents, 1 are blank",
        ),
        ({"reference_fraction": 0.0, "validation_fraction": 0.0}, r"no source of the training slice fills a sample"),
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


def test_a_source_without_held_out_samples_is_said(tmp_path: Path) -> None:
    text = corpus(tmp_path / "text")
    (text / "c.jsonl").write_text(json.dumps({"text": "one document of its own source " * 9, "source": "rare"}) + "\n")
    printed = " ".join(prepare(settings(text, tmp_path / "tokens", seq_len=8)).split())
    assert "warning: the validation slice has no sample of rare, so there will be no held-out loss" in printed


@pytest.mark.parametrize("chunk_bytes", [None, 2000])
def test_a_broken_last_line_is_named_and_makes_no_tokens(tmp_path: Path, chunk_bytes: int | None) -> None:
    text = corpus(tmp_path / "text")
    with (text / "b.jsonl").open("a") as file:
        file.write("{")
    train_tokenizer(["abc"], 300).save(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match=r"b\.jsonl, line 151: invalid JSON"):
        prepare(settings(text, tmp_path / "tokens", str(tmp_path / "tokenizer"), chunk_bytes=chunk_bytes))
    done = {"tokens.chunks"} if chunk_bytes else set()
    assert {p.name for p in tmp_path.iterdir()} == {"text", "tokenizer"} | done


def test_text_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = corpus(tmp_path / "text")
    honest = train_tokenizer

    def slow(*args: Any) -> TextTokenizer:
        os.utime(text / "a.jsonl", ns=(0, 0))
        return honest(*args)

    monkeypatch.setattr("curriculum.tokens.job.train_tokenizer", slow)
    with pytest.raises(ValueError, match=r"a\.jsonl changed while it was being read"):
        prepare(settings(text, tmp_path / "tokens"))
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 1}, "seq_len=1 "),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"reference_fraction": -0.1}, "reference_fraction=-0.1"),
        ({"validation_fraction": 0.5, "reference_fraction": 0.5}, "leaves no text"),
        ({"targets": {"web": 1.1}}, r"targets.web=1.1 must be in"),
        ({"validation_by_source": {"web": 0.9}}, r"validation_by_source.web=0.9 must be in .* 0.9\)"),
        ({"targets": {"web": 1}, "validation_by_source": {"web": 0.1}}, "validation_by_source.web has no effect"),
        ({"seed": -1}, "seed=-1"),
        ({"chunk_bytes": 0}, "chunk_bytes=0"),
        ({"output": ""}, "output is empty"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareSettings(**changes)


HOSTILE = ["[/red] x", "web [en]", "web [de]", "..", ":smile:", "\x1b[2Jgone", "a\nb", "$x_1$", "n" * 300]


def test_source_names_are_shown_as_they_are(tmp_path: Path) -> None:
    rows = [{"text": f"{i} " + "some words " * 40, "source": HOSTILE[i % len(HOSTILE)]} for i in range(90)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    console = Console(file=io.StringIO(), width=500)
    made = settings(tmp_path / "a.jsonl", tmp_path / "tokens", "train:300")
    run(made, console)
    printed = console.file.getvalue()
    for name in ("[/red] x", "web [en]", "web [de]", " .. ", ":smile:", "\\x1b[2Jgone", "a\\nb", "$x_1$", "n" * 300):
        assert name in printed
    assert "\x1b" not in printed
    assert "column source" in printed
    assert Tokens.open(tmp_path / "tokens").sources == sorted(HOSTILE)


def test_bad_records_are_skipped_counted_and_listed(tmp_path: Path) -> None:
    text = corpus(tmp_path / "text")
    lines = (text / "a.jsonl").read_text().splitlines()
    prepare(settings(text, tmp_path / "clean"))
    bad = ['{"text": ', '{"text": "a"}', '{"text": null, "source": "web"}', '{"text": [], "source": "web"}']
    for number, line in enumerate(bad):
        lines.insert(20 * number + 3, line)
    (text / "a.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 4: invalid JSON"):
        prepare(settings(text, tmp_path / "tokens"))
    printed = prepare(settings(text, tmp_path / "tokens", on_bad_record="skip"))
    assert "warning: bad records skipped: 4 (1.32% of all); each is listed in" in printed
    listed = [json.loads(line) for line in (tmp_path / "tokens" / "skipped.jsonl").read_text().splitlines()]
    assert [row["place"].rpartition(", ")[2] for row in listed] == ["line 4", "line 24", "line 44", "line 64"]
    facts = json.loads((tmp_path / "tokens" / "manifest.json").read_text())["facts"]
    assert facts["skipped_records"]["count"] == 4
    assert sum(facts["skipped_records"]["by_reason"].values()) == 4
    assert bits(tmp_path / "tokens") == bits(tmp_path / "clean")
    verify(tmp_path / "tokens")
    prepare(settings(text, tmp_path / "many", on_bad_record="skip", chunk_bytes=700))
    for name in ("skipped.jsonl", "manifest.json"):
        one, many = ((tmp_path / folder / name).read_text() for folder in ("tokens", "many"))
        assert one == many or name == "manifest.json"
    assert Tokens.open(tmp_path / "tokens").fingerprint == Tokens.open(tmp_path / "many").fingerprint
    assert "bad records skipped: 4" in prepare(settings(text, tmp_path / "tokens", on_bad_record="skip"))


def test_skipping_nothing_says_so_and_is_named_in_the_settings(tmp_path: Path) -> None:
    text = corpus(tmp_path / "text")
    assert "on_bad_record" not in settings(text, tmp_path / "tokens").content()
    printed = prepare(settings(text, tmp_path / "tokens", on_bad_record="skip"))
    assert "bad records skipped: 0" in printed
    assert (tmp_path / "tokens" / "skipped.jsonl").read_text() == ""
    with pytest.raises(ArtifactError, match="on_bad_record"):
        prepare(settings(text, tmp_path / "tokens"))


def test_sources_by_folder_are_shown_with_their_origin(tmp_path: Path) -> None:
    for name in ("wiki/part-0", "code/part-0", "web"):
        path = tmp_path / "text" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": f"{name} {i} " + "word " * 60}) + "\n" for i in range(40)))
    where = TextSettings(paths=[str(tmp_path / "text")], source_column=None)
    for _ in range(2):  # written, then reused
        printed = prepare(settings(tmp_path, tmp_path / "tokens", "train:300", input=where))
        for name, origin in (("wiki", "folder name"), ("code", "folder name"), ("web", "file name")):
            assert re.search(rf"{name}\s+\S\s+{origin}", printed)


@pytest.mark.parametrize("entry", [".", "text", "text/deep", "link"])
def test_tokens_are_not_written_into_a_folder_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    corpus(tmp_path / "text")
    corpus(tmp_path / "text" / "deep")
    (tmp_path / "link").symlink_to(tmp_path / "text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"output=text/deep/tokens is in {entry}, which input.paths reads whole"):
        TextJob(settings(Path(entry), Path("text/deep/tokens")))
    TextJob(settings(Path("text/*.jsonl"), Path("text/tokens")))


@pytest.mark.parametrize("output", [".", "..", "a/..", "/"])
def test_an_output_without_a_name_is_rejected(output: str) -> None:
    with pytest.raises(ValueError, match=f"output={output} has no name of its own"):
        PrepareSettings(output=output)
