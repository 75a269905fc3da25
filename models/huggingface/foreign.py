"""A model of another architecture, computed by transformers: what every token costs, and nothing else.

Shapes: B samples, T tokens (S = T + 1 with the last label), N = B * T, R rows of a batch, L their length, P real tokens
of a batch, W width, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.attention import Documents
from models.huggingface.admission import position_limit
from models.huggingface.folder import weight_files
from models.huggingface.probe import check_causal, plain_head, probe_ids
from models.huggingface.rows import document_rows
from models.losses.cross_entropy import CHUNK_LOGITS, linear_cross_entropy

TOKENS_AT_ONCE = 1 << 13
"""Tokens in one forward pass, padding included."""

OLD_TABLES = re.compile(r"(\.(attn|attention)\.(masked_)?bias|rotary_emb\.inv_freq)$")
"""Names of masks and rotary tables that older versions of transformers stored: they follow from the config."""


class ForeignModel:
    """A LossModel around a causal model of transformers, with the losses that `Decoder.forward` defines.

    Each document of a sample is a row of its own, at positions from 0 on: no architecture can look from one into
    another. The logits of a batch are never there at once where the head is a plain matrix (`plain_head`); where it is
    not, a batch is as long as CHUNK_LOGITS allows, or one document.
    """

    def __init__(self, model: Any, name: str, end_of_text: int | None, limit: int | None) -> None:
        self.model = model.eval()
        self.end_of_text = end_of_text
        self.device: torch.device = model.device
        known = model.get_input_embeddings().weight.shape[0]
        ids_RL, mask_RL = probe_ids(known, limit, self.device)
        with torch.inference_mode():
            logits_RLV = check_causal(model, ids_RL, mask_RL, name)
            self.plain = plain_head(model, ids_RL, mask_RL, logits_RLV)
        self.logit_count: int = logits_RLV.shape[-1]
        self.vocab_size: int = min(known, self.logit_count)

    def parameter_count(self) -> int:
        """Return the number of parameters, shared ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @torch.inference_mode()
    def losses(self, ids_BS: Tensor, documents: Documents | None = None) -> Tensor:
        """Return the loss of every label, float32 [B, T] on the host, as LossModel says."""
        ids_BS = ids_BS.cpu()
        ids_N, labels_N = ids_BS[:, :-1].flatten(), ids_BS[:, 1:].flatten()
        losses_N = torch.zeros(len(labels_N))
        at_once = TOKENS_AT_ONCE if self.plain else min(TOKENS_AT_ONCE, CHUNK_LOGITS // self.logit_count)
        for places_RL, real_RL in document_rows(ids_BS, self.end_of_text, at_once, documents):
            places_P = places_RL[real_RL]
            found_P = self._losses(
                ids_N[places_RL].masked_fill(~real_RL, 0).to(self.device),
                real_RL.to(self.device),
                labels_N[places_P].to(self.device),
            )
            losses_N[places_P] = found_P.cpu()
        return losses_N.view(ids_BS.shape[0], -1)

    def _losses(self, ids_RL: Tensor, real_RL: Tensor, labels_P: Tensor) -> Tensor:
        asked = {"input_ids": ids_RL, "attention_mask": real_RL.long(), "use_cache": False}
        if self.plain is None:
            return nn.functional.cross_entropy(self.model(**asked).logits[real_RL].float(), labels_P, reduction="none")
        body, head = self.plain
        hidden_PW = body(**asked).last_hidden_state[real_RL]
        if head.bias is None:
            return linear_cross_entropy(hidden_PW, head.weight, labels_P)[1]
        chunk = max(1, CHUNK_LOGITS // self.logit_count)
        found = []
        for hidden_CW, labels_C in zip(hidden_PW.split(chunk), labels_P.split(chunk), strict=True):
            found.append(nn.functional.cross_entropy(head(hidden_CW).float(), labels_C, reduction="none"))
        return torch.cat(found)


def load_foreign(folder: Path, dtype: torch.dtype, device: torch.device, *, end_of_text: int | None) -> ForeignModel:
    """Return the causal model of a folder that `check_foreign` admits, its weights as `dtype`.

    ValueError, naming the folder, for tensors that are missing, unexpected or of another shape, and for a model that is
    not causal. Reads safetensors of the folder alone; no code of the model's own, no network.
    """
    from transformers import AutoModelForCausalLM

    weight_files(folder)
    with _quiet():
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused with the others
            output_loading_info=True,
        )
    _check_report(folder, report)
    return ForeignModel(model.to(device), str(folder), end_of_text, position_limit(folder))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing progress bars, and its report as a table: `_check_report` tells it."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _check_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Raise ValueError where the weights are not those of the config: transformers draws what is missing."""
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = [name for name in sorted(map(str, report.get(key) or ())) if not OLD_TABLES.search(name)]
        if found:
            raise ValueError(
                f"{folder}: {key.replace('_', ' ')} {', '.join(found[:3])} ({len(found)} in all): the folder is "
                "incomplete or its config.json belongs to other weights; fetch it again"
            )
