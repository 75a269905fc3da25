"""Scores of single answers: the columns next to the margins in SCORES of PAIRS.

`pdpc pairs score` writes, for every slice, <slice>.parquet with one row per pair (margins, for `arrange` and `select`)
and <slice>.answers.parquet with one row per answer, pair by pair, the chosen one first:

    sample int64, answer int32 (0: chosen), tokens int32, logp float32 (the policy's log-probability of the answer, in
    nats, summed over its tokens), reward float32; `logp` or `reward` is left out if it was not scored
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from curriculum.artifact.files import reading
from curriculum.artifact.guard import WholeFile
from curriculum.artifact.parquet import open_parquet
from curriculum.pairs.pairs import FloatArray, Pairs
from curriculum.scores.scores import Scores

LOGP, REWARD = "logp", "reward"


def answers_file(slice_name: str) -> str:
    """Return the name of the file with a slice's answers."""
    return f"{slice_name}.answers.parquet"


class AnswerScores:
    """Scores of every answer of one slice of PAIRS, in memory: 4 bytes per answer and column.

    DPO reads its frozen reference here: `logps` of the policy before training, so that no second model is in memory.
    """

    def __init__(self, folder: str | Path, pairs: Pairs) -> None:
        """Read the answers' scores of `pairs`.

        Raises ArtifactError if the folder is not SCORES of these pairs, or is damaged.
        """
        scores = Scores.open(folder, pairs.slice)
        scores.check(pairs)
        self.folder, self.pairs, self.fingerprint = scores.folder, pairs, scores.fingerprint
        self.model: str | None = scores.manifest.inputs.get("model/policy")
        """Fingerprint of the scored policy's weights; None: only rewards were scored."""
        path = scores.folder / answers_file(pairs.slice)
        if path.name not in scores.manifest.files:
            raise ValueError(f"{scores.folder} has no scores of answers: write it with pdpc pairs score")
        whole = WholeFile(path, scores.manifest.files[path.name])
        whole.begin()
        with reading(path, "score again"), open_parquet(path) as file:
            names = [name for name in (LOGP, REWARD) if name in file.schema_arrow.names]
            table = file.read(names)
            self._columns = {name: np.asarray(table.column(name).to_numpy(), dtype=np.float32) for name in names}
        whole.check()
        assert all(len(column) == pairs.answers for column in self._columns.values()), "one row per answer"

    @property
    def names(self) -> list[str]:
        """Names of the columns: logp, reward, or both."""
        return list(self._columns)

    def logps(self, ids: npt.ArrayLike) -> FloatArray:
        """Return the policy's log-probability of every answer of pairs, float32 [K], as `Pairs.sequences` orders them.

        Nats, summed over the answer's tokens. Raises ValueError if no policy was scored.
        """
        return self._column(LOGP, ids, "policy=MODEL")

    def rewards(self, ids: npt.ArrayLike) -> FloatArray:
        """Return the explicit reward of every answer of pairs, float32 [K]. Raises ValueError if there are none."""
        return self._column(REWARD, ids, "reward_model=MODEL")

    def _column(self, name: str, ids: npt.ArrayLike, remedy: str) -> FloatArray:
        if name not in self._columns:
            raise ValueError(f"{self.folder} has no {name} of answers: run pdpc pairs score with {remedy}")
        column: FloatArray = self._columns[name][self.pairs.answer_rows(np.asarray(ids))]
        return column
