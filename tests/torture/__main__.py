"""python -m tests.torture [--count N] [--seed S] [--only NAME] [--replay SEED]: run the campaigns, print a table."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.torture.campaign import Campaign, Tally, campaigns

ROW = "{:<12} {:>9} {:>9} {:>11} {:>9}"


def main(words: list[str]) -> int:
    """Run the campaigns that were asked for; return 0 when every attempt passed, 1 when one failed."""
    known = campaigns()
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Hurt runs on purpose, and count.")
    parser.add_argument("--count", type=int, help="attempts of each campaign (default: what it is meant for)")
    parser.add_argument("--seed", type=int, default=1, help="where the campaigns draw from (default: 1)")
    parser.add_argument("--only", action="append", choices=sorted(known), help="this campaign alone; repeatable")
    parser.add_argument("--replay", type=int, metavar="SEED", help="one attempt, by its seed; with --only")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    asked = parser.parse_args(words)
    if asked.list:
        for campaign in known.values():
            print(f"{campaign.name:<12} {campaign.full:>5}  {campaign.about}")
        return 0
    if asked.replay is not None and len(asked.only or []) != 1:
        parser.error("--replay needs one --only NAME: whose case is it?")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that folders and processes are cleared away
    print(ROW.format("campaign", "attempts", "passed", "seed", "seconds"), flush=True)
    good = True
    for name in asked.only or known:
        tally, seconds = carry_out(known[name], asked.count, asked.seed, asked.replay)
        print(ROW.format(name, tally.attempts, tally.passed, tally.seed, f"{seconds:.1f}"))
        for line in [*tally.failures, *tally.notes]:
            print(f"    {line}")
        sys.stdout.flush()
        good = good and tally.good
    return 0 if good else 1


def carry_out(campaign: Campaign, count: int | None, seed: int, replay: int | None) -> tuple[Tally, float]:
    """Run one campaign in a folder of its own; return its tally and the seconds that it took."""
    work = Path(tempfile.mkdtemp(prefix=f"torture_{campaign.name}_"))
    began = time.perf_counter()
    try:
        if replay is not None:
            return campaign.run(1, replay, work), time.perf_counter() - began
        return campaign.run(count or campaign.full, seed, work), time.perf_counter() - began
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
