"""The `tests:` of a rule file: a flow, and the rule that must decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .findings import BadValueError, quoted, suggestion
from .nodes import ListNode, Scalar
from .supposed import FIELDS, Supposed, assemble

if TYPE_CHECKING:
    from .findings import Findings, Place
    from .nodes import Node
    from .ruleset import RuleSet
    from .shape import Shape

BY_DEFAULT = "default"
BY_DOUBT = "unknown"
_DEFAULTS = (BY_DEFAULT, BY_DOUBT)
_HINT = "write { app: /usr/bin/curl, to: '192.0.2.7:443' }, for example"


@dataclass(frozen=True, slots=True)
class Case:
    """One test. `expected` is a rule, or `default` or `unknown`; `action` is None when not told."""

    place: Place
    expected: str
    action: str | None
    supposed: Supposed


class Cases:
    """All tests of all files."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._found: list[tuple[Case, Scalar]] = []

    @property
    def found(self) -> tuple[Case, ...]:
        return tuple(case for case, _ in self._found)

    def read(self, node: Node, action: str | None) -> None:
        """Take one entry of a `tests:` section; its action was checked."""
        mapping = self._shape.mapping(node, "write flow: and expect:")
        if mapping is None:
            return
        fields = self._shape.fields(mapping, "a test", ("flow", "expect"), ("action",))
        expected = self._shape.text(fields.get("expect"))
        supposed = self._flow(fields["flow"]) if "flow" in fields else None
        if expected is not None and supposed is not None:
            self._found.append((Case(node.place, expected.text, action, supposed), expected))

    def _flow(self, node: Node) -> Supposed | None:
        mapping = self._shape.mapping(node, _HINT)
        if mapping is None:
            return None
        fields = self._shape.fields(mapping, "a flow", ("to",), tuple(FIELDS))
        values: dict[str, object] = {}
        for key, value in fields.items():
            items = value.items if isinstance(value, ListNode) else (value,)
            scalars = [scalar for item in items if (scalar := self._shape.scalar(item, "text"))]
            try:
                if len(scalars) == len(items):
                    values[key] = FIELDS[key].read([scalar.text for scalar in scalars])
            except BadValueError as bad:
                self._shape.findings.add_bad(value.place, bad)
        return assemble(values) if "to" in values and len(values) == len(fields) else None

    def check_names(self, rules: tuple[str, ...]) -> None:
        """Report tests that expect a rule which there is not, or what may mean two things."""
        known = frozenset((*rules, *_DEFAULTS))
        for case, scalar in self._found:
            if case.expected not in known:
                message = f"no rule is named {quoted(case.expected)}"
                hint = suggestion(case.expected, (*rules, *_DEFAULTS), "rules")
                self._shape.findings.add_missing(scalar.place, "E210", message, hint)
            elif case.expected in _DEFAULTS and case.expected in rules:
                message = f"{quoted(case.expected)} may be a rule or what decides without one"
                hint = "give the rule another name"
                self._shape.findings.add(scalar.place, "E211", message, hint)

    def run(self, rules: RuleSet) -> None:
        """Report tests that fail, of rules that end as if they had not.

        A rule that a restart ended cannot be tested: its file must not be refused at the next start.
        """
        over = frozenset(rule.name for rule in rules.rules if rule.term and rule.term.over)
        for case, _ in self._found:
            if case.expected not in over:
                run_case(case, rules, self._shape.findings)


def run_case(case: Case, rules: RuleSet, findings: Findings) -> None:
    """Report the test if it fails."""
    trace = rules.explain(*case.supposed)
    decision = trace.decision
    doubtful = any(step.result == "unknown" and step.mode == "decides" for step in trace.steps)
    decided = decision.rule or (BY_DOUBT if doubtful else BY_DEFAULT)
    step = next((it for it in trace.steps if it.rule == case.expected), None)
    said = f"; {case.expected!r} says {step.result}: {step.because}" if step else ""
    if decided != case.expected:
        message = f"test expects {quoted(case.expected)}, but {quoted(decided)} decides"
        findings.add(case.place, "E301", message, f"{decision.why}{said}")
    elif case.action not in (None, decision.action):
        message = f"test expects action {quoted(case.action or '')}, but it is {decision.action}"
        findings.add(case.place, "E302", message, f"{quoted(decided)} decides: {decision.why}")
