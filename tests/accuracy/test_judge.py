"""The judge itself: what counts as right, wrong and abstained."""

from __future__ import annotations

import pytest

from tests.accuracy.arena import acceptable
from tests.accuracy.model import Answer, Must, Program, Question, Verdict, judge
from tunowner.core.model import UDP, FlowKey, Grade

FLOW = FlowKey(UDP, bytes(4), 1, bytes(4), 2)
ONE, TWO = Program(7, 100, "/bin/one"), Program(8, 200, "/bin/two")
RIGHT, WRONG, ABSTAINED = Verdict.RIGHT, Verdict.WRONG, Verdict.ABSTAINED


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(7, "/bin/one", 100), RIGHT),
        (Answer(7), RIGHT),
        (Answer(8, "/bin/two", 200), RIGHT),
        (Answer(9, "/bin/one", 100), WRONG),
        (Answer(7, "/bin/two", 100), WRONG),
        (Answer(7, "/bin/one (deleted)", 100), WRONG),
        (Answer(7, "/bin/one", 101), WRONG),
        (Answer(grade=Grade.ABSENT), ABSTAINED),
        (Answer(grade=Grade.AMBIGUOUS), ABSTAINED),
    ],
)
def test_a_process_has_it(answer: Answer, verdict: Verdict) -> None:
    assert judge(Question(FLOW, (ONE, TWO)), answer) is verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(7), WRONG),
        (Answer(grade=Grade.ABSENT), RIGHT),
        (Answer(grade=Grade.KERNEL), RIGHT),
        (Answer(grade=Grade.DENIED), ABSTAINED),
    ],
)
def test_no_process_has_it(answer: Answer, verdict: Verdict) -> None:
    assert judge(Question(FLOW, ()), answer) is verdict


def test_who_notes_has_to_name_the_sender() -> None:
    question = Question(FLOW, (ONE, TWO), sender=ONE)
    assert judge(question, Answer(8)) is RIGHT
    assert judge(question, Answer(8), noted=True) is WRONG
    assert judge(question, Answer(7), noted=True) is RIGHT


def test_to_abstain_needs_leave_and_a_true_reason() -> None:
    tie = Question(FLOW, (ONE,), must=Must.EBPF, grades=frozenset({Grade.AMBIGUOUS}))
    ambiguous, absent = Answer(grade=Grade.AMBIGUOUS), Answer(grade=Grade.ABSENT)
    assert acceptable(Must.PLAIN, tie, ambiguous, ABSTAINED)
    assert acceptable(Must.ALL, tie, ambiguous, ABSTAINED)
    assert not acceptable(Must.EBPF, tie, ambiguous, ABSTAINED)
    assert not acceptable(Must.PLAIN, tie, absent, ABSTAINED)
    assert not acceptable(Must.PLAIN, tie, Answer(9), WRONG)
