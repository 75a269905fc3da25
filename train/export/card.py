"""The training section of an exported run's model card: which data, in which order, and how far."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from curriculum.artifact.files import fingerprint_of
from curriculum.artifact.manifest import Manifest
from curriculum.tokens.tokenizer import TextTokenizer
from models.config import DecoderConfig
from models.huggingface.card import model_card, table


def run_card(
    facts: dict[str, Any],
    checkpoint: Manifest,
    config: DecoderConfig,
    dtype: str,
    how: str | None = None,
    tokenizer: TextTokenizer | None = None,
) -> str:
    """Return the model card of a checkpoint of the run whose run.json is `facts`, its weights stored as `dtype`.

    `how` describes which weights of the run they are; `tokenizer` is the exported one.
    """
    versions = ", ".join(f"{name} {value}" for name, value in sorted(facts["versions"].items()))
    making = "\n".join(
        [
            "## Training\n",
            table(_progress(facts, checkpoint) | ({"weights of": how} if how else {}), "what", "value"),
            "## Data\n",
            "The order of the data is a file. These fingerprints identify the model and what it read:\n",
            table(_fingerprints(facts, checkpoint), "what", "fingerprint"),
            _preference(facts),
            "In training, documents packed into one sample did not attend to each other: an end-of-text token starts "
            "a document.\n",
            *([] if tokenizer is None else [_special_tokens(tokenizer)]),
            f"Trained with {versions}.\n",
        ]
    )
    return model_card(config, dtype, title=facts["arm"], making=making)


def _special_tokens(tokenizer: TextTokenizer) -> str:
    end = f"`{tokenizer.end_of_text_token}` (id {tokenizer.end_of_text})"
    if tokenizer.bos is None:
        seen, adds = "then the tokens of its text, without a BOS token", "adds no special tokens"
    elif tokenizer.bos == tokenizer.end_of_text:
        seen, adds = "which is also its BOS token, then the tokens of its text", "adds it before the text"
    else:
        bos = f"`{tokenizer.bos_token}` (id {tokenizer.bos})"
        seen, adds = f"{bos}, then the tokens of its text", f"adds {bos} before the text"
    return (
        f"A document in training was {end}, {seen}. `tokenizer(text)` {adds}, as the run's own benchmarks did; the "
        f"model ends a text with {end}.\n"
    )


def _progress(facts: dict[str, Any], checkpoint: Manifest) -> dict[str, str]:
    held = checkpoint.facts
    return {
        "arm": facts["arm"],
        **(
            {"initial weights": f"{started['of']} ({Path(started['folder']).name})"}
            if (started := facts.get("initial"))
            else {"seed of the initial weights": str(facts["seed"])}
        ),
        "step": f"{held['step']:,}",
        "tokens seen": f"{held['tokens']:,}",
        "samples seen": f"{held['cursor']:,}",
        "hash of what was seen, in order": str(held.get("consumed_hash", "not recorded")),
    }


def _fingerprints(facts: dict[str, Any], checkpoint: Manifest) -> dict[str, str]:
    """Return the fingerprints of everything the weights depend on. The scores are those the order was arranged by."""
    found: dict[str, str | None] = {
        **{name: value for name, value in facts["fingerprints"].items() if name not in ("scores", "init")},
        "scores of held-out samples": facts["fingerprints"].get("scores"),
        "initial weights": facts["fingerprints"].get("init"),
        "checkpoint": checkpoint.fingerprint,
    }
    arranged = facts.get("arranged")
    if arranged is not None:
        inputs = arranged["inputs"]
        found["scores"] = inputs.get("scores") or inputs.get("own_scores")
        found["preference"] = fingerprint_of(arranged["preference"]) if arranged["preference"] else None
        found["parent of the order"] = inputs.get("parent")
    return {name: f"`{value}`" for name, value in sorted(found.items()) if value}


def _preference(facts: dict[str, Any]) -> str:
    arranged = facts.get("arranged")
    if arranged is None or arranged["preference"] is None:
        return "The run does not record the preference of its order; the order's manifest does.\n"
    subject = "The order was replanned; its later part was" if arranged["inputs"].get("parent") else "The order was"
    if "twin" in arranged:
        subject = f"The order is the {arranged['twin']} twin of one that was"
    return f"{subject} arranged by this preference:\n\n    {json.dumps(arranged['preference'], sort_keys=True)}\n"
