"""The command line: fast help, and invalid input rejected with a one-line error before anything starts."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from curriculum.arrange import arrange
from curriculum.artifact.create import create, write_manifest
from curriculum.artifact.manifest import open_manifest
from curriculum.text.text import TextSettings
from curriculum.tokens.job import run as prepare
from curriculum.tokens.settings import PrepareSettings
from curriculum.tokens.tokenizer import TokenizerSettings
from curriculum.tokens.tokens import Tokens
from launch.cli import VERBS, main
from launch.cluster import supervisor
from models.config import DecoderConfig
from models.decoder import build
from models.huggingface import export
from train.config import compose
from train.config.keys import field_docstrings

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "deepspeed", "transformers", "hydra", "datasets", "lm_eval", "wandb", "matplotlib")


def refused(capsys, *words):
    """Run a verb that must exit with code 2; return its one-line error."""
    code = main([str(word) for word in words])
    message = capsys.readouterr().err.strip()
    assert code == 2, message
    assert message.startswith(f"pdpc {words[0]}: ") or message.startswith(f"{words[0]}: "), message
    assert "\n" not in message
    assert "Traceback" not in message
    return message


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch):
    """Fail a test in which an invalid run starts its ranks."""

    def started(command, environment):
        pytest.fail(f"ranks were started: {command}")

    monkeypatch.setattr(supervisor, "supervise", started)


def prepared(folder, text, **changes):
    """Return TOKENS of a text with the same settings as `tokens_folder`."""
    settings = {"seq_len": 32, "validation_fraction": 0.1, "reference_fraction": 0.2, "seed": 1}
    tokenizer = TokenizerSettings(name=changes.pop("tokenizer", "train:300"))
    source = TextSettings(paths=[str(text)])
    prepare(PrepareSettings(input=source, tokenizer=tokenizer, output=str(folder), **settings | changes))
    return folder


@pytest.fixture(scope="module")
def other_tokens(tokens_folder, tmp_path_factory):
    """TOKENS of the same text with the same tokenizer, split by another seed."""
    folder = tmp_path_factory.mktemp("other") / "tokens"
    return prepared(folder, tokens_folder.parent / "text", seed=2, tokenizer=str(tokens_folder / "tokenizer"))


@pytest.fixture(scope="module")
def foreign_tokens(tokens_folder, tmp_path_factory):
    """TOKENS of the same text with another tokenizer."""
    return prepared(tmp_path_factory.mktemp("foreign") / "tokens", tokens_folder.parent / "text", tokenizer="train:290")


def arranged(tokens, folder):
    arrange.run(arrange.ArrangeSettings(tokens=str(tokens), output=str(folder), batch_size=16, stages=2))
    return folder


@pytest.fixture(scope="module")
def order(tokens_folder, tmp_path_factory):
    return arranged(tokens_folder, tmp_path_factory.mktemp("orders") / "order")


@pytest.fixture
def train(tokens_folder, order, tmp_path):
    """Valid command lines of a run, for tests to spoil."""

    def words(**changes):
        keys = {
            "output": tmp_path / "run",
            "arm": "a",
            "data.tokens": tokens_folder,
            "data.order": order,
            "model": "demo_weak",
            "processes": 2,
            "tracker": "none",
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        return ["train", *(f"{key}={value}" for key, value in keys.items())]

    return words


def jsonl(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def record(text="the cat sees the dog", source="easy"):
    return json.dumps({"text": text, "source": source})


# help


@pytest.mark.parametrize("words", [["--help"], [], ["--version"]], ids=["help", "nothing", "version"])
def test_help_is_light(words):
    program = (
        "import sys, time\n"
        f"sys.argv = ['pdpc', *{words!r}]\n"
        "import launch.cli\n"
        "code = launch.cli.main()\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules], 'code:', code)\n"
        "print('seconds:', time.process_time())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "heavy: [] code: 0" in done.stdout
    assert float(done.stdout.rsplit("seconds:", 1)[1]) < 1.0
    if words == ["--version"]:
        assert done.stdout.startswith("pdpc 0.")
    else:
        for name, verb in VERBS.items():
            assert f"  {name} " in done.stdout
            assert verb.does in done.stdout


def test_the_help_of_a_verb_and_a_refusal_load_no_torch():
    program = (
        "import sys, launch.cli\n"
        "sys.argv = ['pdpc', 'train', 'log_every=soon']\n"
        "assert launch.cli.main() == 2\n"
        f"for name in {list(VERBS)!r}:\n"
        "    sys.argv = ['pdpc', name, '--help']\n"
        "    assert launch.cli.main() == 0\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "log_every" in done.stderr


def test_the_module_runs_as_a_program():
    command = [sys.executable, "-m", "launch.cli", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pdpc VERB [KEY=VALUE ...]" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("words", [["doctor", "--faults"], ["train", "--help"], ["--version"], ["inspect", "tokens"]])
def test_a_closed_pipe_is_no_failure(words, tokens_folder):
    reads, writes = os.pipe()
    os.close(reads)  # as `| head` does after its last line
    words = [str(tokens_folder) if word == "tokens" else word for word in words]
    command = [sys.executable, "-m", "launch.cli", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=writes, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writes)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize(("stream", "why"), [(">/dev/full", "No space left on device"), (">&-", "it was closed")])
def test_a_command_that_only_prints_fails_if_it_cannot(stream, why, tokens_folder):
    command = ["/bin/sh", "-c", f'"$0" -m launch.cli inspect "$1" {stream}', sys.executable, str(tokens_folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"pdpc: output was lost: standard output cannot be written to ({why})\n"


def test_a_current_folder_that_is_gone_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "pdpc inspect: the current folder was removed: change to one that exists\n"


@pytest.mark.parametrize("stream", [">/dev/full", ">&- 2>&-", "2>&1 | true"])
def test_work_succeeds_without_anyone_to_print_for(stream, tmp_path):
    jsonl(tmp_path / "web.jsonl", *[record(source="\u4e2d")] * 40)
    words = ["prepare", "input.paths=[web.jsonl]", "tokenizer.name=train:300", "seq_len=8", "output=tokens"]
    words += ["validation_fraction=0", "reference_fraction=0", "processes=1"]
    program = f'set -o pipefail; "$0" -m launch.cli {shlex.join(words)} {stream}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = ["bash", "-c", program, sys.executable]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tokens" / "manifest.json").is_file()


def test_curriculum_imports_neither_torch_nor_deepspeed():
    program = "import sys, curriculum; print([name for name in ('torch', 'deepspeed') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def leaves(schema, skip=(), prefix=""):
    """Yield every dotted key of a settings dataclass with its docstring."""
    hints, texts = get_type_hints(schema), field_docstrings(schema)
    for field in fields(schema):
        kind = hints[field.name]
        if field.name in skip:
            continue
        if is_dataclass(kind):
            yield from leaves(kind, (), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", texts[field.name]


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_lists_every_key_with_its_text(name, capsys):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert VERBS[name].does in shown
    schema, _, choices = VERBS[name].load()
    expected = list(leaves(schema, skip=choices))
    for group, options in choices.items():
        for choice, option in options.items():
            assert f"{group}={choice}\n" in shown
            expected += leaves(option, skip=("name",), prefix=f"{group}.")
    assert expected
    for key, text in expected:
        assert text, f"{key} has no text"
        assert f"  {key} = " in shown
        assert f"\n      {text}\n" in shown


def test_an_unknown_verb_is_refused(capsys):
    assert main(["prepair"]) == 2
    message = capsys.readouterr().err.strip()
    assert message == f"pdpc: unknown verb 'prepair': use one of {', '.join(VERBS)}"


# prepare


def test_no_text_is_refused(capsys, tmp_path):
    message = refused(capsys, "prepare", f"output={tmp_path / 'tokens'}")
    assert "no input given: set input.paths" in message


def test_a_folder_without_text_is_refused(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    message = refused(capsys, "prepare", f"input.paths=[{tmp_path / 'empty'}]", f"output={tmp_path / 'tokens'}")
    assert f"{tmp_path / 'empty'} has no file that PDPC reads" in message


BAD_TEXTS = {
    "empty file": ([], "text.jsonl is empty (0 bytes): remove it"),
    "blank lines": (["", " "], "text.jsonl contains no documents: remove it"),
    "no text column": (
        ['{"body": "x", "source": "a"}'],
        "column 'text' is missing; columns are body, source: set input",
    ),
    "no source column": (['{"text": "x"}'], "column 'source' is missing; columns are text: set input.source_column"),
    "broken line": ([record(), record(), '{"text": "torn'], "text.jsonl, line 3: invalid JSON"),
    "a null text": ([record(), '{"text": null, "source": "a"}'], "line 2: column 'text' contains null, not text"),
    "not an object": ([record(), "[1]"], "line 2: contains a list, but every line must be a JSON object"),
}


@pytest.mark.parametrize("tokenizer", ["trained", "found"])
@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_text_is_refused(name, tokenizer, capsys, tmp_path, tokens_folder):
    lines, expected = BAD_TEXTS[name]
    text = jsonl(tmp_path / "text" / "text.jsonl", *lines)
    output = tmp_path / "out" / "tokens"
    choice = {"trained": "train:300", "found": tokens_folder / "tokenizer"}[tokenizer]
    words = [f"input.paths=[{text}]", f"tokenizer.name={choice}", "processes=1", f"output={output}"]
    message = refused(capsys, "prepare", *words)
    assert expected in message
    assert str(text) in message
    assert not output.parent.exists() or not list(output.parent.iterdir())


@pytest.mark.parametrize("name", ["{tmp}/tokenizer", "./no/tokenizer", "no-such-tokenizer/anywhere"])
def test_a_tokenizer_that_is_not_there_is_refused(name, capsys, tmp_path):
    name = name.format(tmp=tmp_path)
    text = jsonl(tmp_path / "text.jsonl", record())
    message = refused(
        capsys, "prepare", f"input.paths=[{text}]", f"tokenizer.name={name}", f"output={tmp_path / 'out'}"
    )
    assert f"tokenizer.name={name!r}" in message
    assert "give a folder with a tokenizer.json" in message or "check the name and the network" in message


def test_a_folder_without_a_tokenizer_is_refused(capsys, tmp_path):
    text = jsonl(tmp_path / "text.jsonl", record())
    words = [f"input.paths=[{text}]", f"tokenizer.name={tmp_path}", f"output={tmp_path / 'out'}"]
    message = refused(capsys, "prepare", *words)
    assert f"{tmp_path / 'tokenizer.json'} does not exist" in message


# score


def describe_run(folder, **facts):
    """Write the run.json of a run."""
    written = {"arm": "a", "seed": 0, "status": "finished", "parameters": 1, "identity": {}, "versions": {}}
    read = {"fingerprints": {}, "paths": {"tokens": "t", "order": "o", "scores": None}}
    (folder / "run.json").write_text(json.dumps({**written, **read, **facts}))


def reference_run(folder, tokens):
    """Write a RUN folder with one checkpoint of an untrained decoder, as written by a run on `tokens`."""
    part = Tokens.open(tokens, "reference")
    vocabulary = -(-part.vocab_size // 64) * 64
    config = DecoderConfig(
        vocab_size=vocabulary,
        layers=1,
        width=16,
        heads=2,
        kv_heads=2,
        ffn=16,
        max_seq_len=part.seq_len,
        end_of_text=part.end_of_text,
    )
    checkpoint = folder / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True)
    state = build(config, 0).state_dict()
    starts = {"starts": json.dumps(dict.fromkeys(state, 0))}
    fragments = {f"{name}/param": tensor.flatten().clone() for name, tensor in state.items()}
    save_file(fragments, checkpoint / "rank_00000.safetensors", metadata=starts)
    facts = {"step": 1, "cursor": 1, "tokens": 1, "updates": 1, "world_size": 1, "model": vars(config)}
    write_manifest(checkpoint, "checkpoint", config={}, inputs={}, facts=facts)
    prints = {"tokenizer": part.tokenizer_fingerprint, "tokens": part.fingerprint}
    describe_run(folder, fingerprints=prints)
    return folder


def score_words(tokens, weak, strong, output):
    models = [f"models.weak={weak}", f"models.strong={strong}"]
    return ["score", f"tokens={tokens}", *models, f"output={output}", "processes=1"]


def test_a_reference_run_of_another_tokenizer_is_refused(capsys, tmp_path, tokens_folder, foreign_tokens):
    weak = reference_run(tmp_path / "weak", tokens_folder)
    strong = reference_run(tmp_path / "strong", foreign_tokens)
    message = refused(capsys, *score_words(tokens_folder, weak, strong, tmp_path / "scores"))
    assert "model 'strong' was trained with another tokenizer" in message
    assert "choose another model" in message
    assert not (tmp_path / "scores").exists()


def hugging_face_model(folder, tokens, tokenizer):
    part = Tokens.open(tokens)
    config = DecoderConfig(
        vocab_size=320,
        layers=1,
        width=16,
        heads=2,
        kv_heads=2,
        ffn=16,
        max_seq_len=part.seq_len,
        end_of_text=part.end_of_text,
    )
    export(folder, config, build(config, 0).state_dict(), dtype=torch.float32, tokenizer_folder=tokenizer, card=None)
    return folder


def test_a_hugging_face_model_of_another_tokenizer_scores_the_text(tmp_path, tokens_folder, foreign_tokens):
    fits = hugging_face_model(tmp_path / "weak", tokens_folder, tokens_folder / "tokenizer")
    other = hugging_face_model(tmp_path / "strong", tokens_folder, foreign_tokens / "tokenizer")
    assert main(score_words(tokens_folder, fits, other, tmp_path / "scores")) == 0
    models = json.loads((tmp_path / "scores" / "manifest.json").read_text())["facts"]["models"]
    assert models["weak"]["scored_by"] == "the decoder"
    assert "on the text by its own tokenizer" in models["strong"]["scored_by"]


def test_a_hugging_face_model_without_a_tokenizer_needs_same_tokens(capsys, tmp_path, tokens_folder):
    fits = hugging_face_model(tmp_path / "weak", tokens_folder, tokens_folder / "tokenizer")
    bare = hugging_face_model(tmp_path / "strong", tokens_folder, tokens_folder / "tokenizer")
    (bare / "tokenizer.json").unlink()
    words = score_words(tokens_folder, fits, bare, tmp_path / "scores")
    assert "has no tokenizer.json" in refused(capsys, *words)
    assert main([*words, "same_tokens=[strong]"]) == 0


@pytest.mark.parametrize("kind", ["nowhere", "text"])
def test_a_folder_without_a_model_is_refused(kind, capsys, tmp_path, tokens_folder):
    folder = {"nowhere": tmp_path / "nowhere", "text": tokens_folder.parent / "text"}[kind]
    message = refused(capsys, *score_words(tokens_folder, folder, folder, tmp_path / "scores"))
    assert f"{folder} is neither a RUN folder nor a Hugging Face folder" in message


# arrange


def test_scores_of_other_tokens_are_refused_by_arrange(capsys, tmp_path, other_tokens, scores_folder):
    words = [f"tokens={other_tokens}", f"scores={scores_folder}", f"output={tmp_path / 'order'}", "batch_size=16"]
    message = refused(capsys, "arrange", *words)
    assert f"{scores_folder} scores other tokens" in message
    assert "run pdpc score on these tokens" in message


def test_an_order_of_other_tokens_is_not_overwritten(capsys, tokens_folder, other_tokens, tmp_path):
    folder = arranged(tokens_folder, tmp_path / "order")
    before = open_manifest(folder, "order").fingerprint
    words = [f"tokens={other_tokens}", "preference=shuffled", "batch_size=16", "stages=2", f"output={folder}"]
    message = refused(capsys, "arrange", *words)
    assert f"{folder} was written with other settings or inputs (tokens: found" in message
    assert "choose another output, or remove the folder" in message
    assert open_manifest(folder, "order").fingerprint == before


def spoiled_scores(scores_folder, folder):
    """Return a copy of SCORES with one NaN in every slice."""
    old = open_manifest(scores_folder, "scores")
    with create(folder, "scores", config={}, inputs=old.inputs) as draft:
        for name in ("train", "validation"):
            table = pq.read_table(scores_folder / f"{name}.parquet")
            place = table.column_names.index("loss_strong")
            values = table.column("loss_strong").to_numpy().copy()
            values[7] = np.nan
            pq.write_table(table.set_column(place, "loss_strong", [values]), draft.path / f"{name}.parquet")
        draft.facts.update(old.facts)
    return folder


def test_a_score_that_is_not_a_number_is_refused(capsys, tmp_path, tokens_folder, scores_folder):
    scores = spoiled_scores(scores_folder, tmp_path / "scores")
    words = [f"tokens={tokens_folder}", f"scores={scores}", f"output={tmp_path / 'order'}", "batch_size=16"]
    message = refused(capsys, "arrange", *words)
    assert f"scores are not finite for 1 samples of {scores}: sample 7 (pd=nan)" in message
    assert "score them again" in message
    assert not (tmp_path / "order").exists()


def test_fewer_samples_than_one_batch_are_refused(capsys, tmp_path, tokens_folder):
    words = [f"tokens={tokens_folder}", "preference=shuffled", "batch_size=100000", f"output={tmp_path / 'order'}"]
    message = refused(capsys, "arrange", *words)
    assert f"has {len(Tokens.open(tokens_folder))} samples to arrange" in message
    assert "lower batch_size or stages, or prepare more text" in message


@pytest.mark.parametrize("harm", ["torn", "lost", "no manifest", "broken manifest"])
def test_torn_tokens_are_refused(harm, capsys, tmp_path, tokens_folder):
    folder = tmp_path / "tokens"
    shutil.copytree(tokens_folder, folder)
    victim = max((path for path in folder.rglob("*.bin") if "train" in path.as_posix()), key=lambda p: p.stat().st_size)
    if harm == "torn":
        os.truncate(victim, victim.stat().st_size - 2)
    elif harm == "lost":
        victim.unlink()
    elif harm == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        os.truncate(folder / "manifest.json", 100)
    words = [f"tokens={folder}", "preference=shuffled", "batch_size=16", f"output={tmp_path / 'order'}"]
    message = refused(capsys, "arrange", *words)
    assert str(victim if harm in ("torn", "lost") else folder) in message
    assert "recreate" in message or "it is not a complete tokens artifact" in message


# train: nothing starts


def test_train_refuses_an_order_of_other_tokens(capsys, train, other_tokens, order):
    message = refused(capsys, *train(data__tokens=other_tokens))
    assert f"{order} arranges other tokens" in message
    assert "run pdpc arrange on these tokens" in message


def test_train_refuses_scores_of_other_tokens(capsys, train, other_tokens, scores_folder, tmp_path):
    order = arranged(other_tokens, tmp_path / "order")
    message = refused(capsys, *train(data__tokens=other_tokens, data__order=order, data__scores=scores_folder))
    assert f"{scores_folder} scores other tokens" in message


def test_train_refuses_a_score_that_is_not_a_number(capsys, train, scores_folder, tmp_path):
    scores = spoiled_scores(scores_folder, tmp_path / "scores")
    message = refused(capsys, *train(data__scores=scores))
    assert str(scores) in message
    assert "sample 7" in message
    assert "rerun pdpc score" in message


def test_train_refuses_a_validation_slice_without_samples(capsys, train, tokens_folder, tmp_path):
    text = tokens_folder.parent / "text"
    tokens = prepared(tmp_path / "tokens", text, validation_fraction=0.0)
    message = refused(capsys, *train(data__tokens=tokens, data__order=arranged(tokens, tmp_path / "order")))
    assert f"{tokens}" in message
    assert "validation" in message
    assert "prepare" in message


def test_train_refuses_tokens_that_are_torn(capsys, train, tmp_path, tokens_folder):
    folder = tmp_path / "tokens"
    shutil.copytree(tokens_folder, folder)
    victim = max(folder.rglob("*.bin"), key=lambda path: path.stat().st_size)
    os.truncate(victim, 10)
    assert f"{victim} has 10 bytes instead of" in refused(capsys, *train(data__tokens=folder))


def test_train_refuses_micro_batches_that_do_not_divide(capsys, train):
    message = refused(capsys, *train(micro_batch_size=3))
    assert "micro_batch_size=3 on 2 ranks does not divide the order's batch of 16 samples" in message
    assert "use one of micro_batch_size=[1, 2, 4, 8]" in message


def test_train_refuses_more_ranks_than_samples(capsys, train):
    message = refused(capsys, *train(processes=32))
    assert "world_size=32 does not divide the order's batch of 16 samples" in message
    assert "use one of world_size=[1, 2, 4, 8, 16] (those that fit micro_batch_size=8: [1, 2])" in message


def test_train_refuses_benchmarks_that_are_not_there(capsys, train, tmp_path):
    folder = tmp_path / "benchmark"
    message = refused(capsys, *train(benchmarks__task_paths=f"[{folder}]", benchmarks__tasks="[continuation]"))
    assert f"benchmarks.task_paths: {folder} holds no task file" in message
    assert "build the benchmark first" in message


def test_train_refuses_an_empty_output(capsys, train):
    assert "output is empty: name the RUN folder" in refused(capsys, *train(output=""))


def test_train_refuses_an_output_that_is_a_file(capsys, train, tmp_path):
    path = tmp_path / "taken"
    path.write_text("mine")
    message = refused(capsys, *train(output=path))
    assert str(path) in message
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("optimizer__lrr", 1, "unknown key 'optimizer.lrr': did you mean optimizer.lr"),
        ("optimizer__lr", "fast", "optimizer.lr: Value 'fast' of type 'str' could not be converted to Float"),
        ("log_every", 2.5, "log_every: Value '2.5' of type 'float' could not be converted to Integer"),
        ("micro_batch_size", "[1,2]", "micro_batch_size: Value '[1, 2]' of type 'list'"),
        ("optimizer__lr", -1, "optimizer.lr=-1.0 must be above 0"),
        ("model__width", 65, "model.width=65 must be an even multiple of model.heads=2"),
        ("model", "40b", "model=40b is unknown: use one of 1.3b"),
        ("model__heads", 3, "model.width=64 must be an even multiple of model.heads=3"),
    ],
)
def test_train_refuses_an_override(key, value, expected, capsys, train):
    assert expected in refused(capsys, *train(**{key: value}))


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("model/demo_weak.yaml", "width: 64", "widht: 64", "model.widht"),
        ("model/demo_weak.yaml", "width: 64", "width: wide", "model.width: Value 'wide' of type 'str'"),
        ("model/demo_weak.yaml", "width: 64", "width: [64", "demo_weak"),
        ("schedule/gentle.yaml", "warmup_share: null", "warmup_share: 2.0", "warmup_share=2.0"),
        ("train.yaml", "- model: demo", "- modle: demo", "modle"),
    ],
)
def test_a_mistake_in_a_yaml_file_is_refused(file, old, new, expected, capsys, train, tmp_path, monkeypatch):
    configs = tmp_path / "configs"
    shutil.copytree(compose.CONFIGS, configs)
    text = (configs / file).read_text()
    assert old in text
    (configs / file).write_text(text.replace(old, new))
    monkeypatch.setattr(compose, "CONFIGS", configs)
    assert expected in refused(capsys, *train())


def test_an_unknown_key_and_a_wrong_type_in_a_preference_are_refused(capsys, tmp_path, tokens_folder, monkeypatch):
    configs = tmp_path / "configs"
    shutil.copytree(compose.CONFIGS, configs)
    monkeypatch.setattr(compose, "CONFIGS", configs)
    path = configs / "preference" / "pdpc.yaml"
    text = path.read_text()
    words = [f"tokens={tokens_folder}", "scores=s", f"output={tmp_path / 'order'}"]
    path.write_text(text + "stepness: 3\n")
    assert "did you mean preference.steepness" in refused(capsys, "arrange", *words)
    path.write_text(text.replace("steepness: 10.0", "steepness: ten"))
    assert "preference.steepness: Value 'ten' of type 'str'" in refused(capsys, "arrange", *words)
    message = refused(capsys, "arrange", "preference=nope", *words)
    names = sorted(path.stem for path in (configs / "preference").glob("*.yaml"))
    assert message.endswith(f"preference=nope is unknown: use one of {', '.join(names)}")


# evaluate, export, report, inspect


@pytest.mark.parametrize(
    ("folder", "remedy"), [("nowhere", "give a run folder"), ("no_run", "give the folder of a run that has started")]
)
def test_a_folder_that_is_no_run_is_refused(folder, remedy, capsys, tmp_path):
    (tmp_path / "no_run").mkdir()
    place = tmp_path / folder
    for words in (["evaluate", f"run={place}"], ["export", f"run={place}", f"output={tmp_path / 'out'}"]):
        message = refused(capsys, *words)
        assert f"{place} is not a RUN folder" in message
        assert "give the output of pdpc train" in message
    message = refused(
        capsys, "report", f"runs.shuffled={place}", f"runs.pdpc={place}", f"output={tmp_path / 'page.html'}"
    )
    assert str(place) in message
    assert remedy in message
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "page.html").exists()


def test_a_run_without_a_checkpoint_is_refused(capsys, tmp_path, tokens_folder):
    (tmp_path / "run").mkdir()
    paths = {"tokens": str(tokens_folder), "scores": None}
    prints = {"validation": Tokens.open(tokens_folder, "validation").fingerprint}
    describe_run(tmp_path / "run", status="running", paths=paths, fingerprints=prints)
    for words in (["evaluate"], ["export", f"output={tmp_path / 'out'}"]):
        assert "has no complete checkpoint yet" in refused(capsys, *words, f"run={tmp_path / 'run'}")


def test_a_run_of_another_program_is_refused(capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"name": "not ours"}')
    for words in (["evaluate"], ["export", f"output={tmp_path / 'out'}"]):
        message = refused(capsys, *words, f"run={tmp_path / 'run'}")
        assert f"{tmp_path / 'run' / 'run.json'} has no arm" in message
        assert "it is not a run of pdpc train" in message


def test_inspect_refuses_what_is_no_artifact(capsys, tmp_path):
    assert f"{tmp_path} has no readable manifest.json" in refused(capsys, "inspect", f"folder={tmp_path}")


def test_inspect_finds_a_changed_byte(capsys, tmp_path, tokens_folder):
    folder = tmp_path / "tokens"
    shutil.copytree(tokens_folder, folder)
    victim = max(folder.rglob("*.bin"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[0] ^= 1
    victim.write_bytes(data)
    assert main(["inspect", f"folder={folder}"]) == 0
    capsys.readouterr()
    message = refused(capsys, "inspect", f"folder={folder}", "verify=true")
    assert f"{victim} does not match its checksum" in message


def test_demo_refuses_numbers_that_cannot_be(capsys, tmp_path):
    assert "stages=0 must be at least 1" in refused(capsys, "demo", "stages=0", f"output={tmp_path / 'demo'}")


# supervision, with the real function


@pytest.mark.parametrize("code", [0, 1, 2, 77])
def test_the_exit_code_is_passed_on(code, contained, monkeypatch):
    monkeypatch.undo()
    assert supervisor.supervise(exiting(code), contained) == code


def exiting(code):
    return [sys.executable, "-c", f"raise SystemExit({code})"]


def test_a_killed_launcher_gives_its_signal(contained, monkeypatch):
    monkeypatch.undo()
    killed = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    assert supervisor.supervise(killed, contained) == 128 + signal.SIGKILL


SLEEPERS = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def supervise(command):
    """Supervise `command` in a forked process."""
    return supervisor.supervise(command, os.environ)


@pytest.fixture
def supervised(forks, tmp_path, contained):
    """Start a supervisor whose launcher spawns a child and sleeps; return it and the child's process id."""
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    pid_file = tmp_path / "child"
    command = [sys.executable, str(tmp_path / "sleepers.py"), str(pid_file)]
    process = forks.start(f"{__name__}:supervise", {"command": command}, 1, tmp_path / "log", contained)
    deadline = time.monotonic() + 60
    while not pid_file.exists() or not pid_file.read_text():
        assert process.alive(), process.told()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, int(pid_file.read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_descendants(number, supervised):
    process, child = supervised
    process.kill(number)
    assert process.wait(60)[0] in (128 + number, 130, 1)
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1][:3]


def test_children_end_with_a_launcher_that_ends(supervised):
    process, child = supervised
    launcher = int(Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(launcher, signal.SIGKILL)
    assert process.wait(60) == [128 + signal.SIGKILL]


def test_supervise_gives_the_signal_handlers_back(monkeypatch):
    monkeypatch.undo()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert threading.current_thread() is threading.main_thread()
    assert supervisor.supervise(exiting(3), os.environ) == 3
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
