"""`pdpc pairs score` and `select`: log-probabilities equal transformers', margins and selections follow from them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from curriculum.order.order import Order
from curriculum.pairs.answers import AnswerScores
from curriculum.pairs.margins import margins_of
from curriculum.pairs.pairs import Pairs
from curriculum.scores.scores import Scores
from launch.cli import main

PAIRS = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokens_folder):
    """A folder with a tiny `policy`, whose tokenizer is that of the session's TOKENS, and `pairs` with rewards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("pairs")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    facts = json.loads((tokens_folder / "manifest.json").read_text())["facts"]
    end = facts["end_of_text"]
    shape |= {"vocab_size": facts["vocab_size"], "max_position_embeddings": 64}
    model = LlamaForCausalLM(LlamaConfig(bos_token_id=end, eos_token_id=end, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(root / "policy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokens_folder / "tokenizer" / name, root / "policy")
    records = []
    for i in range(PAIRS):
        rejected, bad = [f"{i}!", f"{i}{i}?"][: 1 + i % 2], [i % 3, i % 5][: 1 + i % 2]
        record = {"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": rejected}
        records.append({**record, "good": i % 7, "bad": bad})
    (root / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    rewards = ["input.chosen_reward_column=good", "input.rejected_reward_column=bad", "validation_fraction=0.2"]
    words = [
        f"input.paths=[{root}/a.jsonl]",
        f"tokenizer={root}/policy",
        "seq_len=31",
        f"output={root}/pairs",
        *rewards,
    ]
    assert main(["pairs", "prepare", *words]) == 0
    scoring = [f"pairs={root}/pairs", f"policy={root}/policy", f"output={root}/scores"]
    assert main(["pairs", "score", *scoring, "processes=1", "weight=2.5", "batch_size=7"]) == 0
    return root


def test_log_probabilities_are_those_of_transformers(place):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(place / "policy")
    pairs = Pairs.open(place / "pairs")
    ids = np.random.default_rng(0).permutation(len(pairs))
    scores, found = AnswerScores(place / "scores", pairs), pairs.sequences(ids)
    for row, logp in enumerate(scores.logps(ids)):
        start, end = int(found.prompt_K[row]), int(found.prompt_K[row] + found.answer_K[row])
        whole = torch.from_numpy(found.ids_KS[row, :end])[None]
        with torch.no_grad():
            logps = model(whole).logits[0].log_softmax(-1)
        expected = sum(float(logps[at - 1, whole[0, at]]) for at in range(start, end))
        assert logp == pytest.approx(expected, abs=1e-4)
    assert scores.rewards(ids).tolist() == pairs.rewards(ids).tolist()


def test_margins_follow_from_the_answers(place):
    pairs = Pairs.open(place / "pairs")
    ids = np.arange(len(pairs))
    answers, rows = AnswerScores(place / "scores", pairs), pairs.sequences(ids).rows_N1
    expected = margins_of(answers.rewards(ids), answers.logps(ids), pairs.answer_tokens(ids), rows, 2.5).columns()
    scores = Scores.open(place / "scores")
    assert set(scores.names) == set(expected)
    for name, column in expected.items():
        np.testing.assert_allclose(scores.column(name), column, atol=1e-5)


@pytest.mark.parametrize("by", ["m_ap", "implicit", "random"])
def test_the_selected_pairs_and_their_scores(place, tmp_path, by):
    out = [f"output={tmp_path}/kept", f"output_scores={tmp_path}/scores"]
    assert main(["pairs", "select", f"{place}/pairs", f"scores={place}/scores", f"by={by}", "share=0.25", *out]) == 0
    whole, kept = Pairs.open(place / "pairs"), Pairs.open(tmp_path / "kept")
    assert len(kept) == round(0.25 * len(whole))
    assert len(Pairs.open(kept.folder, "validation")) == len(Pairs.open(whole.folder, "validation"))
    old = np.flatnonzero(np.isin(whole.origins, kept.origins))
    assert (kept.sequences(range(len(kept))).ids_KS == whole.sequences(old).ids_KS).all()
    before, after = Scores.open(place / "scores"), Scores.open(tmp_path / "scores")
    values = before.column(by if by != "random" else "m_ap")
    assert after.column(by if by != "random" else "m_ap").tolist() == values[old].tolist()
    reference = AnswerScores(tmp_path / "scores", kept)
    assert reference.logps([1, 0]).tolist() == AnswerScores(place / "scores", whole).logps(old[[1, 0]]).tolist()
    left = np.delete(values, old)
    if by == "m_ap":
        assert values[old].min() >= left.max()
    if by == "implicit":
        assert values[old].max() <= left.min()


def test_pairs_are_arranged_like_tokens(place, tmp_path):
    by = [f"scores={place}/scores", "preference=sorted", "preference.score=m_ap"]
    words = [f"tokens={place}/pairs", "batch_size=4", "stages=1", f"output={tmp_path}/order"]
    assert main(["arrange", *words, *by]) == 0
    order, pairs = Order.open(tmp_path / "order"), Pairs.open(place / "pairs")
    assert order.manifest.inputs["tokens"] == pairs.fingerprint
    values = Scores.open(place / "scores").column("m_ap")[order[: len(order)]]
    assert (np.diff(values) >= 0).all() or (np.diff(values) <= 0).all()
    assert len(order) == len(pairs)


def test_other_tokenizers_other_pairs_and_nothing_to_score_are_rejected(place, tmp_path, capsys):
    shutil.copytree(place / "policy", tmp_path / "other")
    data = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(data))
    words = ["pairs", "score", f"pairs={place}/pairs", f"output={tmp_path}/s"]
    assert main([*words, f"policy={tmp_path}/other"]) == 2
    assert "other has another tokenizer than" in capsys.readouterr().err
    assert main([*words, f"reward_model={place}/policy"]) == 2
    assert "is a LlamaForCausalLM, not a sequence classifier" in capsys.readouterr().err
    select = ["pairs", "select", f"pairs={place}/pairs", f"output={tmp_path}/k"]
    assert main([*select, "share=0.5"]) == 2
    assert "by=m_ap needs scores=FOLDER" in capsys.readouterr().err
    assert main(["pairs", "sort"]) == 2
    assert "'pairs sort' is not a verb: use one of pairs prepare" in capsys.readouterr().err
    table = pq.read_table(place / "scores" / "train.parquet")
    assert table.schema.names[0] == "sample"
