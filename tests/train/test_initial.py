"""Initial weights from a folder: what is rejected with which words, and that an engine gets exactly these weights."""

import shutil

import pytest
import torch

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.mapped import UnreadableError
from curriculum.tokens.tokens import Tokens
from models.config import DecoderConfig
from models.decoder import build
from models.huggingface import export
from tests.composed import train_settings
from train import checkpoint
from train.engine import Engine
from train.initial import open_initial

WORDS = ["output=o", "arm=a", "data.tokens=t", "data.order=o", "micro_batch_size=4", "model=demo_weak"]
SHAPE = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "ffn": 48, "max_seq_len": 16, "end_of_text": 0}
SAME = ["model.width=32", "model.heads=4", "model.ffn=48"]


@pytest.fixture(scope="module")
def folder(tokens_folder, tmp_path_factory):
    """A Hugging Face folder with the tokenizer of TOKENS, one embedding per token of it."""
    path = tmp_path_factory.mktemp("models") / "hf"
    written(path, Tokens.open(tokens_folder))
    return path


def written(path, tokens, **changes):
    config = DecoderConfig(**{"vocab_size": tokens.vocab_size, **SHAPE, **changes})
    given = {"dtype": torch.float32, "tokenizer_folder": tokens.tokenizer_folder, "card": None, "bos": None}
    export(path, config, build(config, 7).state_dict(), **given)


def opened(tokens_folder, *words):
    tokens = Tokens.open(tokens_folder)
    settings = train_settings(*WORDS, *words)
    decoder = settings.model.decoder_config(tokens.vocab_size, tokens.seq_len, tokens.end_of_text)
    return open_initial(settings, tokens, decoder), settings, decoder


def test_without_init_there_is_none(tokens_folder):
    assert opened(tokens_folder)[0] is None
    with pytest.raises(ValueError, match="no effect without init"):
        opened(tokens_folder, "init_average=2")


def test_another_model_is_rejected_with_the_words_that_fit(tokens_folder, folder):
    with pytest.raises(ValueError, match=r"a vocabulary of 320 instead of 300.*: add ") as caught:
        opened(tokens_folder, f"init={folder}")
    words = str(caught.value).partition(": add ")[2].split()
    assert set(words) == {*SAME, "model.vocab_multiple=300"}
    assert opened(tokens_folder, f"init={folder}", *words)[2].vocab_size == 300


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_theta": 500000.0}, "rope_theta=10000.0 instead of 500000.0: add model.rope_theta=500000.0"),
        ({"tie_embeddings": True}, "tie_embeddings=False instead of True: add model.tie_embeddings=true"),
        ({"explicit_head_size": 16}, "has heads of 16, not width / heads"),
        ({"vocab_size": 256}, "has embeddings of 256 tokens, but .* has ids up to 299"),
    ],
)
def test_what_the_weights_were_trained_with_must_agree(tokens_folder, tmp_path, changes, words):
    written(tmp_path / "hf", Tokens.open(tokens_folder), **{"vocab_size": 320, **changes})
    with pytest.raises(ValueError, match=words):
        opened(tokens_folder, f"init={tmp_path / 'hf'}", *SAME)


def test_rotary_positions_may_change_if_asked(tokens_folder, tmp_path):
    written(tmp_path / "hf", Tokens.open(tokens_folder), vocab_size=320)
    words = [f"init={tmp_path / 'hf'}", *SAME, "model.rope_theta=500000"]
    with pytest.raises(ValueError, match=r"add model.rope_theta=10000.0 \(or, .* init_rope=true\)"):
        opened(tokens_folder, *words)
    assert opened(tokens_folder, *words, "init_rope=true")[2].rope_theta == 500000
    with pytest.raises(ValueError, match=r"layers=1 instead of 2: add model.layers=2$"):
        opened(tokens_folder, *words, "init_rope=true", "model.layers=1")


def test_another_tokenizer_is_rejected(tokens_folder, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"reads other token ids .* tokenizer.name="):
        opened(tokens_folder, f"init={copy}", *SAME)


def test_a_folder_of_something_else_is_rejected(tokens_folder, folder, tmp_path):
    for place in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ValueError, match="give a Hugging Face folder, a finished RUN, or"):
            opened(tokens_folder, f"init={place}")
    with pytest.raises(ValueError, match="choose among a run's weights"):
        opened(tokens_folder, f"init={folder}", "init_weights=running")
    with pytest.raises(ValueError, match="init_weights='best' is unknown"):
        opened(tokens_folder, f"init={folder}", "init_weights=best")


def test_the_fingerprint_is_that_of_the_weights(tokens_folder, folder, tmp_path):
    words = [*SAME, "model.vocab_multiple=300"]
    shutil.copytree(folder, tmp_path / "copy")
    first, moved = (opened(tokens_folder, f"init={place}", *words)[0] for place in (folder, tmp_path / "copy"))
    assert first.fingerprint == moved.fingerprint
    path = tmp_path / "copy" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert opened(tokens_folder, f"init={tmp_path / 'copy'}", *words)[0].fingerprint != first.fingerprint


def test_weights_that_change_after_their_fingerprint_was_taken_are_not_used(tokens_folder, folder, tmp_path):
    path = tmp_path / "copy" / "model.safetensors"
    shutil.copytree(folder, tmp_path / "copy")
    words = [*SAME, "model.vocab_multiple=300", f"init={tmp_path / 'copy'}"]
    initial = opened(tokens_folder, *words)[0]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    initial.read()  # the same bytes: a copy, or a touch, does no harm
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UnreadableError, match="copy was written to after its fingerprint was taken"):
        initial.read()


@pytest.mark.parametrize(
    ("stage", "precision"), [(0, "fp32"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "bf16"), (3, "fp32")]
)
def test_an_engine_gets_the_float32_weights_and_fresh_moments(world, tokens_folder, folder, stage, precision):
    words = [*SAME, "model.vocab_multiple=300", f"zero.stage={stage}", f"precision={precision}", "averaging.decay=0.9"]
    initial, settings, decoder = opened(tokens_folder, f"init={folder}", *words)
    engine = Engine(build(decoder, seed=0), settings, 4, world)
    checkpoint.fill(engine, initial.read)
    expected = build(decoder, seed=7).state_dict()
    for fragment in engine.fragments():
        weights = expected[fragment.name].flatten()[fragment.start :][: len(fragment.tensors["param"])]
        assert torch.equal(fragment.tensors["param"].cpu(), weights), fragment.name
        assert not fragment.tensors["exp_avg"].any()
    with engine.whole_weights():
        for name, parameter in engine.decoder.named_parameters():
            assert torch.equal(parameter.float(), expected[name].to(parameter.dtype).float()), name
    assert engine.updates() == 0


def test_weights_that_are_not_finite_are_rejected(world, tokens_folder, folder):
    initial, settings, decoder = opened(tokens_folder, f"init={folder}", *SAME, "model.vocab_multiple=300")
    state = dict(initial.read())
    state["norm.weight"] = torch.full_like(state["norm.weight"], torch.nan)
    engine = Engine(build(decoder, seed=0), settings, 4, world)
    with pytest.raises(ArtifactError, match=r"norm.weight of the initial weights is not finite"):
        checkpoint.fill(engine, lambda: state)
