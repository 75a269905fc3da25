"""python -m tests.torture [--count N] [--seed S] [--only NAME] [--replay SEED]: run campaigns and print a table."""

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
    """Run the requested campaigns; return 0 if every attempt passed, else 1."""
    known = campaigns()
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Run fault-injection campaigns.")
    parser.add_argument("--count", type=int, help="attempts per campaign (default: the campaign's own)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the campaigns (default: 1)")
    parser.add_argument("--only", action="append", choices=sorted(known), help="run only this campaign; repeatable")
    parser.add_argument("--replay", type=int, metavar="SEED", help="repeat one attempt by its seed; needs --only")
    parser.add_argument("--list", action="store_true", help="list the campaigns and exit")
    options = parser.parse_args(words)
    if options.list:
        for campaign in known.values():
            print(f"{campaign.name:<12} {campaign.full:>5}  {campaign.about}")
        return 0
    if options.replay is not None and len(options.only or []) != 1:
        parser.error("--replay needs exactly one --only NAME")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that folders and processes are cleaned up
    print(ROW.format("campaign", "attempts", "passed", "seed", "seconds"), flush=True)
    good = True
    for name in options.only or known:
        tally, seconds = carry_out(known[name], options.count, options.seed, options.replay)
        print(ROW.format(name, tally.attempts, tally.passed, tally.seed, f"{seconds:.1f}"))
        for line in [*tally.failures, *tally.notes]:
            print(f"    {line}")
        sys.stdout.flush()
        good = good and tally.good
    return 0 if good else 1


def carry_out(campaign: Campaign, count: int | None, seed: int, replay: int | None) -> tuple[Tally, float]:
    """Run one campaign in a temporary folder; return its tally and the seconds it took."""
    work = Path(tempfile.mkdtemp(prefix=f"torture_{campaign.name}_"))
    started = time.perf_counter()
    try:
        if replay is not None:
            return campaign.run(1, replay, work), time.perf_counter() - started
        return campaign.run(count or campaign.full, seed, work), time.perf_counter() - started
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
