"""What holds for all rule files, flows and owners."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, cast
from unittest.mock import patch

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.core.rules.flows import CURL, HIDDEN, NAMELESS, WGET, flow, udp
from tunowner.core.model import FlowKey, Grade, Owner, Process, ProcessDetails
from tunowner.core.rules import Context, RuleSet, load
from tunowner.core.rules.findings import Findings
from tunowner.core.rules.implication import implies
from tunowner.core.rules.nodes import Loader, read
from tunowner.core.rules.rules_section import Loading
from tunowner.core.rules.subject import Subject
from tunowner.core.rules.table import CONDITIONS as TABLE
from tunowner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Match = dict[str, object]

WORDS = st.sampled_from(
    [
        "version",
        "defaults",
        "outbounds",
        "sets",
        "rules",
        "name",
        "match",
        "action",
        "when_unknown",
        "type",
        "interface",
        "table",
        "mark",
        "app",
        "path",
        "ip",
        "port",
        "protocol",
        "user",
        "pid",
        "owner",
        *("cmdline", "script", "parent", "ancestor", "package", "service", "cgroup", "host"),
        *("container", "sha256", "interface", "profile", "include", "tests", "flow", "expect"),
        *("to", "mode", "audit", "log", "tag", "expires", "for", "until", "restart", "1h", "deb:x"),
        "all",
        "any",
        "not",
        "direct",
        "block",
        "vpn",
        "$lan",
        "$s",
        "lan",
        "s",
        "1",
        "443",
        "1-2",
        "10.0.0.0/8",
        "10.0.0.1/8",
        "::1",
        "0x1F",
        "re:(",
        "re:a",
        "/a/**",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "-",
        "&",
        "*",
        "!",
        "|",
        ">",
        "%",
        "@",
        "`",
        "'",
        '"',
        "#",
        "?",
        "~",
        "null",
        "true",
        "---",
        "...",
        "!!int",
        "<<",
    ]
)
FRAGMENTS = st.lists(st.one_of(WORDS, st.sampled_from(["\n", "\n  ", " ", ": ", "- ", "\t"])))
VALUES = st.recursive(
    st.one_of(WORDS, st.integers(), st.booleans(), st.none(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
SECTIONS = st.fixed_dictionaries(
    {"version": st.just(1)},
    optional={
        "defaults": VALUES,
        "outbounds": st.dictionaries(WORDS, VALUES, max_size=2),
        "sets": st.dictionaries(WORDS, st.dictionaries(WORDS, VALUES, max_size=2), max_size=3),
        "rules": st.lists(
            st.fixed_dictionaries(
                {"name": WORDS, "match": VALUES, "action": WORDS},
                optional=dict.fromkeys(("mode", "log", "tag", "expires", "for", "until"), VALUES),
            ),
            max_size=3,
        ),
        "tests": st.lists(
            st.fixed_dictionaries({"flow": VALUES, "expect": VALUES}, optional={"action": VALUES}),
            max_size=2,
        ),
        "profile": VALUES,
    },
)


@given(st.one_of(st.text(), FRAGMENTS.map("".join), FRAGMENTS.map(" ".join)))
def test_any_text_loads_or_is_refused_with_findings(text: str) -> None:
    try:
        load([("a.yaml", text)])
    except ConfigError as error:
        findings = error.findings
    else:
        return
    assert findings
    assert all(len(str(finding).splitlines()) == 1 for finding in findings)


@given(SECTIONS)
def test_any_structure_loads_or_is_refused_with_findings(content: dict[str, object]) -> None:
    with suppress(ConfigError):
        load([("a.yaml", json.dumps(content))])


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
@given(text=st.one_of(st.text(), FRAGMENTS.map("".join)))
def test_both_parsers_of_pyyaml_are_tamed(loader: Loader, text: str) -> None:
    findings = Findings()
    read(text, "a.yaml", 0, findings, loader)


PYTHON = Process(816, 104, "/usr/bin/python3", 1000, "ana")
FLOWS = st.sampled_from(
    [
        flow(),
        flow(port=80),
        flow("10.0.0.9"),
        flow("2001:db8::1"),
        udp(port=53),
        flow("10.0.0.9", 80),
    ]
)
OWNERS = st.builds(
    Owner,
    st.sampled_from(Grade),
    st.lists(st.sampled_from([CURL, WGET, HIDDEN, NAMELESS, PYTHON]), max_size=3).map(tuple),
    st.sampled_from([None, 0, 1000]),
    st.sampled_from([None, "ana"]),
)
OTHERS = st.sampled_from(
    [
        {"cmdline": "curl *"},
        {"cmdline": "*"},
        {"script": "b.py"},
        {"script": "/opt/"},
        {"parent": "bash"},
        {"parent": ["zsh", "/opt/"]},
        {"ancestor": "ssh"},
        {"package": ["snap:*", "flatpak:org.x.Y"]},
        {"cmdline": "wget *"},
        {"service": "cron"},
        {"script": "/srv/*.py"},
        {"ancestor": {"app": "git", "user": "ana"}},
        {"ancestor": ["git", {"pid": 7}]},
        {"package": "deb:*"},
        {"service": "ssh"},
        {"cgroup": "/system.slice/"},
        {"container": "*"},
        {"sha256": "ab" * 32},
        {"host": "example.org"},
        {"host": ["*.example.org", "a*"]},
        {"host": "re:x"},
        {"interface": "wg*"},
        {"profile": "home"},
        {"protocol": "quic"},
    ]
)
CONDITIONS = st.one_of(
    st.sampled_from(
        ["curl", "w*", "*l", "re:.", "/usr/", "/usr/bin/curl", "**/wget", "/*/bin/c*"]
    ).map(lambda app: {"app": app}),
    st.sampled_from([["curl", "wget"], ["c*", "/opt/"], ["/usr/bin/*", "*"]]).map(
        lambda app: {"app": app}
    ),
    st.sampled_from(["/usr/bin/*", "/opt/**", "/usr/**/wget", "**"]).map(
        lambda path: {"path": path}
    ),
    st.sampled_from(["ana", "bob", 0, 1000, ["ana", 7]]).map(lambda user: {"user": user}),
    st.sampled_from([812, 813, [1, 814]]).map(lambda pid: {"pid": pid}),
    st.sampled_from([80, "1-100", 443, [53, "400-500"], "2-65535"]).map(
        lambda port: {"port": port}
    ),
    st.sampled_from(["tcp", "udp"]).map(lambda protocol: {"protocol": protocol}),
    st.sampled_from(["10.0.0.0/8", "::/0", ["10.0.0.9", "203.0.113.0/24"], "0.0.0.0/0"]).map(
        lambda ip: {"ip": ip}
    ),
    st.sampled_from(["unknown", "exact", "ambiguous"]).map(lambda owner: {"owner": owner}),
    OTHERS,
)


def details_of(number: int) -> Callable[[Process], ProcessDetails | None]:
    """Details of which more and more is known, by the bits of a number."""

    def details(process: Process) -> ProcessDetails | None:
        if not number & 1:
            return None
        return ProcessDetails(
            process,
            command_line=("curl", "/opt/b.py") if number & 2 else None,
            parents=(Process(5, 1, "/usr/bin/bash"), Process(6, 1, "/usr/bin/git"))[: number % 3],
            parents_whole=bool(number & 4),
            unit="ssh.service" if number & 8 else None,
            package="deb:curl" if number & 2 else None,
            cgroup="/system.slice/x",
            container="" if number & 8 else None,
        )

    return details


CONTEXTS = st.builds(
    Context,
    st.integers(0, 15).map(details_of),
    st.sampled_from([None, "ab" * 32, "cd" * 32]).map(lambda found: lambda _: found),
    st.sampled_from([(), ("example.org",), ("a.example.org", "b.net")]).map(
        lambda names: lambda _: names
    ),
    st.sampled_from([None, "wg0", "eth0"]).map(lambda name: lambda _: name),
    st.sampled_from(["", "home"]),
)


def _combined(inner: st.SearchStrategy[Match]) -> st.SearchStrategy[Match]:
    lists = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        lists.map(lambda items: {"all": items}),
        lists.map(lambda items: {"any": items}),
        inner.map(lambda item: {"not": item}),
        st.tuples(CONDITIONS, inner).map(lambda pair: {**pair[0], "not": pair[1]}),
    )


MATCHES = st.recursive(cast("st.SearchStrategy[Match]", CONDITIONS), _combined, max_leaves=6)


EXTRAS = st.sampled_from(
    [
        {},
        {},
        {},
        {"mode": "audit"},
        {"tag": "t"},
        {"log": False},
        {"for": "1m"},
        {"until": "restart"},
    ]
)
RULES = st.lists(st.tuples(MATCHES, EXTRAS), max_size=8)


def rule_set(*matches: object, extras: Sequence[Match] = ()) -> str:
    rules: list[Match] = [
        {"name": f"rule {number}", "match": match, "action": "block"}
        for number, match in enumerate(matches)
    ]
    for rule, extra in zip(rules, extras, strict=False):
        rule.update(extra)
    defaults = {"action": "direct", "when_unknown": "drop"}
    return json.dumps({"version": 1, "defaults": defaults, "rules": rules})


@given(st.lists(MATCHES, max_size=3), MATCHES, FLOWS, OWNERS)
def test_appending_a_rule_never_changes_an_earlier_match(
    earlier: list[Match], appended: Match, key: FlowKey, owner: Owner
) -> None:
    before = load([("a.yaml", rule_set(*earlier))]).decide(key, owner)
    after = load([("a.yaml", rule_set(*earlier, appended))]).decide(key, owner)
    if before.rule is not None:
        assert after == before
    else:
        assert after.rule in (None, f"rule {len(earlier)}")


@given(MATCHES, FLOWS, OWNERS)
def test_every_decision_says_why_in_one_line(match: Match, key: FlowKey, owner: Owner) -> None:
    why = load([("a.yaml", rule_set(match))]).decide(key, owner).why
    assert why.isprintable()
    assert why


@given(MATCHES, FLOWS, OWNERS)
def test_loading_twice_decides_alike(match: Match, key: FlowKey, owner: Owner) -> None:
    text = rule_set(match)
    assert load([("a", text)]).decide(key, owner) == load([("a", text)]).decide(key, owner)


def linear(rules: RuleSet, subject: Subject) -> tuple[str | None, str]:
    """The rule that decides, and the action: by asking every rule, in the plainest way."""
    unknown = False
    for rule in rules.rules:
        truth = rule.match.test(subject)
        if rule.decides and truth:
            assert rule.action is not None
            return rule.name, rule.action
        unknown = unknown or (rule.decides and truth is None)
    return None, rules.when_unknown if unknown else rules.default_action


@pytest.mark.parametrize("crowd", [0, 1, 16])
@given(
    written=RULES,
    key=FLOWS,
    owner=OWNERS,
    context=CONTEXTS,
    loading=st.sampled_from([Loading(), Loading(restarted=True)]),
)
def test_the_index_explain_and_a_plain_search_agree(
    crowd: int,
    written: list[tuple[Match, Match]],
    key: FlowKey,
    owner: Owner,
    context: Context,
    loading: Loading,
) -> None:
    text = rule_set(*(match for match, _ in written), extras=[extra for _, extra in written])
    with patch("tunowner.core.rules.index.CROWD", crowd):
        rules = load([("a.yaml", text)], loading)
    decision = rules.decide(key, owner, context)
    trace = rules.explain(key, owner, context)
    assert (decision.rule, decision.action) == linear(rules, Subject(key, owner, context))
    assert trace.decision == decision
    assert [step.rule for step in trace.steps] == [rule.name for rule in rules.rules]
    deciding = [it.rule for it in trace.steps if it.result == "yes" and it.mode == "decides"]
    assert decision.rule == (deciding[0] if deciding else None)
    assert all(step.because.isprintable() and step.because for step in trace.steps)


@given(st.lists(OTHERS, min_size=1, max_size=3), OWNERS, CONTEXTS)
def test_rules_that_only_ask_for_details_are_found_by_them(
    matches: list[Match], owner: Owner, context: Context
) -> None:
    with patch("tunowner.core.rules.index.CROWD", 0):
        rules = load([("a.yaml", rule_set(*matches))])
    decision = rules.decide(flow(), owner, context)
    assert (decision.rule, decision.action) == linear(rules, Subject(flow(), owner, context))


@given(RULES, FLOWS, OWNERS, CONTEXTS)
def test_a_rule_that_is_said_never_to_match_never_does(
    written: list[tuple[Match, Match]], key: FlowKey, owner: Owner, context: Context
) -> None:
    text = rule_set(*(match for match, _ in written), extras=[extra for _, extra in written])
    rules = load([("a.yaml", text)])
    hidden = [str(it) for it in rules.warnings if it.code == "W101"]
    decision = rules.decide(key, owner, context)
    assert not any(f"rule '{decision.rule}' can never match" in it for it in hidden)


@given(MATCHES, MATCHES, FLOWS, OWNERS, CONTEXTS)
def test_what_is_implied_holds(
    narrow: Match, wide: Match, key: FlowKey, owner: Owner, context: Context
) -> None:
    subject = Subject(key, owner, context)
    for first, second in ((narrow, wide), (narrow, {"any": [wide, narrow]}), (narrow, narrow)):
        rules = load([("a.yaml", rule_set(first, second))]).rules
        if implies(rules[0].match, rules[1].match) and rules[0].match.test(subject):
            assert rules[1].match.test(subject)


UNTOLD = {
    "app": "/x",
    "path": "/x",
    "cmdline": "x",
    "script": "x",
    "parent": "x",
    "ancestor": "x",
    "package": "deb:x",
    "service": "x",
    "cgroup": "/x",
    "container": "docker:x",
    "pid": 1,
    "sha256": "ab" * 32,
    "user": "x",
    "host": "x",
    "interface": "x",
}


def test_every_condition_is_known_or_may_be_untold() -> None:
    known = {"ip", "port", "protocol", "owner", "profile"}
    assert set(UNTOLD) | known == set(TABLE)


@pytest.mark.parametrize("key", UNTOLD)
def test_not_never_matches_where_nothing_is_known(key: str) -> None:
    rules = load([("a.yaml", rule_set({"not": {key: UNTOLD[key]}}))])
    for grade in Grade:
        assert rules.decide(flow(), Owner(grade)).action == "drop"


@given(MATCHES, FLOWS, OWNERS, CONTEXTS)
def test_what_is_unknown_stays_unknown_when_turned_around(
    match: Match, key: FlowKey, owner: Owner, context: Context
) -> None:
    plain, turned = (
        load([("a.yaml", rule_set(it))]).decide(key, owner, context).action
        for it in (match, {"not": match})
    )
    assert turned == {"block": "direct", "direct": "block", "drop": "drop"}[plain]
