"""What a rule can say beside its match: modes, marks, ends, profiles; and tests in the file."""

from __future__ import annotations

import pytest

from tests.core.rules.flows import ABSENT, CURL, flow, owned
from tunowner.core.model import Audited
from tunowner.core.rules import Context, RuleSet, load
from tunowner.core.rules.rules_section import Loading
from tunowner.errors import ConfigError

NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z


def rules(text: str, loading: Loading | None = None) -> RuleSet:
    return load([("a.yaml", "version: 1\n" + text)], loading or Loading(now=NOW))


def at(seconds: float) -> Context:
    return Context(now=lambda: NOW + seconds)


def test_audit_notes_what_would_have_happened_and_goes_on() -> None:
    loaded = rules("""
rules:
  - { name: try, match: { app: curl }, action: block, mode: audit }
  - { name: other, match: { app: wget }, action: block, mode: audit }
  - { name: all, match: any, action: direct, mode: enforce }
""")
    decision = loaded.decide(flow(), owned(CURL))
    assert (decision.action, decision.rule) == ("direct", "all")
    assert decision.audited == (Audited("try", "block"),)
    assert loaded.only_direct
    assert [step.mode for step in loaded.explain(flow(), ABSENT).steps] == [
        "audit",
        "audit",
        "decides",
    ]


def test_an_audit_rule_on_something_unknown_asks_for_nothing() -> None:
    loaded = rules("""
defaults: { when_unknown: block }
rules: [{ name: try, match: { app: curl }, action: block, mode: audit }]
""")
    assert loaded.decide(flow(), ABSENT).action == "direct"


def test_marks_are_collected_and_the_first_word_on_logging_counts() -> None:
    loaded = rules("""
rules:
  - { name: a, match: { port: 443 }, tag: [web, tls] }
  - { name: b, match: { app: curl }, tag: web, log: false }
  - { name: c, match: any, action: block, tag: caught, log: true }
""")
    decision = loaded.decide(flow(), owned(CURL))
    assert (decision.action, decision.rule) == ("block", "c")
    assert decision.tags == ("web", "tls", "caught")
    assert decision.log is False
    assert loaded.decide(flow(port=80), ABSENT).log is True


def test_marks_stay_where_a_default_decides() -> None:
    loaded = rules("rules: [{ name: a, match: { port: 443 }, tag: web }]")
    assert loaded.decide(flow(), ABSENT).tags == ("web",)
    assert loaded.decide(flow(port=80), ABSENT).tags == ()


ENDING = "rules: [{{ name: a, match: any, action: block, {} }}]"


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("expires: 2026-09-21T15:13:20Z", 3600),
        ("expires: '2026-09-21 17:13:20+02:00'", 3600),
        ("for: 1h30m", 5400),
        ("for: 15m", 900),
        ("for: 2d", 172_800),
        ("for: 90s", 90),
    ],
)
def test_a_rule_that_ends(end: str, last: int) -> None:
    loaded = rules(ENDING.format(end))
    assert loaded.decide(flow(), ABSENT, at(last - 1)).action == "block"
    assert loaded.decide(flow(), ABSENT, at(last)).action == "direct"
    (step,) = loaded.explain(flow(), ABSENT, at(last)).steps
    assert step.because.startswith("it ended at 2026-09-")


def test_an_end_that_is_still_to_come_makes_no_near_miss() -> None:
    rule = "rules: [{ name: a, match: { port: 80 }, action: block, for: 1h }]"
    assert rules(rule).explain(flow(), ABSENT, at(0)).nearest is None
    over = rules(ENDING.format("for: 1h")).explain(flow(), ABSENT, at(3600))
    assert over.nearest is not None
    assert over.nearest.failing == ("its end",)


def test_a_reload_does_not_prolong_a_rule() -> None:
    first = rules(ENDING.format("for: 15m"))
    again = rules(ENDING.format("for: 15m"), Loading(NOW + 600, before=first))
    assert again.decide(flow(), ABSENT, at(899)).action == "block"
    assert again.decide(flow(), ABSENT, at(900)).action == "direct"
    other = rules(ENDING.format("for: 20m"), Loading(NOW + 600, before=first))
    assert other.decide(flow(), ABSENT, at(1_799)).action == "block"


def test_until_restart() -> None:
    text = ENDING.format("until: restart")
    assert rules(text).decide(flow(), ABSENT).action == "block"
    over = rules(text, Loading(NOW, restarted=True))
    assert over.decide(flow(), ABSENT).action == "direct"
    assert [str(it) for it in over.warnings] == [
        "a.yaml:2:9: warning W105: rule 'a' ended with the restart; take it out"
    ]


def test_a_reload_does_not_bring_back_what_ended_with_a_restart() -> None:
    text = ENDING.format("until: restart")
    over = rules(text, Loading(NOW, restarted=True))
    again = rules(text, Loading(NOW + 60, before=over))
    and_again = rules(text, Loading(NOW + 120, before=again))
    assert and_again.decide(flow(), ABSENT).action == "direct"
    assert and_again.warnings == over.warnings
    new = rules(text.replace("name: a", "name: b"), Loading(NOW + 180, before=and_again))
    assert new.decide(flow(), ABSENT).action == "block"
    kept = rules(text.replace("name: a", "name: b"), Loading(NOW + 240, before=new))
    assert kept.decide(flow(), ABSENT).action == "block"


def test_a_test_of_a_rule_that_a_restart_ended_refuses_nothing() -> None:
    text = (
        "rules: [{ name: a, match: { port: 443 }, action: block, until: restart }]\n"
        "tests: [{ flow: { to: '192.0.2.7:443' }, expect: a, action: block }]"
    )
    assert rules(text).decide(flow(), ABSENT).action == "block"
    assert rules(text, Loading(NOW, restarted=True)).decide(flow(), ABSENT).action == "direct"


def test_a_rule_that_has_ended_is_told_of() -> None:
    loaded = rules(ENDING.format("expires: 2020-01-01T00:00:00Z"))
    assert [str(it) for it in loaded.warnings] == [
        "a.yaml:2:9: warning W105: rule 'a' ended at 2020-01-01T00:00:00Z; take it out"
    ]


def test_a_file_for_some_profiles() -> None:
    loaded = rules("profile: [home]\nrules: [{ name: a, match: { port: 443 }, action: block }]")
    assert loaded.decide(flow(), ABSENT, Context(profile="home")).action == "block"
    assert loaded.decide(flow(), ABSENT, Context(profile="work")).action == "direct"
    assert loaded.decide(flow(), ABSENT).action == "direct"


def test_sets_include_sets() -> None:
    loaded = rules("""
sets:
  a: { ip: 10.0.0.0/8, app: x }
  b: { include: a, ip: 192.168.0.0/16 }
  c: { include: [$b], port: 80 }
rules:
  - { name: one, match: { ip: $c, app: $c }, action: block }
""")
    assert loaded.decide(flow("10.1.1.1"), ABSENT).why.startswith("owner absent; rule 'one'")
    assert loaded.decide(flow("192.168.1.1"), ABSENT).why.startswith("owner absent; rule 'one'")
    assert loaded.decide(flow("11.0.0.1"), ABSENT).why == "no rule matches"


TESTED = """
outbounds: { corp: { type: mark, mark: 1 } }
rules:
  - { name: lan, match: { ip: 10.0.0.0/8 }, action: direct }
  - { name: git, match: { app: ssh, ancestor: { app: git } }, action: corp }
tests:
  - flow: { app: /usr/bin/git, parent: /usr/bin/bash, to: "10.0.0.9:22" }
    expect: lan
  - flow: { app: /usr/bin/ssh, parent: [/usr/bin/git, /usr/bin/bash], to: "[2001:db8::1]:22" }
    expect: git
    action: corp
  - { flow: { app: /usr/bin/curl, to: "1.1.1.1:443", protocol: udp }, expect: default }
  - { flow: { app: /usr/bin/ssh, to: "1.1.1.1:443" }, expect: unknown }
"""


def test_tests_in_the_file_that_pass() -> None:
    assert len(rules(TESTED).cases) == 4


def test_tests_in_the_file_that_fail_refuse_it() -> None:
    broken = TESTED.replace("ip: 10.0.0.0/8", "ip: 10.0.0.8").replace(
        "action: corp\n  -", "action: drop\n  -"
    )
    with pytest.raises(ConfigError) as caught:
        rules(broken)
    assert [str(it) for it in caught.value.findings] == [
        "a.yaml:8:5: error E301: test expects 'lan', but 'default' decides; no rule matches; 'lan' says no: ip is 10.0.0.9, not 10.0.0.8",
        "a.yaml:10:5: error E302: test expects action 'drop', but it is corp; 'git' decides: app 'ssh' is /usr/bin/ssh; ancestor git",
    ]
