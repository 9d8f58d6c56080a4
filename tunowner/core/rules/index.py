"""Which rules are worth asking about a flow: those that no table rules out.

Every rule is filed in one table (`lookup`), under the condition of it that tells flows apart best;
`loose` are those with nothing to file. So the cost of a decision grows with the rules that ask for
what this flow has, not with all of them. Where something is not known of a flow, rules filed by it
may be unknown, never true: only the first of them matters, and `without` finds it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

from .durations import Over
from .holders import Holders
from .logic import UNKNOWN, All, Any
from .lookup import TABLES

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from .condition import Condition
    from .logic import Matcher
    from .lookup import Table
    from .ruleset import Rule
    from .subject import Subject

    Filing = frozenset[tuple[type[Table], Hashable]]
    """Tables and keys: a flow that fits has one of them."""


class Index:
    """Finds rules by position. `kinds` are the tables to file in, `positions` the rules to file."""

    def __init__(
        self,
        rules: Sequence[Rule],
        kinds: tuple[type[Table], ...] = TABLES,
        positions: Iterable[int] | None = None,
    ) -> None:
        self._rules = rules
        meant = range(len(rules)) if positions is None else positions
        options = {at: _options(rules[at].match, kinds) for at in meant if _can_hold(rules[at])}
        wanted = Counter(key for filings in options.values() for it in filings for key in it)
        tables = {kind: kind() for kind in kinds}
        loose: list[int] = []
        for position, filings in options.items():
            best = min(
                filings, key=lambda it: max(map(wanted.__getitem__, it), default=0), default=None
            )
            if best is None:
                loose.append(position)
            for kind, key in best or ():
                tables[kind].add(key, position)
        self.loose = tuple(loose)
        self._tables = tuple(table for table in tables.values() if table)
        self._without = {
            table: self._filed_otherwise(table, kinds)
            for table in self._tables
            if not table.always_known
        }

    def _filed_otherwise(self, table: Table, kinds: tuple[type[Table], ...]) -> Index:
        """Return an index of the rules in `table` that does not use it."""
        others = tuple(kind for kind in kinds if kind is not type(table))
        positions = {position for filed in table.filed.values() for position in filed}
        return Index(self._rules, others, sorted(positions))

    def may_match(self, subject: Subject) -> list[int]:
        """Return the positions, ascending, of all rules that are true; others may be among them."""
        found = list(self.loose)
        for table in self._tables:
            found += table.find(subject)
        return sorted(set(found)) if len(found) > 1 else found

    def first_doubtful(self, subject: Subject, before: int) -> int:
        """Return the first position below `before` whose rule would decide but is unknown.

        Only looks among the rules that `may_match` leaves out; returns `before` for none.
        """
        for table, others in self._without.items():
            if not table.knows(subject):
                before = others._first_unknown(subject, before)  # noqa: SLF001
        return before

    def _first_unknown(self, subject: Subject, before: int) -> int:
        found = sorted(at for table in self._tables for at in table.find(subject))
        for positions in (self.loose, found):
            for position in positions:
                if position >= before:
                    break
                rule = self._rules[position]
                if rule.decides and rule.match.test(subject) is UNKNOWN:
                    before = position
        return self.first_doubtful(subject, before)


def _can_hold(rule: Rule) -> bool:
    match = rule.match
    return not isinstance(match, All) or not any(isinstance(part, Over) for part in match.parts)


def _options(matcher: Matcher, kinds: tuple[type[Table], ...]) -> list[Filing]:
    """Return the ways to file a rule with this match."""
    # type() and not isinstance(), which is slow for abstract classes: loading spends its time here.
    form = type(matcher)
    if form is All:
        return [filing for part in cast("All", matcher).parts for filing in _options(part, kinds)]
    if form is Holders:
        parts = cast("Holders", matcher).parts
        return [filing for part in parts for filing in _of_condition(part, kinds)]
    if form is Any:
        each = [_options(part, kinds) for part in cast("Any", matcher).parts]
        return [frozenset().union(*(options[0] for options in each))] if all(each) else []
    return _of_condition(matcher, kinds)


def _of_condition(condition: Condition | Matcher, kinds: tuple[type[Table], ...]) -> list[Filing]:
    form = type(condition)
    for kind in kinds:
        if form in kind.conditions:
            keys = kind.keys(cast("Condition", condition))
            return [] if keys is None else [frozenset((kind, key) for key in keys)]
    return []
