import re

from train.tracking.console import one_line, time_left

RECORD = {
    "kind": "train", "step": 10, "tokens": 12345, "train/loss": 3.25, "optim/lr": 3e-4, "optim/grad_norm": 0.5,
    "throughput/tokens_per_s": 20513.0, "throughput/mfu": 0.5986, "time/step_s": 12.0, "curriculum/realised/low": 0.75,
}  # fmt: skip


def test_the_line_has_loss_rate_utilisation_and_time_left():
    line = one_line(RECORD, 400)
    for part in ("step 10/400", "tokens 12,345", "loss 3.2500", "lr 3.00e-04", "20,513 tok/s", "MFU 59.9%", "low 0.75"):
        assert part in line
    assert line.endswith("left 1:18:00")
    assert "MFU" not in one_line({key: value for key, value in RECORD.items() if key != "throughput/mfu"}, 400)


def test_colours_are_optional_and_do_not_change_the_text():
    plain, coloured = one_line(RECORD, 400), one_line(RECORD, 400, colour=True)
    assert "\033" not in plain
    assert "\033" in coloured
    assert re.sub(r"\033\[\d+m", "", coloured) == plain
    assert "\033[31m" in one_line({**RECORD, "train/loss": float("nan")}, 400, colour=True)


def test_a_stage_shows_its_losses():
    record = {"kind": "stage", "step": 5, "tokens": 9, "stage": 1, "val/loss": 2.0, "time/evaluation_s": 1.5}
    assert one_line(record, 5) == "step 5/5  tokens 9  stage 1  val/loss 2.0000  (1.5 s)"


def test_times():
    assert [time_left(s) for s in (0, 59.6, 3599, 3600, 172799, 900000)] == [
        "0:00", "1:00", "59:59", "1:00:00", "47:59:59", "10 d 10 h",
    ]  # fmt: skip


def test_the_mix_lists_what_was_read_and_fits_the_line():
    shares = {f"q{n}": 0.0 for n in range(1, 17)} | {"q3": 0.5, "q7": 0.3, "q12": 0.15, "q16@500": 0.05}
    record = {**RECORD, "curriculum/mean_score": 0.4123} | {f"curriculum/realised/{n}": v for n, v in shares.items()}
    del record["curriculum/realised/low"]
    line = one_line(record, 400, letters=200)
    assert "mean score 0.412  mix q3 0.50 q7 0.30 q12 0.15 q16@500 0.05  left" in line
    for letters in (170, 160, 150, 145):
        line = one_line(record, 400, letters=letters)
        assert len(line) <= letters
    assert "q3 0.50" in line
    assert " and " in line
    assert "mix of 4 buckets" in one_line(record, 400, letters=139)
    assert "mix" not in one_line(record, 400, letters=80)
    coloured = one_line(record, 400, colour=True, letters=160)
    assert re.sub(r"\033\[\d+m", "", coloured) == one_line(record, 400, letters=160)
