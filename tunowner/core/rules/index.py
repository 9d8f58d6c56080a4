"""Which rules are worth asking about a flow: those that no table rules out.

Every rule is filed in one table (`lookup`), under the condition of it that tells flows apart best;
`loose` are those with nothing to file. So the cost of a decision grows with the rules that ask for
what this flow has, not with all of them. Where something is not known of a flow, rules filed by it
may be unknown, never true: only the first of them matters, and `without` finds it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, cast

from .detail_lookup import DETAIL_TABLES
from .durations import Over
from .holders import Holders
from .logic import UNKNOWN, All, Any
from .lookup import TABLES

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from .condition import Condition
    from .logic import Matcher
    from .lookup import Table
    from .ruleset import Rule
    from .subject import Subject

    Filing = frozenset[tuple[type[Table], Hashable]]
    """Tables and keys: a flow that fits has one of them."""


MAX_KEYS = 1_000
"""Keys that a rule is filed under at most; one that asks for a longer list is asked itself."""
CROWD = 16
"""Rules that are cheaper to ask one by one than by an index of details."""


class Index:
    """Finds rules by position. `kinds` are the tables to file in, `positions` the rules to file.

    With `crowds`, of rules that are found together, in a table or loose, and are more than `CROWD`,
    those that ask for details make an index of their own. It stands among the positions as a
    negative number.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        kinds: tuple[type[Table], ...] = TABLES,
        positions: Iterable[int] | None = None,
        *,
        crowds: bool = True,
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
        self._first = next(iter(options), len(rules))
        self._crowds: list[Index] = []
        self._tables = tuple(table for table in tables.values() if table)
        self._without = {
            table: self._filed_otherwise(table, kinds, crowds=crowds)
            for table in self._tables
            if not table.always_known
        }
        if crowds:
            loose = self._part_crowd(loose)
            for table in self._tables:
                for key, filed in table.filed.items():
                    table.filed[key] = self._part_crowd(filed)
        self._loose = tuple(loose)

    def _filed_otherwise(
        self, table: Table, kinds: tuple[type[Table], ...], *, crowds: bool
    ) -> Index:
        """Return an index of the rules in `table` that does not use it."""
        others = tuple(kind for kind in kinds if kind is not type(table))
        positions = {position for filed in table.filed.values() for position in filed}
        return Index(self._rules, others, sorted(positions), crowds=crowds)

    def _part_crowd(self, positions: list[int]) -> list[int]:
        """Put a number for an index in the place of rules that ask for details, if they are many."""
        if len(positions) <= CROWD:
            return positions
        crowd = [at for at in positions if _options(self._rules[at].match, DETAIL_TABLES)]
        if len(crowd) <= CROWD:
            return positions
        self._crowds.append(Index(self._rules, DETAIL_TABLES, crowd, crowds=False))
        return [-len(self._crowds), *sorted({*positions} - {*crowd})]

    def may_match(self, subject: Subject) -> Iterable[int]:
        """Return the positions, ascending, of all rules that are true; others may be among them.

        Details are asked for when a rule is reached that needs them.
        """
        found = self._find(subject)
        if found and found[0] < 0:
            if len(found) == 1:
                return self._crowds[-found[0] - 1].may_match(subject)
            return self._with_crowds(found, subject)
        return found

    def _find(self, subject: Subject) -> list[int]:
        found = [*self._loose, *self._find_filed(subject)]
        return sorted(set(found)) if len(found) > 1 else found

    def _find_filed(self, subject: Subject) -> list[int]:
        found: list[int] = []
        for table in self._tables:
            found += table.find(subject)[0]
        return found

    def _with_crowds(self, found: list[int], subject: Subject) -> Iterator[int]:
        crowds, rest = self._parted(found)
        crowds.sort(key=lambda crowd: crowd._first)  # noqa: SLF001
        for crowd in crowds:
            reached = bisect_left(rest, crowd._first)  # noqa: SLF001
            yield from rest[:reached]
            rest = sorted({*rest[reached:], *crowd.may_match(subject)})
        yield from rest

    def _parted(self, found: list[int]) -> tuple[list[Index], list[int]]:
        """Return the crowds among what was found, and the rest."""
        numbers = bisect_left(found, 0)
        return [self._crowds[-number - 1] for number in found[:numbers]], found[numbers:]

    def first_doubtful(self, subject: Subject, before: int) -> int:
        """Return the first position below `before` whose rule would decide but is unknown.

        Only looks among the rules that `may_match` leaves out; returns `before` for none.
        """
        for table, others in self._without.items():
            if not table.finds_all(subject):
                before = others._first_unknown(subject, before)  # noqa: SLF001
        if self._crowds:
            for crowd in self._parted(self._find(subject))[0]:
                before = crowd.first_doubtful(subject, before)
        return before

    def _first_unknown(self, subject: Subject, before: int) -> int:
        # `_loose` may be all rules there are, of which mostly the first is unknown: no copy of it.
        for positions in (self._loose, sorted(self._find_filed(subject))):
            for position in positions:
                if position >= before:
                    break
                if position < 0:
                    crowd = self._crowds[-position - 1]
                    before = crowd._first_unknown(subject, before)  # noqa: SLF001
                elif self._is_doubtful(position, subject):
                    before = position
        return self.first_doubtful(subject, before)

    def _is_doubtful(self, position: int, subject: Subject) -> bool:
        rule = self._rules[position]
        return rule.decides and rule.match.test(subject) is UNKNOWN


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
            if keys is None or len(keys) > MAX_KEYS:
                return []
            return [frozenset((kind, key) for key in keys)]
    return []
