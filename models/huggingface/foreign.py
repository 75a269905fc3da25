"""A model of another architecture, run by transformers, only to compute per-token losses.

Shapes: B samples, T tokens (S = T + 1 with the last label), N = B * T, R rows of a batch, L their length, P real tokens
of a batch, W width, V vocabulary, C tokens per chunk.
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
from models.huggingface.folder import stored_tensors
from models.huggingface.probe import check_causal, plain_head, probe_ids
from models.huggingface.rows import document_rows
from models.losses.cross_entropy import CHUNK_LOGITS, linear_cross_entropy

TOKENS_AT_ONCE = 1 << 13
"""Tokens in one forward pass, padding included."""

OLD_TABLES = re.compile(r"(\.(attn|attention)\.(masked_)?bias|rotary_emb\.inv_freq)$")
"""Masks and RoPE tables stored by older versions of transformers, which the config determines."""

MOST_TABLES = 1 << 30
"""Most bytes of masks and RoPE tables that a model computes, in addition to the bytes of its weights."""


class ForeignModel:
    """A LossModel that wraps a causal model of transformers; losses are defined as in `Decoder.forward`.

    Each document of a sample becomes a separate row with positions from 0, so no architecture can attend across
    documents. If the head is a plain matrix (`plain_head`), the logits of a batch are never materialised at once;
    otherwise a batch is as long as CHUNK_LOGITS allows, or one document.
    """

    def __init__(
        self, model: Any, name: str, end_of_text: int | None, limit: int | None, input_only: int | None = None
    ) -> None:
        self.model = model.eval()
        self.end_of_text, self.input_only = end_of_text, input_only
        self.device: torch.device = model.device
        known = model.get_input_embeddings().weight.shape[0]
        ids_RL, mask_RL = probe_ids(known, limit, self.device)
        with torch.inference_mode():
            logits_RLV = check_causal(model, ids_RL, mask_RL, name)
            self.plain = plain_head(model, ids_RL, mask_RL, logits_RLV)
        self.logit_count: int = logits_RLV.shape[-1]
        self.vocab_size: int = min(known, self.logit_count)

    def parameter_count(self) -> int:
        """Return the number of parameters; shared ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @torch.inference_mode()
    def losses(self, ids_BS: Tensor, documents: Documents | None = None) -> Tensor:
        """Return the loss of every label, float32 [B, T] on the host; see LossModel."""
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
        if self.input_only is not None:
            losses_N[labels_N == self.input_only] = 0
        return losses_N.view(ids_BS.shape[0], -1)

    def _losses(self, ids_RL: Tensor, real_RL: Tensor, labels_P: Tensor) -> Tensor:
        inputs = {"input_ids": ids_RL, "attention_mask": real_RL.long(), "use_cache": False}
        if self.plain is None:
            return nn.functional.cross_entropy(self.model(**inputs).logits[real_RL].float(), labels_P, reduction="none")
        body, head = self.plain
        hidden_PW = body(**inputs).last_hidden_state[real_RL]
        if head.bias is None:
            return linear_cross_entropy(hidden_PW, head.weight, labels_P)[1]
        chunk = max(1, CHUNK_LOGITS // self.logit_count)
        found = []
        for hidden_CW, labels_C in zip(hidden_PW.split(chunk), labels_P.split(chunk), strict=True):
            found.append(nn.functional.cross_entropy(head(hidden_CW).float(), labels_C, reduction="none"))
        return torch.cat(found)


def load_foreign(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    *,
    end_of_text: int | None,
    input_only: int | None = None,
) -> ForeignModel:
    """Return the causal model of a folder that passes `check_foreign`, its weights as `dtype`.

    Raises ValueError, with the folder, for tensors that are missing, unexpected or of another shape, and for a model
    that is not causal. Reads only the folder's safetensors: no custom modeling code, no network.
    """
    from transformers import AutoModelForCausalLM

    with _quiet():
        _check_memory(folder)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in the report, and rejected with the others
            output_loading_info=True,
        )
    _check_report(folder, report)
    return ForeignModel(model.to(device), str(folder), end_of_text, position_limit(folder), input_only)


def _check_memory(folder: Path) -> None:
    """Raise ValueError if the model that config.json describes takes memory that its weights do not account for."""
    from transformers import AutoConfig, AutoModelForCausalLM

    _, stored = stored_tensors(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # each architecture fails in its own way
        raise ValueError(
            f"{folder / 'config.json'}: transformers cannot build the model ({type(error).__name__}: {error}): restore "
            "the file"
        ) from error
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tables = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if parameters > stored or tables > stored + MOST_TABLES:
        raise ValueError(
            f"{folder / 'config.json'} describes {parameters:,} parameters and {tables:,} bytes of tables, but the "
            f"weights in the folder have only {stored:,} bytes: download the folder again"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and its loading report: `_check_report` raises what matters."""
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
    """Raise ValueError if the weights do not match the config: transformers would randomly initialise missing ones."""
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = [name for name in sorted(map(str, report.get(key) or ())) if not OLD_TABLES.search(name)]
        if found:
            raise ValueError(
                f"{folder}: {key.replace('_', ' ')} {', '.join(found[:3])} ({len(found)} in total): the folder is "
                "incomplete or its config.json belongs to other weights; download it again"
            )
