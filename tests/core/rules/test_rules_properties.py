"""What holds for all rule files, flows and owners."""

from __future__ import annotations

from contextlib import suppress
from typing import cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.core.rules.flows import CURL, HIDDEN, NAMELESS, WGET, flow, udp
from tunowner.core.model import FlowKey, Grade, Owner
from tunowner.core.rules import load
from tunowner.core.rules.findings import Findings
from tunowner.core.rules.nodes import Loader, read
from tunowner.errors import ConfigError

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
            st.fixed_dictionaries({"name": WORDS, "match": VALUES, "action": WORDS}), max_size=3
        ),
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
        load([("a.yaml", yaml.safe_dump(content, sort_keys=False))])


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
@given(text=st.one_of(st.text(), FRAGMENTS.map("".join)))
def test_both_parsers_of_pyyaml_are_tamed(loader: Loader, text: str) -> None:
    findings = Findings()
    read(text, "a.yaml", 0, findings, loader)


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
    st.lists(st.sampled_from([CURL, WGET, HIDDEN, NAMELESS]), max_size=3).map(tuple),
    st.sampled_from([None, 0, 1000]),
    st.sampled_from([None, "ana"]),
)
CONDITIONS = st.one_of(
    st.sampled_from(["curl", "w*", "re:.", "/usr/"]).map(lambda app: {"app": app}),
    st.sampled_from(["/usr/bin/*", "/opt/**"]).map(lambda path: {"path": path}),
    st.sampled_from(["ana", "bob", 0, 1000]).map(lambda user: {"user": user}),
    st.sampled_from([812, 813]).map(lambda pid: {"pid": pid}),
    st.sampled_from([80, "1-100", 443]).map(lambda port: {"port": port}),
    st.sampled_from(["tcp", "udp"]).map(lambda protocol: {"protocol": protocol}),
    st.sampled_from(["10.0.0.0/8", "::/0"]).map(lambda ip: {"ip": ip}),
    st.sampled_from(["unknown", "exact", "ambiguous"]).map(lambda owner: {"owner": owner}),
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


def rule_set(*matches: object) -> str:
    rules = [
        {"name": f"rule {number}", "match": match, "action": "block"}
        for number, match in enumerate(matches)
    ]
    defaults = {"action": "direct", "when_unknown": "drop"}
    return yaml.safe_dump({"version": 1, "defaults": defaults, "rules": rules})


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
def test_not_turns_yes_and_no_around_and_leaves_unknown(
    match: Match, key: FlowKey, owner: Owner
) -> None:
    plain = load([("a.yaml", rule_set(match))]).decide(key, owner).action
    negated = load([("a.yaml", rule_set({"not": match}))]).decide(key, owner).action
    assert negated == {"block": "direct", "direct": "block", "drop": "drop"}[plain]


@given(MATCHES, FLOWS, OWNERS)
def test_every_decision_says_why_in_one_line(match: Match, key: FlowKey, owner: Owner) -> None:
    why = load([("a.yaml", rule_set(match))]).decide(key, owner).why
    assert why.isprintable()
    assert why


@given(MATCHES, FLOWS, OWNERS)
def test_loading_twice_decides_alike(match: Match, key: FlowKey, owner: Owner) -> None:
    text = rule_set(match)
    assert load([("a", text)]).decide(key, owner) == load([("a", text)]).decide(key, owner)


OWNER_KEYS = ["app", "path", "pid", "user"]


@pytest.mark.parametrize("key", OWNER_KEYS)
def test_not_never_matches_where_nothing_is_known(key: str) -> None:
    value = 1 if key == "pid" else "/x"
    rules = load([("a.yaml", rule_set({"not": {key: value}}))])
    for grade in Grade:
        assert rules.decide(flow(), Owner(grade)).action == "drop"
