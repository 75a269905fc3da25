"""Adapter of the decoder for lm-evaluation-harness: text in, log-likelihoods and greedy text out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train.evaluation.harness.scorer import Scorer


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer saved in `folder` with transformers, from local files only and without code from there."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer: give the folder of a saved one, as in TOKENS")
    return AutoTokenizer.from_pretrained(str(folder.absolute()), local_files_only=True, trust_remote_code=False)


def template_start(tokenizer: Any) -> int | None:
    """Return the special token that a tokenizer of transformers puts before a text; None if it puts none."""
    whole, text = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    return int(whole[0]) if whole[:1] != text[:1] else None


def harness_model(scorer: Scorer, tokenizer: Any, bos: int | None = None) -> Any:
    """Return an `lm_eval.api.model.LM` over `scorer`, with the conventions of the harness's own HFLM.

    A prompt is `bos`, where the model's documents start with it, and the tokens of its text; the tokenizer's own
    template is not applied. An empty context becomes the token that starts documents, which is never a label. White
    space between context and continuation belongs to the continuation. The harness sees a single rank: the scorer
    distributes the work, so every rank has all requests and all answers.
    """
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    prefix = _prefix_token(scorer, tokenizer) if bos is None else bos
    end = _end_token(scorer, tokenizer)

    class HarnessModel(TemplateLM):  # type: ignore[misc]
        """Encodes the harness's requests and passes them to the scorer."""

        @property
        def eot_token_id(self) -> int:
            return prefix

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            ids = list(tokenizer.encode(string, add_special_tokens=False))
            # Like HFLM: a text that already begins with BOS does not get another one.
            return ids if bos is None or add_special_tokens is False or ids[:1] == [bos] else [bos, *ids]

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            return scorer.log_likelihoods([(context, continuation) for _, context, continuation in requests])

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
            windows: list[tuple[int, tuple[list[int], list[int]]]] = []
            for index, request in enumerate(requests):
                parts = get_rolling_token_windows(
                    self.tok_encode(request.args[0], add_special_tokens=False), prefix, scorer.max_length, 1
                )
                windows += [(index, make_disjoint_window(part)) for part in parts]
            totals = [0.0] * len(requests)
            scores = scorer.log_likelihoods([pair for _, pair in windows])
            for (index, _), (nats, _) in zip(windows, scores, strict=True):
                totals[index] += nats
            return totals

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            texts = [""] * len(requests)
            groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
            for index, request in enumerate(requests):
                options = normalize_gen_kwargs(request.args[1])
                if options.get("do_sample"):
                    raise ValueError(
                        f"{request.args[1]} requests sampling: only greedy tasks (do_sample: false) are supported"
                    )
                stops = tuple(stop for stop in handle_stop_sequences(options["until"], eos=None) if stop)
                groups.setdefault((options["max_gen_toks"], stops), []).append(index)
            for (new_tokens, stops), indices in groups.items():

                def finished(added: list[int], stops: tuple[str, ...] = stops) -> bool:
                    text = tokenizer.decode(added, skip_special_tokens=True)
                    return added[-1] == end or any(stop in text for stop in stops)

                prompts = [self.tok_encode(requests[index].args[0]) or [prefix] for index in indices]
                for index, added in zip(
                    indices, scorer.continuations(prompts, new_tokens=new_tokens, finished=finished), strict=True
                ):
                    kept = added[:-1] if added and added[-1] == end else added
                    text = tokenizer.decode(kept, skip_special_tokens=True)
                    texts[index] = postprocess_generated_text(text, list(stops), None)
            return texts

    return HarnessModel()


def _prefix_token(scorer: Scorer, tokenizer: Any) -> int:
    """Return the token that starts a document: that of the model, else of the tokenizer."""
    for token in (scorer.decoder.config.end_of_text, tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ValueError(
        f"neither the model nor the tokenizer of {tokenizer.name_or_path} has a token that starts a document: "
        "set model.end_of_text"
    )


def _end_token(scorer: Scorer, tokenizer: Any) -> int | None:
    """Return the token that ends a document: that of the model, else of the tokenizer."""
    end = scorer.decoder.config.end_of_text
    return tokenizer.eos_token_id if end is None else end
