"""RUN folders without training: what a rank writes, with random weights."""

import json
from dataclasses import asdict

from safetensors.torch import save_file

from curriculum.artifact.create import create
from models.config import DecoderConfig
from models.decoder import build

STEPS_DONE = 12


def decoder_of(tokens, seed=0):
    vocabulary = -(-tokens.vocab_size // 64) * 64
    return build(
        DecoderConfig(
            vocab_size=vocabulary,
            layers=1,
            width=16,
            heads=2,
            kv_heads=2,
            ffn=16,
            max_seq_len=tokens.seq_len,
            end_of_text=tokens.end_of_text,
        ),
        seed,
    )


def write_checkpoint(run_folder, step, decoder):
    """Write a checkpoint as a rank does, with weights only."""
    with create(run_folder / "checkpoints" / f"step_{step:08d}", "checkpoint", config={}, inputs={}) as draft:
        state = decoder.state_dict()
        weights = {f"{name}/param": weight.flatten().clone() for name, weight in state.items()}
        starts = {"starts": json.dumps(dict.fromkeys(state, 0))}
        save_file(weights, draft.path / "rank_00000.safetensors", metadata=starts)
        draft.facts.update(step=step, model=asdict(decoder.config))
