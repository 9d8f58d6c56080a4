"""The `rules:` section: each entry becomes a `Rule`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .durations import Over, Until, read_duration, read_moment, read_restart
from .findings import BadValueError, quoted, shown, suggestion
from .logic import All
from .nodes import ListNode, Scalar
from .ruleset import Rule, Term
from .shape import DEFINED_NAME, RULE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .findings import Place
    from .logic import Matcher
    from .matches import Matches
    from .nodes import Node
    from .ruleset import RuleSet
    from .shape import Shape

_MODES = ("audit", "enforce")
ENDS = ("expires", "for", "until")
"""What ends a rule; it has one of them at most."""
_OPTIONAL = ("action", "mode", "log", "tag", *ENDS)


@dataclass(frozen=True, slots=True)
class Loading:
    """The circumstances of a load. `now` is in seconds since the epoch.

    `before` are the rules that these replace: a rule that was there by the same name and with the
    same `for` keeps its end, and one that was over stays so. `restarted`: tunowner starts with these
    rules, so those `until: restart` are over.
    """

    now: float = 0.0
    before: RuleSet | None = None
    restarted: bool = False


class RuleReader:
    """Reads one rule after another. `action` reads what stands behind that key."""

    def __init__(
        self,
        shape: Shape,
        matches: Matches,
        action: Callable[[Node | None], str | None],
        loading: Loading,
    ) -> None:
        self._shape = shape
        self._matches = matches
        self._action = action
        self._loading = loading
        self._first: dict[str, Place] = {}
        before = loading.before
        self._before = {rule.name: rule for rule in before.rules} if before else {}

    def read(self, node: Node, profile: Matcher | None) -> Rule | None:
        """Return the rule, or None after a finding. `profile` is what its file asks for."""
        mapping = self._shape.mapping(node, "write name:, match: and action:")
        if mapping is None:
            return None
        fields = self._shape.fields(mapping, "a rule", ("name", "match"), _OPTIONAL)
        name = self._shape.name(fields.get("name"), RULE_NAME)
        if name is not None:
            self._check_unique(name, fields["name"].place)
        match = self._matches.compile(fields["match"]) if "match" in fields else None
        action = self._action(fields.get("action"))
        self._check_purpose(node, fields)
        audit = self._choice(fields.get("mode"), _MODES, "mode") == "audit"
        log = self._boolean(fields.get("log"))
        tags = self._tags(fields.get("tag"))
        term = self._term(fields)
        if name is None or match is None or (action is None and "action" in fields):
            return None
        rule = Rule(name, match, action, node.place, audit, log, tags, term)
        return self._limited(rule, profile)

    def _check_unique(self, name: str, place: Place) -> None:
        if name in self._first:
            message = f"rule {quoted(name)} is here twice"
            self._shape.findings.add(place, "E205", message, f"the first is at {self._first[name]}")
        self._first.setdefault(name, place)

    def _check_purpose(self, node: Node, fields: Mapping[str, Node]) -> None:
        if "action" in fields:
            return
        if "mode" in fields or not ("tag" in fields or "log" in fields):
            message = "key 'action' is missing in a rule"
            self._shape.findings.add(node.place, "E011", message)

    def _choice(self, node: Node | None, choices: tuple[str, ...], what: str) -> str | None:
        scalar = self._shape.text(node)
        if scalar is None or scalar.text in choices:
            return scalar.text if scalar else None
        hint = suggestion(scalar.text, choices, f"{what}s")
        message = f"{quoted(scalar.text)} is no {what}"
        self._shape.findings.add(scalar.place, "E119", message, hint)
        return None

    def _boolean(self, node: Node | None) -> bool | None:
        scalar = self._shape.scalar(node, "true or false")
        if scalar is None or isinstance(scalar.value, bool):
            return scalar.value if scalar and isinstance(scalar.value, bool) else None
        message = f"expected true or false, found {quoted(scalar.text)}"
        self._shape.findings.add(scalar.place, "E010", message)
        return None

    def _tags(self, node: Node | None) -> tuple[str, ...]:
        if node is None:
            return ()
        items = node.items if isinstance(node, ListNode) else (node,)
        if not items:
            self._shape.findings.add(node.place, "E014", "tag is empty", "write a word")
        names = (self._shape.name(item, DEFINED_NAME) for item in items)
        return tuple(name for name in names if name)

    def _term(self, fields: Mapping[str, Node]) -> Term | None:
        """Read when the rule ends; the clock is only asked for here."""
        given = [key for key in ENDS if key in fields]
        for key in given[1:]:
            message = f"{quoted(key)} beside {quoted(given[0])}"
            hint = "a rule ends once; keep one of them"
            self._shape.findings.add(fields[key].place, "E125", message, hint)
        scalar = self._shape.scalar(fields[given[0]]) if given else None
        if scalar is None:
            return None
        try:
            return self._read_term(given[0], scalar)
        except BadValueError as bad:
            self._shape.findings.add_bad(scalar.place, bad)
            return None

    def _read_term(self, key: str, scalar: Scalar) -> Term:
        written = f"{key} {shown(scalar.text)}"
        if key == "until":
            read_restart(scalar)
            return Term(written, None, self._loading.restarted)
        if key == "for":
            return Term(written, self._loading.now + read_duration(scalar))
        return Term(written, read_moment(scalar))

    def _limited(self, rule: Rule, profile: Matcher | None) -> Rule:
        """Add what limits the rule beside its match: its end, and the profile of its file."""
        term = rule.term
        limits: list[Matcher] = [profile] if profile else []
        if term is not None:
            known = self._before.get(rule.name)
            if known and known.term and known.term.written == term.written:
                term = known.term
            if term.ends_at is not None:
                limits.append(Until(term.ends_at))
                self._warn_if_over(rule, term.ends_at)
            elif term.over:
                limits.append(Over())
                self._warn_over(rule, "ended with the restart")
        return replace(rule, match=All.of((rule.match, *limits)), term=term)

    def _warn_if_over(self, rule: Rule, ends_at: float) -> None:
        if ends_at <= self._loading.now:
            self._warn_over(rule, f"ended at {Until(ends_at).moment}")

    def _warn_over(self, rule: Rule, what: str) -> None:
        message = f"rule {quoted(rule.name)} {what}"
        self._shape.findings.add(rule.place, "W105", message, "take it out")
