"""PAIRS: what was written is read back as sequences, with the answers alone as labels, and damage is reported."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.mapped import UnreadableError
from curriculum.pairs.pairs import Pairs, open_samples
from curriculum.pairs.writer import Pair
from curriculum.tokens.tokens import IGNORED
from tests.random_pairs import EOT, SEQ_LEN, random_pair, write_pairs


def drawn(rewards: bool = True, positions: bool = False) -> dict[tuple[int, str], list[Pair]]:
    rng = np.random.default_rng(0)
    places = [(0, "web"), (0, "books"), (1, "web"), (0, "math")]
    numbers = {place: range(10 * i, 10 * i + n) for i, (place, n) in enumerate(zip(places, (9, 4, 3, 6), strict=True))}
    return {
        place: [random_pair(rng, origin, rewards=rewards, positions=positions) for origin in origins]
        for place, origins in numbers.items()
    }


@pytest.mark.parametrize("positions", [False, True])
def test_sequences_are_what_was_written(tmp_path: Path, positions: bool) -> None:
    parts = drawn(positions=positions)
    pairs = Pairs.open(write_pairs(tmp_path / "pairs", parts, rewards=True, positions=positions))
    assert pairs.sources == ["books", "math", "web"]
    written = [pair for source in pairs.sources for pair in parts[0, source]]
    assert len(pairs) == len(written) == 19
    ids = np.random.default_rng(1).permutation(19)
    found = pairs.sequences(ids, SEQ_LEN + 1)
    rewards, row = pairs.rewards(ids), 0
    for number, index in enumerate(ids):
        pair = written[index]
        assert pairs.origin(index) == pair.origin
        assert found.rows_N1[number] == row
        assert pairs.prompt(index).tolist() == pair.prompt.tolist()
        for answer, reward in zip(pair.answers, pair.rewards or (), strict=True):
            whole = [*pair.prompt.tolist(), *answer.tolist()]
            rest = [IGNORED] * (SEQ_LEN + 1 - len(whole))
            assert found.ids_KS[row].tolist() == whole + rest
            unseen = [IGNORED] * (len(pair.prompt) - 1)
            assert found.labels_KT[row].tolist() == unseen + answer.tolist() + rest
            assert rewards[row] == np.float32(reward)
            if positions:
                assert found.positions_KS is not None
                assert pair.positions is not None
                assert found.positions_KS[row].tolist() == pair.positions[: len(whole)].tolist() + [0] * len(rest)
            row += 1
    assert found.rows_N1[-1] == row == len(found.ids_KS)
    assert (found.positions_KS is not None) == positions
    labels = [int((part != IGNORED).sum()) for part in np.split(found.labels_KT, found.rows_N1[1:-1])]
    assert pairs.real_tokens(ids).tolist() == labels
    first = [sum(min(len(answer), 2) for answer in written[index].answers) for index in ids]
    assert pairs.real_tokens(ids, first=2).tolist() == first
    pairs.recheck()


def test_padded_to_the_longest_and_rejected_if_wider(tmp_path: Path) -> None:
    pairs = Pairs.open(write_pairs(tmp_path / "pairs", drawn(), rewards=True))
    found = pairs.sequences([3, 0])
    assert found.ids_KS.shape[1] == (found.prompt_K + found.answer_K).max()
    assert pairs.sequences([]).ids_KS.shape == (0, 0)
    with pytest.raises(ValueError, match=r"a sequence of slice 'train' of .* has \d+ tokens, more than 3"):
        pairs.sequences([3, 0], 3)
    with pytest.raises(ValueError, match=r"sample id 19 is not in \[0, 19\)"):
        pairs.sequences([19])


def test_sources_and_slices_as_in_tokens(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", drawn(), rewards=True)
    pairs = open_samples(folder)
    assert [pairs.samples_of(source) for source in range(3)] == [range(4), range(4, 10), range(10, 19)]
    assert pairs.source_of([0, 4, 18]).tolist() == [0, 1, 2]
    validation = open_samples(folder, "validation")
    assert len(validation) == 3
    assert validation.fingerprint != pairs.fingerprint
    assert pickle.loads(pickle.dumps(pairs)).fingerprint == pairs.fingerprint
    with pytest.raises(ValueError, match="slice='reference' is unknown: PAIRS have train and validation"):
        open_samples(folder, "reference")


def test_the_fingerprint_changes_with_a_token_a_reward_or_the_length(tmp_path: Path) -> None:
    def fingerprint(name: str, pair: Pair, **options: int) -> str:
        return Pairs.open(write_pairs(tmp_path / name, {(0, "a"): [pair]}, rewards=True, **options)).fingerprint

    pair = Pair(np.array([1, 2]), [np.array([3]), np.array([4, EOT])], 0, [1.0, 0.5])
    other = pair._replace(prompt=np.array([1, 5])), pair._replace(rewards=[1.0, 0.25])
    prints = {fingerprint("same", pair), fingerprint("longer", pair, seq_len=12)}
    assert fingerprint("again", pair) in prints
    assert len(prints | {fingerprint(f"other{i}", p) for i, p in enumerate(other)}) == 4


def test_no_rewards_and_damage_are_named(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", drawn(rewards=False))
    with pytest.raises(ValueError, match="has no rewards: prepare it with input"):
        Pairs.open(folder).rewards([0])
    file = folder / "train.answers.bin"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    with pytest.raises(UnreadableError, match=r"train\.answers\.bin"):
        Pairs.open(folder)
    file.write_bytes(data[:-4])
    with pytest.raises(ArtifactError, match=r"train\.answers\.bin has .* bytes instead of"):
        Pairs.open(folder)
