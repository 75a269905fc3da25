"""A workspace shows exactly the logged metrics, in sections by name."""

from pathlib import Path

from train.tracking.panels import SECTIONS, STEP, TOKENS, Plot, Section, sections_of

ROOT = Path(__file__).parents[3]


def test_panels_are_derived_only_from_the_names():
    names = [
        "train/ppl", "train/loss", "bench/a/acc", "bench/a/acc_stderr", "bench/avg", "curriculum/progress",
        "curriculum/planned/low", "curriculum/realised/low", "time/step_s", "stage", STEP, TOKENS, "other/x",
    ]  # fmt: skip
    assert sections_of(names) == [
        Section("train", TOKENS, (Plot("train/loss", ("train/loss",)), Plot("train/ppl", ("train/ppl",)))),
        Section(
            "bench, at stage ends",
            TOKENS,
            (Plot("bench/avg", ("bench/avg",)), Plot("bench/a/acc", ("bench/a/acc",))),
        ),
        Section(
            "curriculum, planned and realised",
            TOKENS,
            (
                Plot("curriculum/progress", ("curriculum/progress",)),
                Plot("curriculum/low", ("curriculum/planned/low", "curriculum/realised/low")),
            ),
        ),
        Section("time", STEP, (Plot("time/step_s", ("time/step_s",)),)),
    ]
    assert sections_of([]) == []


def test_sections_match_the_documentation():
    text = (ROOT / "docs" / "tracking.md").read_text("utf-8")
    table = text[text.index("| section | keys |") :].split("\n\n")[0]
    assert [prefix for prefix in SECTIONS if f"`{prefix}/" not in table] == []
