"""A worker of `pdpc pairs score` under any executor: open the job, load the models, score chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import ArtifactError
from curriculum.pairs.pairs import Pairs, Sequences
from curriculum.pairs.scoring import POLICY, REWARD_MODEL, PairScorer, PairScoringJob, PairScoringOptions
from curriculum.scores.job import ScoringWorker
from curriculum.scores.scorer import Reference
from curriculum.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer
from curriculum.work.cpus import usable_cpus
from launch.score.pairs_settings import ScorePairsSettings
from launch.score.references import check_model, identity_of, load_reference
from launch.score.task import device_of, threads
from train.initial import weights_fingerprint
from train.memory.heap import keep_freed_memory
from train.records.layout import RUN

if TYPE_CHECKING:
    import torch

    from models.huggingface.reward import RewardModel


class PairScoreTask:
    """`pdpc pairs score` as a task for the executors. `identities`: fingerprints of the models, if known."""

    verb, on_gpu, memory_hint = "pairs score", True, "processes or batch_size"

    def __init__(self, settings: ScorePairsSettings, identities: Mapping[str, str] | None = None) -> None:
        self._settings, self._identities = settings, identities
        self.output, self.processes, self.threads = Path(settings.output), settings.processes, settings.threads

    def open(self) -> PairScoringJob:
        """Open PAIRS and check the models' folders."""
        from train.faults import fault

        return open_pairs_job(self._settings, fault, self._identities)

    def load(self, job: PairScoringJob, number: int) -> ScoringWorker:
        """Load each model once, on the worker's device."""
        device = device_of(number)
        policy = _policy(self._settings, job, device) if self._settings.policy is not None else None
        reward = _reward(self._settings, job, device) if self._settings.reward_model is not None else None
        if device.type == "cpu":
            keep_freed_memory()
        return ScoringWorker(job, PairScorer(job.pairs, policy, reward, job.pair_options))

    def computing(self) -> AbstractContextManager[None]:
        """Limit PyTorch to the task's CPU threads inside the block."""
        return threads(self.threads)

    def usual_processes(self) -> int:
        """Return one process per GPU, or per core without GPUs."""
        import torch

        return torch.cuda.device_count() or usable_cpus()


def open_pairs_job(
    settings: ScorePairsSettings,
    mark: Callable[[str], None] = lambda point: None,
    identities: Mapping[str, str] | None = None,
) -> PairScoringJob:
    """Open PAIRS and check the models' folders. Raises ValueError for unusable inputs before any weights are read.

    `identities`: fingerprints of the models, if known; computing them reads the weights.
    """
    pairs = {name: Pairs.open(settings.pairs, name) for name in settings.slices}
    first = next(iter(pairs.values()))
    if settings.policy is None and settings.reward_model is None and not first.has_rewards:
        raise ValueError(
            f"there is nothing to score: {first.folder} has no rewards; give policy=MODEL, reward_model=MODEL or both"
        )
    if settings.picture is not None and (settings.policy is None or not (settings.reward_model or first.has_rewards)):
        raise ValueError(f"picture={settings.picture} shows M_AP, which needs a policy and rewards: give both")
    if settings.policy is not None:
        if first.has_positions:
            raise ValueError(
                f"{first.folder} has positions of its own, which scoring does not use: score the pairs that it was "
                "written from"
            )
        if not any((Path(settings.policy) / name).is_file() for name in (RUN, TOKENIZER_FILE)):
            raise ValueError(
                f"policy={settings.policy} is not a RUN and has no {TOKENIZER_FILE}, so its token ids cannot be "
                f"compared with those of {first.folder}: add its {TOKENIZER_FILE}"
            )
        if check_model(POLICY, Path(settings.policy), first, False):
            raise ValueError(
                f"policy={settings.policy} has another tokenizer than {first.folder}: prepare the pairs with the "
                f"policy's tokenizer (pdpc pairs prepare tokenizer={settings.policy})"
            )
    if settings.reward_model is not None:
        _check_reward_model(Path(settings.reward_model), first)
    if identities is None:
        identities = {} if settings.policy is None else {POLICY: identity_of(Path(settings.policy))}
        if settings.reward_model is not None:
            identities = {**identities, REWARD_MODEL: weights_fingerprint(Path(settings.reward_model))}
    options = PairScoringOptions(
        settings.batch_size, settings.precision, threads=settings.threads, weight=settings.weight
    )
    return PairScoringJob(
        Path(settings.output), pairs, identities, options, chunk_tokens=settings.chunk_tokens, mark=mark
    )


def _check_reward_model(folder: Path, pairs: Pairs) -> None:
    from models.huggingface.reward import check_reward_model

    if not (folder / "config.json").is_file():
        raise ArtifactError(f"reward_model={folder} is not a Hugging Face folder: it has no config.json; give another")
    check_reward_model(folder)
    if pairs.chat and not pairs.is_encoded_by(folder):
        raise ValueError(
            f"reward_model={folder} has another tokenizer, and {pairs.folder} was written through a chat template that "
            "it does not know: score the answers where they were generated, and prepare the pairs with reward columns"
        )


def _policy(settings: ScorePairsSettings, job: PairScoringJob, device: torch.device) -> Reference:
    return load_reference(
        Path(str(settings.policy)),
        job.identities[POLICY],
        job.pairs,
        settings.precision,
        device=device,
        on_text=False,
        compiled=False,
    )


class PairRewards:
    """Rewards of the answers of PAIRS by a reward model."""

    def __init__(self, model: RewardModel, pairs: Pairs, fingerprint: str) -> None:
        self._model = model
        self._by_ids = pairs.chat
        """Whether the model reads the token ids themselves: those of a chat template that it shares."""
        self._tokenizer = TextTokenizer.open(pairs.tokenizer_folder)
        how = "token ids" if self._by_ids else "its chat template" if model.has_chat_template else "the text"
        self.description: dict[str, object] = {
            "fingerprint": fingerprint,
            "parameters": model.parameters,
            "scored_by": f"{type(model.model).__name__} of transformers, on {how}",
        }

    def rewards(self, pairs: Pairs, sequences: Sequences) -> NDArray[np.float32]:
        """Return the reward of every sequence, float32 [K]."""
        starts, ends = sequences.prompt_K.tolist(), (sequences.prompt_K + sequences.answer_K).tolist()
        rows = [(row[:start], row[start:end]) for row, start, end in zip(sequences.ids_KS, starts, ends, strict=True)]
        if self._by_ids:
            return self._model.of_ids([[*prompt.tolist(), *answer.tolist()] for prompt, answer in rows])
        extra = (pairs.end_of_text, pairs.bos)
        prompts = [self._tokenizer.decode([i for i in prompt.tolist() if i not in extra]) for prompt, _ in rows]
        # Decoded together: some tokenizers drop a space at the start of a text.
        whole = [self._tokenizer.decode([i for part in row for i in part.tolist() if i not in extra]) for row in rows]
        answers = [text.removeprefix(prompt) for text, prompt in zip(whole, prompts, strict=True)]
        return self._model.of_texts(prompts, answers)


def _reward(settings: ScorePairsSettings, job: PairScoringJob, device: torch.device) -> PairRewards:
    import torch

    from models.huggingface.reward import RewardModel

    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    model = RewardModel(Path(str(settings.reward_model)), dtype, device)
    return PairRewards(model, next(iter(job.pairs.values())), job.identities[REWARD_MODEL])
