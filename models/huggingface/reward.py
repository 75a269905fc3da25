"""A reward model: a Hugging Face folder with a sequence classifier of one label, run by transformers.

Shapes: K texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.huggingface.folder import read_json


def check_reward_model(folder: Path) -> None:
    """Raise ValueError, from its config, unless the folder holds a sequence classifier."""
    config = read_json(folder / "config.json", "name a folder written by save_pretrained")
    architectures = config.get("architectures") or ["nothing"]
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        raise ValueError(
            f"reward_model={folder} is a {architectures[0]}, not a sequence classifier: give a reward model saved as "
            "...ForSequenceClassification, or PAIRS with rewards"
        )


class RewardModel:
    """Gives a prompt with its answer a reward: the classifier's only logit."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        """Load the model. Raises ValueError if the folder holds no classifier of one label."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        check_reward_model(folder)
        self.folder, self._device = folder, device
        try:
            model, said = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=dtype, trust_remote_code=False, output_loading_info=True
            )
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise ValueError(f"reward_model={folder} cannot be loaded ({error}): check the folder") from error
        if missing := sorted(said["missing_keys"]):
            raise ValueError(
                f"reward_model={folder} has no weights for {missing[0]}: it is not a trained reward model; give one"
            )
        if model.config.num_labels != 1:
            raise ValueError(
                f"reward_model={folder} has {model.config.num_labels} labels, a reward model has one: give another"
            )
        self.model: Any = model.eval().to(device)
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self._limit = getattr(model.config, "max_position_embeddings", None)

    @property
    def has_chat_template(self) -> bool:
        """Whether its tokenizer has a chat template."""
        return bool(self._tokenizer.chat_template)

    def of_texts(self, prompts: Sequence[str], answers: Sequence[str]) -> NDArray[np.float32]:
        """Return the rewards of answers to prompts, float32 [K]: by its chat template if it has one."""
        if self.has_chat_template:
            ids = [
                self._tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
                    tokenize=True,
                    return_dict=False,
                )
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
        else:
            texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
            ids = self._tokenizer(texts)["input_ids"]
        return self.of_ids(ids)

    @torch.inference_mode()
    def of_ids(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return the rewards of token sequences, float32 [K]; one at a time, so that none depends on another.

        Raises ValueError for a sequence longer than the model's positions.
        """
        rewards = np.zeros(len(ids), dtype=np.float32)
        for row, sequence in enumerate(ids):
            if self._limit is not None and len(sequence) > self._limit:
                raise ValueError(
                    f"reward_model={self.folder} takes {self._limit} tokens, but an answer with its prompt has "
                    f"{len(sequence)}: prepare shorter pairs, or give another reward model"
                )
            logits = self.model(input_ids=torch.tensor([list(sequence)], device=self._device)).logits
            rewards[row] = float(logits[0, 0])
        return rewards
