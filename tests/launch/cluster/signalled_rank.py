"""A rank that reports its exit code on SIGTERM, as those of `pdpc train` do; it loads no torch."""

import os
import signal
import time

from train.distributed import heartbeat

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _frame: heartbeat.leave(128 + number))
    heartbeat.report_in()
    print(f"rank {os.environ['RANK']} is ready\n", end="", flush=True)
    time.sleep(600)
