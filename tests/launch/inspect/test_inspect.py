"""pdpc inspect on orders and runs: summary, plan, picture, checks, steps."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.artifact.create import create
from curriculum.order.order import Order
from curriculum.preference import Shuffled, Tilt
from curriculum.text.text import TextSettings
from curriculum.tokens.job import run as write_tokens
from curriculum.tokens.settings import PrepareSettings
from curriculum.tokens.tokenizer import TextTokenizer, TokenizerSettings
from curriculum.tokens.tokens import Tokens
from launch.cli import main
from launch.inspect.summary import LEVELS, sketch
from models.huggingface import export
from tests.launch.inspect.runs import STEPS_DONE, decoder_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def material(tokens_folder, scores_folder):
    return [f"tokens={tokens_folder}", f"scores={scores_folder}"]


def inspect(capsys, *words, code=0):
    """Run the verb; return its output, or the one-line error of an exit with code 2."""
    found = main(["inspect", *(str(word) for word in words)])
    printed = capsys.readouterr()
    assert found == code, printed.err
    if code == 2:
        assert printed.err.count("\n") == 1
        return printed.err
    return printed.out


# summary and plan


def test_a_summary_shows_the_provenance_and_plan_of_an_order(capsys, order, material):
    text = inspect(capsys, order.folder, *material)
    assert f"fingerprint   {order.fingerprint}" in text
    assert "seed 4" in text
    assert "preference    pdpc " in text
    assert "floor=0.0" in text
    for name, print_ in order.manifest.inputs.items():
        assert f"{name:<13} {print_}" in text
    assert f"samples       {len(order):,} in {order.steps} steps of 16" in text
    assert f"of these      {len(order):,} distinct, 0 repeated; 0 left out" in text
    assert "stages        3, ending after steps" in text
    low = next(line for line in text.splitlines() if line.startswith("low planned")).split()[2:]
    assert len(low) == 10
    assert float(low[0]) > 90
    assert float(low[-1]) < 10
    means = next(line for line in text.splitlines() if line.startswith("mean pd")).split()[2:]
    assert float(means[0]) < float(means[-1])
    assert re.search(r"^from hard +\d", text, re.MULTILINE)
    edge = next(line for line in text.splitlines() if line.startswith("low  "))
    assert f"-inf to {order.buckets[0].high:.4g}" in edge


def test_a_summary_works_without_tokens(capsys, order):
    text = inspect(capsys, f"folder={order.folder}")
    assert "high realised" in text
    assert "mean pd" not in text
    assert "verify=true checks every byte, step and position" in text


def test_sketches_rise_and_fall_with_the_shares(order):
    from curriculum.audit.overview import overview

    title, low, high = sketch(overview(order))
    assert "full height is 100%" in title
    low, high = low.removeprefix("low  "), high.removeprefix("high ")
    assert [LEVELS.index(letter) for letter in low] == sorted((LEVELS.index(letter) for letter in low), reverse=True)
    assert LEVELS.index(high[0]) < LEVELS.index(high[-1])


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_picture_shows_buckets_scores_and_sources(capsys, order, material, tmp_path, ending):
    paths = [tmp_path / name / f"plan.{ending}" for name in ("a", "b")]
    for path in paths:
        assert f"picture: {path}" in inspect(capsys, order.folder, *material, "--picture", path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    if ending == "svg":
        for words in ("realised", "planned", "low", "high", "mean pd", "share of samples", "hard", "easy"):
            assert words.encode() in first
    else:
        assert first.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["photo.png", "drawing.svg"])
def test_a_picture_replaces_an_earlier_one_and_nothing_else(order, tmp_path, capsys, name):
    path = tmp_path / name
    for _ in range(2):
        inspect(capsys, order.folder, f"picture={path}")
    path.write_bytes(b"mine")
    assert main(["inspect", str(order.folder), f"picture={path}"]) == 2
    assert f"picture={path} exists and was not written by this command: choose a new file" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"


def test_a_picture_without_scores_shows_only_the_buckets(capsys, order, tmp_path):
    inspect(capsys, order.folder, f"picture={tmp_path / 'plan.svg'}")
    text = (tmp_path / "plan.svg").read_text()
    assert "share of the batch" in text
    assert "mean" not in text


def test_names_from_an_order_are_not_read_as_markup(capsys, tokens_folder, scores_folder, tmp_path):
    preference = Tilt(score="loss_strong - loss_weak", buckets=3, uses={"q1": 2})
    places = {"tokens": str(tokens_folder), "scores": str(scores_folder), "output": str(tmp_path / "[red]order")}
    run(ArrangeSettings(**places, preference=preference, batch_size=16, workers=1))
    text = inspect(capsys, tmp_path / "[red]order", f"tokens={tokens_folder}", f"scores={scores_folder}")
    assert f"ORDER {tmp_path / '[red]order'}" in text
    assert "mean loss_strong - loss_weak" in text


# checks


def test_checks_are_lines_with_figures(capsys, order, material):
    text = inspect(capsys, order.folder, "--verify", *material)
    for name in [
        "manifest",
        "files",
        "batches",
        "composition",
        "deviation",
        "stages",
        "samples",
        "buckets",
        "uses",
        "scores",
    ]:
        assert re.search(rf"^  ok    {name} +\S", text, re.MULTILINE), name
    assert "WRONG" not in text
    assert "PLAN" in text


@pytest.mark.parametrize("name", ["ids.bin", "cells.bin", "plan.bin", "counts.bin"])
def test_a_damaged_order_fails_its_check(capsys, order, tmp_path, name):
    import shutil

    shutil.copytree(order.folder, tmp_path / "bad")
    data = bytearray((tmp_path / "bad" / name).read_bytes())
    data[len(data) // 2] ^= 16
    (tmp_path / "bad" / name).write_bytes(data)
    text = inspect(capsys, tmp_path / "bad", "--verify", code=1)
    assert re.search(rf"^  WRONG files +{name} is damaged in block 0 of 1", text, re.MULTILINE)
    assert "PLAN" not in text


def test_scores_of_other_samples_are_refused(capsys, order, tokens_folder, tmp_path, edit_manifest):
    shutil.copytree(tokens_folder, tmp_path / "tokens")
    edit_manifest(tmp_path / "tokens", lambda fields: fields["facts"].update(tokenizer_fingerprint="0" * 32))
    message = inspect(capsys, order.folder, f"tokens={tmp_path / 'tokens'}", code=2)
    assert f"{order.folder} was built from other tokens" in message


# steps


def test_a_step_shows_its_samples(capsys, order, material, tokens_folder):
    text = inspect(capsys, order.folder, "--step", 5, *material, "samples=3")
    assert f"STEP 5 of {order.steps} of {order.folder}: positions 64 to 79, stage 1 of 3" in text
    assert re.search(r"^buckets +low \d+ \(\d+\.\d\d planned\)", text, re.MULTILINE)
    lines = text.splitlines()
    shown = [line for line in lines if line.startswith("position ")]
    assert [int(re.search(r"sample (\d+)", line).group(1)) for line in shown] == order[64:67].tolist()
    for part in ("bucket ", "source ", " tokens", "pd ", "loss_weak ", "document"):
        assert part in shown[0]
    assert all(lines[lines.index(line) + 1].startswith("    ") for line in shown)
    assert "3 of 16 samples" in text


def test_a_step_shows_whole_texts_or_writes_them(capsys, order, material, tokens_folder, tmp_path):
    tokens = Tokens.open(tokens_folder)
    decode = TextTokenizer.open(tokens.tokenizer_folder).decode
    ids = tokens.sample(order[64:66])
    texts = [decode(row[row >= 0].tolist()) for row in ids]
    shown = inspect(capsys, order.folder, "--step", 5, *material, "samples=2", "text=full")
    assert all(text in shown for text in texts)
    file = tmp_path / "step 5.txt"
    shown = inspect(capsys, order.folder, "--step", 5, *material, "samples=2", f"text={file}")
    assert f"text of 2 samples: {file}" in shown
    written = file.read_text("utf-8")
    assert all(text in written for text in texts)
    assert written.count("--- position") == 2


def test_tokens_show_what_they_hold_before_what_they_were_made_from(capsys, tokens_folder):
    lines = inspect(capsys, tokens_folder).splitlines()
    rows = [line.split("\u2502")[1].strip() for line in lines if line.count("\u2502") > 2]
    kinds = [row.split()[0] for row in rows if row]
    assert kinds.index("slice") < kinds.index("config") < kinds.index("input")
    assert any("train" in row for row in rows)
    assert sum(kind == "input" for kind in kinds) <= 12


def test_a_step_without_tokens_shows_what_the_order_knows(capsys, order):
    text = inspect(capsys, order.folder, "step=1")
    assert re.search(rf"^position 0  sample {order[0]}  bucket (low|high)$", text, re.MULTILINE)


def test_a_run_knows_its_order_and_what_it_consumed(capsys, trained, order):
    text = inspect(capsys, trained, "--step=6")
    assert f"STEP 6 of {order.steps} of {order.folder}" in text
    assert "consumed     by the run as planned: 16 samples" in text
    assert "recorded     train/loss 4.0000 over steps 5 to 8 (train/loss 3.5000 before)" in text
    assert "loss_strong" in text
    assert "the run has not reached this step" in inspect(capsys, trained, "--step", STEPS_DONE + 1)
    whole = inspect(capsys, trained)
    assert f"RUN {trained}: arm pdpc, seed 4, not running (it was killed or failed: its lock is free)" in whole
    assert "mean pd" in whole


def test_a_run_shows_its_attempts_its_checkpoints_and_its_skipped_steps(capsys, trained):
    facts = json.loads((trained / "run.json").read_text())
    begun = {"started_at": "2026-11-01T08:00:00+00:00", "world_size": 1, "zero_stage": 1, "versions": {"pdpc": "0.1.0"}}
    changed = {"field": "optimizer.lr", "old": 0.001, "new": 0.002}
    second = {**begun, "step": 8, "world_size": 2, "accepted": [changed], "set_aside": ["metrics.jsonl"]}
    facts["lives"] = [{**begun, "step": 0}] * 9 + [second]
    (trained / "run.json").write_text(json.dumps(facts))
    skipped = [{"step": 3, "reason": "not_finite", "samples": [7]}, {"step": 10, "reason": "spike", "samples": [8]}]
    skipped.append({"step": 10, "reason": "rollback", "weights_of_step": 8, "positions": [128, 160]})
    (trained / "skipped.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in skipped) + '{"step": 11')
    lines = inspect(capsys, trained).splitlines()
    assert "attempts      10, the last 8:" in lines
    assert "attempt 3     2026-11-01T08:00:00+00:00 from step 0, 1 rank, ZeRO 1, PDPC 0.1.0" in lines
    assert "attempt 10    2026-11-01T08:00:00+00:00 from step 8, 2 ranks, ZeRO 1, PDPC 0.1.0" in lines
    assert "              accepted optimizer.lr: 0.001 -> 0.002" in lines
    assert "              damaged, set aside: metrics.jsonl" in lines
    assert any(line.startswith("checkpoints   steps 4, 8; newest written 20") for line in lines)
    assert "skipped       2 steps: 3 (not finite), 10 (spike); samples in skipped.jsonl" in lines
    assert "rolled back   from the weights of step 10 to those of 8" in lines
    for damage in ("garbage{", '{"step": 3}', '{"step": "3", "reason": "spike"}', "[3]"):
        (trained / "skipped.jsonl").write_text(damage + "\n")
        text = inspect(capsys, trained)
        assert re.search(r"^skipped +\? .*skipped\.jsonl.*: restore it, or remove it", text, re.MULTILINE), damage
        assert "PLAN" in text


def test_a_run_that_consumed_something_else_is_reported(capsys, trained, order):
    path = trained / "consumed" / "world_00002_rank_00001_width_8.bin"
    rows = np.fromfile(path, dtype=np.int64).reshape(-1, 9)
    lost, foreign = int(rows[5, 4]), int(order[len(order) - 1])
    rows[5, 4] = foreign
    rows.tofile(path)
    text = inspect(capsys, trained, "--step=6", code=1)
    assert f"1 not in the order (such as {foreign}), 1 in the order but not consumed (such as {lost})" in text
    assert "as planned" in inspect(capsys, trained, "--step=7")


def losses_shown(text):
    return [float(number) for number in re.findall(r"^position .*?  loss (\S+)", text, re.MULTILINE)]


@pytest.mark.parametrize(("step", "asked"), [(11, "step 8, before"), (8, "step 4, before"), (2, "step 4, which has")])
def test_samples_are_sorted_by_the_loss_under_the_checkpoint_before_the_step(
    capsys, trained, order, tokens_folder, step, asked
):
    from curriculum.scores.scorer import mean_losses

    text = inspect(capsys, trained, "--step", step, "--by-loss", "samples=16")
    assert f"under the checkpoint of {asked}" in text
    found = losses_shown(text)
    tokens = Tokens.open(tokens_folder)
    seed = int(re.search(r"step (\d)", asked).group(1))
    expected = mean_losses(decoder_of(tokens, seed), tokens, order[(step - 1) * 16 : step * 16])
    assert found == sorted(found, reverse=True)
    assert np.allclose(found, sorted(expected, reverse=True), atol=1e-3)


def test_by_loss_with_another_model(capsys, order, tokens_folder, tmp_path):
    tokens = Tokens.open(tokens_folder)
    decoder = decoder_of(tokens)
    state, tokenizer = decoder.state_dict(), tokens.tokenizer_folder
    export(tmp_path / "hf", decoder.config, state, dtype=torch.float32, tokenizer_folder=tokenizer, card="")
    words = ["step=2", f"tokens={tokens_folder}", "by_loss=true", f"loss_model={tmp_path / 'hf'}"]
    assert len(losses_shown(inspect(capsys, order.folder, *words))) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step=0"], "step=0 is not in 1 .. "),
        (["step=100000"], "step=100000 is not in 1 .. "),
        (["step=1", "samples=0"], "samples=0 must be at least 1"),
        (["by_loss=true"], "by_loss=true needs a step: give step=N"),
        (["step=1", "by_loss=true"], "by_loss=true needs the tokens: give tokens=FOLDER"),
        (["step=1", "loss_model=m"], "loss_model=m needs by_loss=true"),
        (["scores=s"], "scores=s needs the TOKENS that were scored: give tokens=FOLDER too"),
        (["picture=plan.jpg"], "picture=plan.jpg must end with .svg or .png"),
        (["step=1", "text=full"], "text=full needs the text: give tokens=FOLDER"),
        (["text=full"], "text=full needs step=N"),
        (["step=1", "text=x.pdf"], "text=x.pdf must be start, full or a file to write, NAME.txt"),
        (["parent=p"], "parent=p needs verify=true"),
        (["tokens=/nowhere"], "/nowhere does not exist"),
    ],
)
def test_mistakes_are_refused(capsys, order, words, message):
    assert message in inspect(capsys, order.folder, *words, code=2)


def test_a_step_by_loss_needs_a_model(capsys, order, tokens_folder):
    message = inspect(capsys, order.folder, "step=1", "by_loss=true", f"tokens={tokens_folder}", code=2)
    assert "inspect a RUN, or give loss_model=FOLDER" in message


def test_keys_of_orders_are_refused_for_other_artifacts(capsys, tokens_folder):
    message = inspect(capsys, tokens_folder, "step=3", code=2)
    assert f"step=3 needs an ORDER or a RUN, but {tokens_folder} is a tokens: leave it out" in message


def test_a_run_whose_order_is_gone_says_so(capsys, trained):
    facts = json.loads((trained / "run.json").read_text())
    facts["paths"]["order"] = "/nowhere"
    (trained / "run.json").write_text(json.dumps(facts))
    assert "no longer at /nowhere. Restore it" in inspect(capsys, trained, "step=1", code=2)


def test_torch_is_only_imported_for_losses(trained):
    program = (
        "import sys\n"
        "from launch.cli import main\n"
        f"codes = [main(['inspect', {str(trained)!r}, *words]) for words in (['--verify'], ['--step', '3'])]\n"
        "print('codes', codes, [name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "codes [0, 0] []" in done.stdout, done.stdout + done.stderr


# replanned orders


def test_a_replanned_order_shows_its_descent_and_its_parents_buckets(capsys, order, tmp_path):
    from curriculum.arrange.interleave import OrderWriter

    old = order.manifest.facts
    cursor = 20 * 16
    facts = {key: value for key, value in old.items() if key not in ("blocks", "id_dtype", "cell_dtype")} | {
        "buckets": [*old["buckets"], {"name": "all@20", "low": None, "high": None, "samples": 1, "uses": 1}],
        "strata": [*old["strata"], "all"],
        "cells": {"stratum": [0, 0, 1], "bucket": [0, 1, 2]},
        "ancestors": ["f" * 32, order.fingerprint],
        "replanned_at": {"step": 20, "cursor": cursor},
    }
    counts = np.zeros((order.steps, 3))
    counts[:20, :2] = order.cell_counts[0:20]
    counts[20:, 2] = order.cell_counts[20 : order.steps].sum(axis=1)
    inputs = {**order.manifest.inputs, "parent": order.fingerprint}
    with (
        create(tmp_path / "child", "order", config=order.manifest.config, inputs=inputs) as draft,
        OrderWriter(draft, len(order), 3) as writer,
    ):
        writer.positions(order[:], np.where(np.arange(len(order)) < cursor, order.cell[:], 2))
        writer.steps(counts, counts)
        draft.facts.update(writer.finish(), **facts)
    words = ["--verify", f"parent={order.folder}", f"picture={tmp_path / 'child.svg'}"]
    text = inspect(capsys, tmp_path / "child", *words)
    assert f"parent        {order.fingerprint}" in text
    assert f"ancestors     {'f' * 32}, {order.fingerprint}" in text
    assert "replanned     after step 20, 320 samples consumed" in text
    assert re.search(r"^  ok    read +the first 320 positions match the parent's", text, re.MULTILINE)
    assert re.search(r"^low planned .* -$", text, re.MULTILINE)
    assert re.search(r"^all@20 planned +- .*100\.0$", text, re.MULTILINE)
    assert "all@20" in (tmp_path / "child.svg").read_text()


def test_a_folder_name_may_hold_special_characters(capsys, tokens_folder, tmp_path):
    place = tmp_path / "a, {b}'s"
    run(ArrangeSettings(tokens=str(tokens_folder), output=str(place), preference=Shuffled(), batch_size=16, workers=1))
    assert f"ORDER {place}" in inspect(capsys, place)
    assert Order.open(place).steps > 0


def test_names_from_the_data_are_shown_as_they_are(tmp_path, capsys):
    names = ["[/red] x", "web [en]", ":smile:", "\x1b[2Jgone", "n" * 300]
    rows = [{"text": f"{index} " + "some words " * 40, "source": names[index % len(names)]} for index in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare = PrepareSettings(
        input=TextSettings(paths=[str(tmp_path / "a.jsonl")]),
        tokenizer=TokenizerSettings(name="train:300"),
        seq_len=32,
        output=str(tmp_path / "tokens"),
    )
    write_tokens(prepare, Console(quiet=True))
    place = {"tokens": prepare.output, "output": str(tmp_path / "order")}
    run(ArrangeSettings(**place, preference=Shuffled(stratify_by="source"), batch_size=40, stages=1, workers=1))
    words = (tmp_path / "order", f"tokens={prepare.output}")
    for printed in (inspect(capsys, *words), inspect(capsys, *words, "step=2"), inspect(capsys, prepare.output)):
        assert "\x1b" not in printed
        assert not [name for name in names[:3] if name not in printed]
    plan = inspect(capsys, *words, f"picture={tmp_path / 'a.svg'}")
    assert re.search(r"from n{30,40}\u2026 +\d", plan)
    assert "\x1b" not in (tmp_path / "a.svg").read_text()
