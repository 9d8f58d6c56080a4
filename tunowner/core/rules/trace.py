"""What every rule says about a flow: the answer to "why?".

    trace = rules.explain(flow, owner, context)
    trace.decision                       # the same that rules.decide(...) gives
    for step in trace.steps:             # every rule, in the order in which they are asked
        step.rule, step.place            # its name; Place(order, file, line, column)
        step.result                      # "yes", "no" or "unknown"
        step.because                     # the condition that made it so, in one line
        step.action                      # what the rule does where it matches; None: it only marks
        step.mode                        # "decides", "audit" or "marks"
        step.reached                     # False: an earlier rule had decided already
    trace.nearest                        # Miss(rule, place, failing, holding) or None

`explain` asks the same matchers as `decide` and draws its conclusion with the same function; it
only leaves no rule out. It asks for details of processes as soon as one rule wants them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .logic import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunowner.core.model import Decision

    from .findings import Place
    from .logic import Truth
    from .ruleset import Rule
    from .subject import Subject

YES, NO, MAYBE = "yes", "no", "unknown"


class Step(NamedTuple):
    """One rule. See the module's docstring."""

    rule: str
    place: Place
    result: str
    because: str
    action: str | None
    mode: str
    reached: bool

    @classmethod
    def of(cls, rule: Rule, truth: Truth, subject: Subject, *, reached: bool) -> Step:
        """Put what a rule says in words."""
        if truth:
            result, because = YES, rule.match.because(subject)
        elif truth is UNKNOWN:
            result, because = MAYBE, f"{rule.match.lacks(subject)} is not known"
        else:
            result, because = NO, rule.match.despite(subject)
        mode = "decides" if rule.decides else "audit" if rule.audit else "marks"
        return cls(rule.name, rule.place, result, because, rule.action, mode, reached)


class Miss(NamedTuple):
    """A rule that nearly matched: what it lacked, and how many of its conditions held."""

    rule: str
    place: Place
    failing: tuple[str, ...]
    holding: int

    def __str__(self) -> str:
        return f"rule '{self.rule}' failed only on {', '.join(self.failing)}"


@dataclass(frozen=True, slots=True)
class Trace:
    """The decision for one flow, and how it came about. See the module's docstring."""

    decision: Decision
    steps: tuple[Step, ...]
    nearest: Miss | None


def nearest_miss(truths: Iterable[tuple[Rule, Truth]], subject: Subject) -> Miss | None:
    """Return the rule, of those asked, of which at least one condition held and fewest did not."""
    best: Miss | None = None
    for rule, truth in truths:
        if truth:
            if rule.decides:
                break
            continue
        holding, failing = rule.match.tally(subject)
        miss = Miss(rule.name, rule.place, failing, holding)
        if holding and (best is None or _distance(miss) < _distance(best)):
            best = miss
    return best


def _distance(miss: Miss) -> tuple[int, int]:
    return len(miss.failing), -miss.holding
