"""Random elastic schedules: whatever changes on the way, the order is read like a plain list.

PDPC_ELASTIC_SCHEDULES sets their number; `make elastic COUNT=10000` runs the full campaign.
"""

import os

import numpy as np

from curriculum.order.consumed import joined, order_hash, stretch_hash
from curriculum.order.sampler import CurriculumSampler
from curriculum.order.split import Split, cursor_after, divisors

SCHEDULES = int(os.environ.get("PDPC_ELASTIC_SCHEDULES", "300"))
LARGEST_WORLD = 512


class Campaign:
    """What the schedules covered, so that a test can check that they are varied enough."""

    def __init__(self):
        self.worlds, self.lives, self.fallbacks, self.short_steps, self.accumulations = set(), 0, 0, 0, set()

    def run(self, schedule: int) -> None:
        """Read one order over many attempts, each with another world size and micro-batch, and compare with a list."""
        rng = np.random.default_rng([7, schedule])
        batch = int(rng.integers(1, LARGEST_WORLD + 1)) * int(rng.integers(1, 9))
        order = rng.permutation(int(rng.integers(1, 9 * batch)))
        worlds = [size for size in divisors(batch) if size <= LARGEST_WORLD]
        read = [[]]  # global batches; read[s] is what step s consumed
        hashes = [0]
        while (cursor := cursor_after(len(hashes) - 1, batch, len(order))) < len(order):
            world = int(rng.choice(worlds))
            split = Split(batch, world, int(rng.choice(divisors(batch // world))))
            self.worlds.add(world)
            self.accumulations.add(split.accumulation)
            self.lives += 1
            rank = int(rng.integers(world))
            sampler = iter(CurriculumSampler(order, batch, rank, world, cursor, split.micro_batch_size))
            for _ in range(int(rng.integers(1, 5))):
                if cursor == len(order):
                    break
                stop = min(cursor + batch, len(order))
                ids, ends_M = self.step(order, split, cursor, stop)
                begin, *ends = [0, *ends_M.tolist()][rank * split.accumulation :][: split.accumulation + 1]
                for end in ends:
                    assert next(sampler, []) == ids[begin:end].tolist()  # the last step may have fewer lists
                    begin = end
                read.append(ids)
                hashes.append(joined(hashes[-1], stretch_hash(read[-1], cursor)))
                cursor = stop
            if rng.random() < 0.2:  # killed: the next attempt resumes from an earlier step; what followed is discarded
                kept = int(rng.integers(1, len(hashes) + 1))
                del read[kept:], hashes[kept:]
                self.fallbacks += 1
        plain = order.tolist()
        assert [part.tolist() for part in read[1:]] == [plain[i : i + batch] for i in range(0, len(plain), batch)]
        assert np.array_equal(np.sort(np.concatenate(read[1:])), np.arange(len(order)))  # none lost, none repeated
        assert hashes[-1] == order_hash(order, len(order))

    def step(self, order, split, start, stop):
        """The ids that all ranks read in a step, rank after rank, and where their micro-batches end in them."""
        edges_RM = split.edges(start, stop, np.arange(split.world_size))
        firsts, sizes = edges_RM[:, :-1].ravel(), np.diff(edges_RM).ravel()
        ends = np.cumsum(sizes)
        positions = np.repeat(firsts - (ends - sizes), sizes) + np.arange(ends[-1])
        self.short_steps += stop - start < split.batch_size
        return order[positions], ends


def test_elastic_schedules_read_the_order_as_a_plain_list_is_read():
    campaign = Campaign()
    for schedule in range(SCHEDULES):
        campaign.run(schedule)
    print(
        f"{SCHEDULES} schedules, {campaign.lives} lives, {len(campaign.worlds)} world sizes up to "
        f"{max(campaign.worlds)}, {len(campaign.accumulations)} accumulations, {campaign.fallbacks} falls back, "
        f"{campaign.short_steps} short steps"
    )
    if SCHEDULES >= 100:
        assert campaign.lives > 2 * SCHEDULES
        assert campaign.short_steps > SCHEDULES / 2
        assert max(campaign.worlds) > LARGEST_WORLD / 2
