"""Flows, owners and one-rule files for the tests of the rules."""

from __future__ import annotations

from ipaddress import ip_address

from tunowner.core.model import TCP, UDP, FlowKey, Grade, Owner, Process
from tunowner.core.rules import RuleSet, load
from tunowner.errors import ConfigError

CURL = Process(812, 100, "/usr/bin/curl", 1000, "ana")
WGET = Process(813, 101, "/usr/bin/wget", 1001, "bob")
HIDDEN = Process(814, 102, None, 0, "root")
NAMELESS = Process(815, 103, "/usr/bin/curl", 1000, None)

ABSENT = Owner(Grade.ABSENT)
UID_ONLY = Owner(Grade.UID_ONLY, uid=1000, user="ana")


def owned(*processes: Process, grade: Grade = Grade.EXACT) -> Owner:
    return Owner(grade, processes)


def app(path: str, user: str = "ana") -> Owner:
    return owned(Process(900, 1, path, 1000, user))


def flow(to: str = "203.0.113.5", port: int = 443, protocol: int = TCP) -> FlowKey:
    remote = ip_address(to).packed
    return FlowKey(protocol, bytes(len(remote)), 40000, remote, port)


def udp(to: str = "203.0.113.5", port: int = 443) -> FlowKey:
    return flow(to, port, UDP)


def one_rule(match: str, extra: str = "") -> RuleSet:
    """A set whose only rule blocks on `match`; what is unknown is dropped, the rest is direct."""
    text = f"""
version: 1
defaults: {{ action: direct, when_unknown: drop }}
{extra}
rules:
  - {{ name: it, match: {match}, action: block }}
"""
    return load([("one.yaml", text)])


YES, NO, UNKNOWN = "block", "direct", "drop"


def findings(*texts: str) -> str:
    """What loading files a.yaml, b.yaml, ... complains about; fails if it does not."""
    try:
        load([(f"{name}.yaml", text) for name, text in zip("abcdef", texts, strict=False)])
    except ConfigError as error:
        return "\n".join(map(str, error.findings))
    raise AssertionError("loads")
