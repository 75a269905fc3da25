import json

import pytest

from train.tracking import MetricsFile, read_metrics
from train.tracking.metrics import as_line

RECORD = {"kind": "train", "step": 1, "tokens": 10, "train/loss": 2.5, "bucket/low/loss": None}


def strict(line):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_a_line_is_strict_json_for_any_values():
    assert strict(as_line(RECORD)) == RECORD
    odd = {**RECORD, "train/loss": float("nan"), "train/ppl": float("inf"), "optim/grad_norm": float("-inf")}
    found = strict(as_line(odd))
    assert found["train/loss"] is found["train/ppl"] is found["optim/grad_norm"] is None
    assert found["nonfinite"] == {"train/loss": "nan", "train/ppl": "inf", "optim/grad_norm": "-inf"}
    assert strict(as_line(found)) == found


def test_a_resumed_run_drops_records_after_its_checkpoint(tmp_path):
    first = MetricsFile(tmp_path, 0)
    for step in range(1, 6):
        first.append({**RECORD, "step": step})
    first.append({**RECORD, "kind": "stage", "step": 5})
    first.close()
    with open(first.path, "a") as file:
        file.write('{"torn')
    assert len(read_metrics(first.path)) == 6
    second = MetricsFile(tmp_path, 3)
    second.append({**RECORD, "step": 4})
    second.close()
    assert [record["step"] for record in read_metrics(second.path)] == [1, 2, 3, 4]
    assert not second.stages


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for broken in ("nonsense", "[1]", '{"step": 2}', '{"kind": "train"}', "[" * 100_000):
        path.write_text('{"kind": "train", "step": 1}\n' + broken + '\n{"kind": "train", "step": 3}\n')
        with pytest.raises(ValueError, match=r"metrics\.jsonl line 2 is not a record"):
            read_metrics(path)
