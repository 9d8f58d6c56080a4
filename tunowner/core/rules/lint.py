"""What is not wrong in rules but probably not meant: warnings, found from what is written.

A rule can never decide where an earlier one holds for all of its flows. To find that one, the rule
is asked for as if it were a flow: by the first value of each of its conditions.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from tunowner.core.model import TCP, UDP, FlowKey, Grade, Owner, Process

from .condition import FlowCondition
from .context_conditions import Host, Profile
from .findings import quoted
from .flow_conditions import Ip, Port, Protocol
from .holders import Holders
from .implication import implies
from .logic import All, Any
from .process_conditions import App, Path, Pid, User
from .subject import Context, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .condition import Condition
    from .findings import Findings
    from .index import Index
    from .logic import Matcher
    from .ruleset import Rule

MAX_SUSPECTS = 64
"""Earlier rules that each rule is compared with."""
MAX_COMPARISONS = 50_000
"""In one load, half a second at most. Ten thousand rules that indexes tell apart need fewer; of those
that no index can tell apart (`app: "*-1"`, ...) the first thousand or so are looked at."""
_EVERYTHING = {"0.0.0.0/0", "::/0"}


def warn_of_shadows(rules: Sequence[Rule], index: Index, findings: Findings) -> None:
    """Report rules that an earlier one leaves nothing to."""
    left = MAX_COMPARISONS
    for position, rule in enumerate(rules):
        before = (rules[at] for at in _suspects(rule, index) if at < position)
        earlier = list(islice(before, MAX_SUSPECTS))
        shadow = next((it for it in earlier if _lasts(it) and _hides(it, rule)), None)
        if shadow is not None:
            warn_of_shadow(rule, shadow, findings)
        left -= len(earlier)
        if left < 0:
            return


def warn_of_shadow(rule: Rule, shadow: Rule, findings: Findings) -> None:
    """Report a rule to which an earlier one leaves nothing."""
    message = f"rule {quoted(rule.name)} can never match"
    what = "every flow" if shadow.matches_everything else "all that it does"
    hint = f"rule {quoted(shadow.name)} ({shadow.place}) before it matches {what}"
    findings.add(rule.place, "W101", message, hint)


def _hides(shadow: Rule, rule: Rule) -> bool:
    return implies(rule.match, shadow.match)


def _lasts(rule: Rule) -> bool:
    """Whether the rule decides, and does not end one day."""
    return rule.decides and rule.term is None


def warn_of_catch_alls(rules: Sequence[Rule], findings: Findings) -> None:
    """Report rules that match everything without saying so."""
    for rule in rules:
        everything = not rule.matches_everything and _is_everything(rule.match)
        if everything:
            message = f"rule {quoted(rule.name)} matches every {everything}"
            findings.add(rule.place, "W104", message, "if that is meant, write match: any")


def _is_everything(matcher: Matcher) -> str:
    """Return what a match leaves nothing of, `flow` or `program`; "" if it leaves something."""
    if isinstance(matcher, All):
        each = [_is_everything(part) for part in matcher.parts]
        return ("program" if "program" in each else "flow") if all(each) else ""
    if isinstance(matcher, Any):
        return next(filter(None, map(_is_everything, matcher.parts)), "")
    if isinstance(matcher, Holders):
        return "program" if all(map(_is_every_program, matcher.parts)) else ""
    return "flow" if isinstance(matcher, FlowCondition) and _is_every_flow(matcher) else ""


def _is_every_program(condition: Condition) -> bool:
    texts = {it.text for it in condition.values} if isinstance(condition, App | Path) else set()
    return not texts.isdisjoint(("*", "**", "/**"))


def _is_every_flow(condition: FlowCondition) -> bool:
    if isinstance(condition, Ip):
        return {str(network) for network in condition.values} >= _EVERYTHING
    if isinstance(condition, Port):
        return (condition.starts, condition.ends) == ((1,), (65535,))
    if isinstance(condition, Protocol):
        return {it.number for it in condition.protocols if it.port is None} >= {TCP, UDP}
    return False


def _suspects(rule: Rule, index: Index) -> list[int]:
    return list(index.may_match(_as_subject(rule.match)))


def _as_subject(matcher: Matcher) -> Subject:
    """Return a flow that has what the conditions ask for, as far as tables look at it."""
    remote, port = b"", 0
    path: str | None = None
    user: str | None = None
    uid: int | None = None
    pid, profile = 0, ""
    hosts: tuple[str, ...] = ()
    for condition in _conditions(matcher):
        match condition:
            case Ip() if condition.values:
                remote = condition.values[0].network_address.packed
            case Port() if condition.starts:
                port = condition.starts[0]
            case Host() if condition.values:
                hosts = (condition.values[0].text,)
            case Profile() if condition.values:
                profile = condition.values[0]
            case App() | Path() if condition.values:
                path = condition.values[0].text
            case Pid() if condition.values:
                pid = condition.values[0]
            case User() if condition.values:
                uid = min(condition.uids, default=None)
                user = min(condition.names, default=None)
    flow = FlowKey(TCP, b"", 0, remote, port)
    owner = Owner(Grade.EXACT, (Process(pid, 0, path, uid, user),))
    return Subject(flow, owner, Context(hosts=lambda _: hosts, profile=profile))


def _conditions(matcher: Matcher) -> Iterator[Condition | Matcher]:
    """Yield the conditions that all must hold; of alternatives, those of the first."""
    if isinstance(matcher, All | Holders):
        for part in matcher.parts:
            yield from _conditions(part) if isinstance(part, All | Any | Holders) else (part,)
    elif isinstance(matcher, Any):
        yield from _conditions(matcher.parts[0])
    else:
        yield matcher
