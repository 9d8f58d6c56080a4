"""The rules as loaded, and what they say about a flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunowner.core.model import DIRECT, Decision

from .logic import UNKNOWN, Anything

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunowner.core.model import FlowKey, Outbound, Owner
    from tunowner.errors import Finding

    from .findings import Place
    from .logic import Matcher


@dataclass(frozen=True, slots=True)
class Rule:
    """A named condition and an action, and where it stands."""

    name: str
    match: Matcher
    action: str
    place: Place

    @property
    def matches_everything(self) -> bool:
        return isinstance(self.match, Anything)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules in their order. Immutable: share it between threads, replace it to reload.

    `outbounds` are in the order of their definition. `default_action` is for flows that no rule
    matches, `when_unknown` for those of them that a rule might have matched, had more been known.
    `warnings` are the findings that did not prevent loading.
    """

    rules: tuple[Rule, ...]
    outbounds: Mapping[str, Outbound]
    when_unknown: str
    default_action: str
    warnings: tuple[Finding, ...] = ()

    def decide(self, flow: FlowKey, owner: Owner) -> Decision:
        """Return the action of the first rule that matches, else that of a default. Never raises."""
        doubtful: Rule | None = None
        for rule in self.rules:
            truth = rule.match.test(flow, owner)
            if truth:
                why = rule.match.because(flow, owner)
                return Decision(rule.action, owner, rule.name, rule.place.file, why)
            if truth is UNKNOWN and doubtful is None:
                doubtful = rule
        if doubtful is None:
            return Decision(self.default_action, owner, why="no rule matches")
        return Decision(self.when_unknown, owner, why=_doubt(doubtful, flow, owner))

    @property
    def actions(self) -> frozenset[str]:
        """Everything that a flow can meet with."""
        defaults = (self.default_action, self.when_unknown)
        return frozenset((*defaults, *(rule.action for rule in self.rules)))

    @property
    def only_direct(self) -> bool:
        """Whether no flow can meet with anything but `direct`."""
        return self.actions == {DIRECT}


def _doubt(rule: Rule, flow: FlowKey, owner: Owner) -> str:
    """Say what is not known, and who wanted to know: `owner absent; rule 'x' needs app`."""
    needed = rule.match.lacks(flow, owner)
    process = owner.process
    state = f"owner {owner.grade}" if process is None else f"{needed} of pid {process.pid} unknown"
    return f"{state}; rule '{rule.name}' needs {needed}"
