"""The tracker calls of a run, without a model: python -m tests.torture.tracked_run SETTINGS.json.

Makes steps of a few milliseconds with one record each and exits as ranks do; prints its measurements as a line of JSON.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

from train.tracking import MetricsFile, TrackerSettings, start_tracker


def main(path: str) -> None:
    settings = json.loads(Path(path).read_text())
    folder, first = Path(settings["folder"]), settings["first"]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    metrics = MetricsFile(folder, first - 1)
    config = {"optimizer": {"lr": 0.1}, "note": os.environ.get("WANDB_API_KEY", "")}
    started = time.perf_counter()
    tracker = start_tracker(TrackerSettings(**settings["tracker"]), folder, "arm", config, first - 1)
    start_s = time.perf_counter() - started
    log_s = []
    for step in range(first, settings["last"] + 1):
        time.sleep(settings["step_s"])
        record = {
            "kind": "train",
            "step": step,
            "tokens": 100 * step,
            "train/loss": 5.0 / step,
            "bucket/low/loss": None,
        }
        metrics.append(record)
        started = time.perf_counter()
        tracker.log(record)
        log_s.append(time.perf_counter() - started)
    started = time.perf_counter()
    tracker.finish()
    finish_s = time.perf_counter() - started
    metrics.close()
    print(json.dumps({"start_s": start_s, "log_s": log_s, "finish_s": finish_s}), flush=True)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
