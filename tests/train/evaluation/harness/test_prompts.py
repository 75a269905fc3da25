"""Prompts follow the rule of TOKENS: BOS first, or nothing, whatever the tokenizer's template adds; BOS is no label."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.train.evaluation.harness.material import END, MAX_LENGTH
from train.evaluation.harness.model import harness_model, load_tokenizer, template_start

BOS = "<|begin|>"


class Recorder:
    """A scorer that keeps what it is asked."""

    max_length = MAX_LENGTH

    def __init__(self, end_of_text: int) -> None:
        self.decoder = SimpleNamespace(config=SimpleNamespace(end_of_text=end_of_text))
        self.pairs: list[tuple[list[int], list[int]]] = []

    def log_likelihoods(self, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        self.pairs += pairs
        return [(-1.0, True)] * len(pairs)

    def continuations(self, prompts: list[list[int]], **_: Any) -> list[list[int]]:
        self.pairs += [(prompt, []) for prompt in prompts]
        return [[] for _ in prompts]


@pytest.fixture
def tokenizer(assets: Path, tmp_path: Path) -> Any:
    """The tokenizer of the assets, with a template that puts BOS before and END after a text."""
    from tokenizers import Tokenizer, processors

    made = Tokenizer.from_file(str(assets / "tokenizer" / "tokenizer.json"))
    made.add_special_tokens([BOS])
    ids = [(token, made.token_to_id(token)) for token in (BOS, END)]
    made.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {END}", special_tokens=ids)
    made.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": END}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize("with_bos", [False, True])
def test_prompts_and_labels(tokenizer: Any, with_bos: bool) -> None:
    bos, end = tokenizer.convert_tokens_to_ids([BOS, END])
    assert template_start(tokenizer) == bos
    scorer: Any = Recorder(end)
    model = harness_model(scorer, tokenizer, bos if with_bos else None)
    before = [bos] if with_bos else []
    text = tokenizer.encode("the cat sees a dog", add_special_tokens=False)
    context = tokenizer.encode("the cat", add_special_tokens=False)
    ask = [SimpleNamespace(args=args) for args in (("the cat", " sees a dog"), ("", "the cat"))]
    model.loglikelihood(ask)
    model.loglikelihood_rolling([SimpleNamespace(args=("the cat sees a dog",))])
    model.generate_until([SimpleNamespace(args=("the cat", {"until": ["."]}))])
    start = [bos if with_bos else end]
    assert scorer.pairs == [
        ([*before, *context], text[len(context) :]),
        (start, context),
        (start, text),  # every label is of the text
        ([*before, *context], []),
    ]


def test_a_text_that_begins_with_bos_gets_no_other(tokenizer: Any) -> None:
    bos, end = tokenizer.convert_tokens_to_ids([BOS, END])
    scorer: Any = Recorder(end)
    ids = harness_model(scorer, tokenizer, bos).tok_encode(f"{BOS}the cat")
    assert ids.count(bos) == 1
