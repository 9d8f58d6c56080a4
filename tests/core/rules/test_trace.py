"""What `explain` says: every rule, the condition that decided, and the nearest miss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.rules.flows import ABSENT, CURL, HIDDEN, WGET, flow, owned
from tunowner.core.rules import load
from tunowner.core.rules.findings import BadValueError
from tunowner.core.rules.supposed import suppose

if TYPE_CHECKING:
    from tunowner.core.model import FlowKey, Owner

RULES = load(
    [
        (
            "a.yaml",
            """\
version: 1
defaults: { action: direct, when_unknown: drop }
sets:
  lan: { ip: [10.0.0.0/8, "fc00::/7"] }
rules:
  - { name: lan, match: { ip: $lan }, action: direct }
  - { name: web, match: { app: [firefox, "chrom*"], port: [80, 443] }, action: block }
  - name: either
    match: { any: [{ app: wget }, { user: root }], not: { port: 22 } }
    action: block
  - { name: mine, match: { app: curl, user: ana, port: 443 }, action: drop }
  - { name: rest, match: any, action: direct }
""",
        )
    ]
)


def said(key: FlowKey, owner: Owner) -> list[str]:
    trace = RULES.explain(key, owner)
    return [
        f"{step.rule}: {step.result}: {step.because}" + ("" if step.reached else " (late)")
        for step in trace.steps
    ]


def test_every_rule_says_which_condition_decided() -> None:
    assert said(flow(), owned(CURL)) == [
        "lan: no: ip is 203.0.113.5, not $lan",
        "web: no: app is /usr/bin/curl, not firefox, chrom*",
        "either: no: none of: app is /usr/bin/curl, not wget, user is ana, not root",
        "mine: yes: app 'curl' is /usr/bin/curl; user ana; port 443",
        "rest: yes: any flow (late)",
    ]


def test_a_condition_that_is_turned_around_says_what_it_met() -> None:
    assert said(flow(port=22), owned(WGET))[2] == "either: no: not: port 22"


def test_what_is_not_known_is_named() -> None:
    assert said(flow(), ABSENT) == [
        "lan: no: ip is 203.0.113.5, not $lan",
        "web: unknown: app is not known",
        "either: unknown: app is not known",
        "mine: unknown: app is not known",
        "rest: yes: any flow",
    ]


def test_several_holders_are_counted() -> None:
    rules = load([("a", "version: 1\nrules: [{ name: r, match: { app: x }, action: drop }]")])
    (step,) = rules.explain(flow(), owned(CURL, WGET)).steps
    assert step.because == "app is /usr/bin/curl, not x (and 1 more processes hold the socket)"


def test_the_nearest_miss_is_the_rule_that_lacked_least() -> None:
    nearest = RULES.explain(flow(port=80), owned(CURL)).nearest
    assert nearest is not None
    assert str(nearest) == "rule 'mine' failed only on port"
    assert nearest.holding == 2


def test_a_rule_of_which_nothing_held_is_no_near_miss() -> None:
    rules = load([("a", "version: 1\nrules: [{ name: r, match: { port: 1 }, action: drop }]")])
    assert rules.explain(flow(), ABSENT).nearest is None


def test_the_trace_holds_the_decision() -> None:
    for owner in (ABSENT, owned(CURL), owned(HIDDEN)):
        assert RULES.explain(flow(), owner).decision == RULES.decide(flow(), owner)


def test_a_described_flow_is_decided_like_a_real_one() -> None:
    told = {"app": ["/usr/bin/curl"], "user": ["ana"], "to": ["203.0.113.5:443"]}
    assert RULES.decide(*suppose(told)).rule == "mine"
    assert RULES.decide(*suppose(told | {"to": ["[fc00::1]:443"]})).rule == "lan"
    assert RULES.decide(*suppose({"to": ["203.0.113.5:443"]})).rule == "rest"


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({}, "key 'to' is missing in a flow"),
        ({"to": ["1.2.3.4"]}, "'1.2.3.4' is no address with a port"),
        ({"to": ["example.org:80"]}, "'example.org:80' is no address with a port"),
        ({"to": ["::1:80"]}, "'::1:80' is no address with a port"),
        ({"to": ["[1.2.3.4]:80"]}, "'[1.2.3.4]:80' is no address with a port"),
        ({"to": ["1.2.3.4:0"]}, "'1.2.3.4:0' is no address with a port"),
        ({"to": ["1.2.3.4:65536"]}, "'1.2.3.4:65536' is no address with a port"),
        ({"to": ["1.2.3.4:80"], "app": ["curl"]}, "path 'curl' is not absolute"),
        ({"to": ["1.2.3.4:80"], "ap": ["/x"]}, "unknown key 'ap' in a flow"),
        ({"to": ["1.2.3.4:80"], "protocol": ["icmp"]}, "'icmp' is no protocol"),
        ({"to": ["1.2.3.4:80"], "owner": ["sure"]}, "'sure' is no owner grade"),
        ({"to": ["1.2.3.4:80"], "pid": ["0"]}, "'0' is no process number"),
        ({"to": ["1.2.3.4:80"], "cmdline": ["a 'b"]}, "not a command line: No closing quotation"),
        ({"to": ["1.2.3.4:80"], "package": ["curl"]}, "'curl' is no package"),
        ({"to": ["1.2.3.4:80"], "package": ["dep:curl"]}, "'dep:curl' is no package"),
        ({"to": ["1.2.3.4:80"], "package": ["deb:"]}, "'deb:' is no package"),
        ({"to": ["1.2.3.4:80"], "container": ["web"]}, "'web' is no container"),
        ({"to": ["1.2.3.4:80"], "sha256": ["ab"]}, "'ab' is no SHA-256"),
        ({"to": ["1.2.3.4:80"], "user": []}, "expected one text that is not empty"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(
    told: dict[str, list[str]], complaint: str
) -> None:
    with pytest.raises(BadValueError) as caught:
        suppose(told)
    assert caught.value.message == complaint
