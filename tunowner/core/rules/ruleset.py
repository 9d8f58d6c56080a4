"""The rules as loaded, and what they say about a flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tunowner.core.model import DIRECT, Audited, Decision

from .condition import Condition
from .logic import UNKNOWN, Anything
from .subject import NOTHING_MORE, Subject
from .table import STEADY
from .trace import Step, Trace, nearest_miss

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tunowner.core.model import FlowKey, Outbound, Owner
    from tunowner.errors import Finding

    from .cases import Case
    from .findings import Place
    from .index import Index
    from .logic import Matcher
    from .subject import Context


class Term(NamedTuple):
    """When a rule ends: as written, and in seconds since the epoch (None: with the next start).

    `over`: it ended with a start.
    """

    written: str
    ends_at: float | None
    over: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A named condition and an action, and where it stands.

    `action` is None for a rule that only leaves marks. `audit`: what it would do is noted, and the
    search goes on. `log` says whether the flow is to be told of; None leaves that to others.
    """

    name: str
    match: Matcher
    action: str | None
    place: Place
    audit: bool = False
    log: bool | None = None
    tags: tuple[str, ...] = ()
    term: Term | None = None

    @property
    def decides(self) -> bool:
        """Whether the search ends where this rule matches."""
        return self.action is not None and not self.audit

    @property
    def matches_everything(self) -> bool:
        return isinstance(self.match, Anything)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules in their order. Immutable: share it between threads, replace it to reload.

    `index` finds rules. `outbounds` are in the order of their definition. `default_action` is for flows that no rule
    matches, `when_unknown` for those of them that a rule might have matched, had more been known.
    `warnings` are the findings that did not prevent loading, `cases` the tests, which all passed.
    """

    rules: tuple[Rule, ...]
    index: Index = field(repr=False, compare=False)
    outbounds: Mapping[str, Outbound]
    when_unknown: str
    default_action: str
    warnings: tuple[Finding, ...] = ()
    cases: tuple[Case, ...] = ()

    def decide(self, flow: FlowKey, owner: Owner, context: Context = NOTHING_MORE) -> Decision:
        """Return the action of the first rule that matches, else that of a default. Never raises."""
        subject = Subject(flow, owner, context)
        return self._decide(subject, self.index.may_match(subject))

    def explain(self, flow: FlowKey, owner: Owner, context: Context = NOTHING_MORE) -> Trace:
        """Return what `decide` decides, and what every rule says, those after the deciding too."""
        subject = Subject(flow, owner, context)
        truths = [(rule, rule.match.test(subject)) for rule in self.rules]
        steps: list[Step] = []
        reached = True
        for rule, truth in truths:
            steps.append(Step.of(rule, truth, subject, reached=reached))
            reached = reached and not (truth and rule.decides)
        decision = self._decide(subject, range(len(self.rules)))
        return Trace(decision, tuple(steps), nearest_miss(truths, subject))

    def _decide(self, subject: Subject, positions: Iterable[int]) -> Decision:
        """Decide by the rules at these positions, ascending; those that are true are among them."""
        marks: list[Rule] = []
        doubtful = len(self.rules)
        for position in positions:
            rule = self.rules[position]
            truth = rule.match.test(subject)
            if truth:
                if rule.decides:
                    return self._matched(rule, marks, subject)
                marks.append(rule)
            elif truth is UNKNOWN and position < doubtful and rule.decides:
                doubtful = position
        return self._unmatched(self.index.first_doubtful(subject, doubtful), marks, subject)

    @staticmethod
    def _matched(rule: Rule, marks: list[Rule], subject: Subject) -> Decision:
        assert rule.action is not None
        why = rule.match.because(subject)
        if not marks and rule.log is None and not rule.tags:
            return Decision(rule.action, subject.owner, rule.name, rule.place.file, why)
        return _marked(rule.action, rule, [*marks, rule], why, subject)

    def _unmatched(self, doubtful: int, marks: list[Rule], subject: Subject) -> Decision:
        if doubtful == len(self.rules):
            action, why = self.default_action, "no rule matches"
        else:
            action, why = self.when_unknown, _doubt(self.rules[doubtful], subject)
        if not marks:
            return Decision(action, subject.owner, why=why)
        return _marked(action, None, marks, why, subject)

    @property
    def actions(self) -> frozenset[str]:
        """Everything that a flow can meet with."""
        defaults = (self.default_action, self.when_unknown)
        taken = (rule.action for rule in self.rules if rule.action and not rule.audit)
        return frozenset((*defaults, *taken))

    def asks_for(self, key: str) -> bool:
        """Whether a rule has this condition, `host` for example, anywhere in its match."""
        conditions = (it for rule in self.rules for it in rule.match.conditions())
        return any(isinstance(it, Condition) and it.key == key for it in conditions)

    @property
    def is_steady(self) -> bool:
        """Whether flows with the same owner to the same remote end always meet with the same."""
        conditions = (it for rule in self.rules for it in rule.match.conditions())
        return all(isinstance(it, STEADY) for it in conditions)

    @property
    def only_direct(self) -> bool:
        """Whether no flow can meet with anything but `direct`."""
        return self.actions == {DIRECT}


def _marked(
    action: str, rule: Rule | None, marks: list[Rule], why: str, subject: Subject
) -> Decision:
    """Return the decision with what the matching rules, in their order, leave on it."""
    return Decision(
        action,
        subject.owner,
        rule.name if rule else None,
        rule.place.file if rule else None,
        why,
        tuple(dict.fromkeys(tag for mark in marks for tag in mark.tags)),
        next((mark.log for mark in marks if mark.log is not None), True),
        tuple(Audited(mark.name, mark.action) for mark in marks if mark.audit and mark.action),
    )


def _doubt(rule: Rule, subject: Subject) -> str:
    """Say what is not known, and who wanted to know: `owner absent; rule 'x' needs app`."""
    needed = rule.match.lacks(subject)
    process = subject.owner.process
    if process is None:
        state = f"owner {subject.owner.grade}"
    else:
        whose = f"pid {process.pid}" if process.pid else "the process"
        state = f"{needed} of {whose} unknown"
    return f"{state}; rule '{rule.name}' needs {needed}"
