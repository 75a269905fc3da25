"""Questions about one passage are one group."""

from train.evaluation.harness.passages import passage_groups

TEXTS = ["a" * 150, "b" * 150, "c" * 150]


def test_questions_with_the_same_passage_are_a_group() -> None:
    questions = [{"passage": TEXTS[place], "question": f"why {place}?"} for place in (0, 1, 0, 2, 1)]
    assert passage_groups(questions) == [0, 1, 0, 3, 1]


def test_groups_that_share_a_question_are_one() -> None:
    questions = [
        {"passage": TEXTS[0], "hint": "x" * 120},
        {"passage": TEXTS[1]},
        {"passage": TEXTS[1], "hint": "y" * 120},
        {"passage": TEXTS[2], "hint": "y" * 120},
        {"passage": "d" * 150},
    ]
    assert passage_groups(questions) == [0, 1, 1, 1, 4]


def test_short_texts_instructions_and_other_fields_link_nothing() -> None:
    common = {"subject": "law", "instruction": "Read the question and answer it. " * 5, "choices": [TEXTS[0]], "n": 1}
    assert passage_groups([common | {"question": str(number)} for number in range(4)]) == [0, 1, 2, 3]
    assert passage_groups([{"passage": TEXTS[0]}, {"story": TEXTS[0]}, {}, {}, {}]) == [0, 1, 2, 3, 4]
    assert passage_groups(["text", None]) == [0, 1]
    assert passage_groups([]) == []
