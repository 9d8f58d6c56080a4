"""What each condition matches, as tables: match, flow, owner, and yes, no or unknown."""

from __future__ import annotations

import pytest

from tests.core.rules.flows import (
    ABSENT,
    CURL,
    HIDDEN,
    NAMELESS,
    NO,
    UID_ONLY,
    UNKNOWN,
    WGET,
    YES,
    app,
    flow,
    one_rule,
    owned,
    udp,
)
from tunowner.core.model import (
    FlowKey,
    Grade,
    InterfaceOutbound,
    MarkOutbound,
    Owner,
    Process,
    TableOutbound,
)
from tunowner.core.rules import load

FLOW_CONDITIONS = [
    ("ip: 203.0.113.5", flow("203.0.113.5"), YES),
    ("ip: 203.0.113.5", flow("203.0.113.6"), NO),
    ("ip: 203.0.113.0/30", flow("203.0.113.3"), YES),
    ("ip: 203.0.113.0/30", flow("203.0.113.4"), NO),
    ("ip: 0.0.0.0/0", flow("203.0.113.5"), YES),
    ("ip: 0.0.0.0/0", flow("2001:db8::1"), NO),
    ("ip: '::/0'", flow("2001:db8::1"), YES),
    ("ip: '::/0'", flow("203.0.113.5"), NO),
    ("ip: 'fc00::/7'", flow("fdff::1"), YES),
    ("ip: 'fc00::/7'", flow("fe00::1"), NO),
    ("ip: '::1'", flow("0.0.0.1"), NO),
    ("ip: [10.0.0.0/8, 192.168.0.0/16, 'fc00::/7']", flow("192.168.7.7"), YES),
    ("port: 443", flow(port=443), YES),
    ("port: 443", flow(port=442), NO),
    ("port: 0x1bb", flow(port=443), YES),
    ("port: 1000-2000", flow(port=1000), YES),
    ("port: 1000-2000", flow(port=2000), YES),
    ("port: 1000-2000", flow(port=999), NO),
    ("port: 1000-2000", flow(port=2001), NO),
    ("port: [80, 5-9, '8-20', 443]", flow(port=15), YES),
    ("port: [80, 5-9, '8-20', 443]", flow(port=21), NO),
    ("port: [80, 5-9, '8-20', 443]", flow(port=4), NO),
    ("port: [80, 5-9, '8-20', 443]", flow(port=443), YES),
    ("port: 1-65535", flow(port=0, protocol=1), NO),
    ("protocol: tcp", flow(), YES),
    ("protocol: tcp", udp(), NO),
    ("protocol: [udp, tcp]", udp(), YES),
]


@pytest.mark.parametrize(("match", "key", "expected"), FLOW_CONDITIONS)
@pytest.mark.parametrize("owner", [ABSENT, owned(CURL)], ids=["absent", "curl"])
def test_a_condition_on_the_flow_needs_no_owner(
    match: str, key: FlowKey, expected: str, owner: Owner
) -> None:
    assert one_rule(f"{{ {match} }}").decide(key, owner).action == expected


APPS = [
    ("app: curl", "/usr/bin/curl", YES),
    ("app: curl", "/opt/x/curl", YES),
    ("app: curl", "/usr/bin/Curl", NO),
    ("app: curl", "/usr/bin/curl2", NO),
    ("app: curl", "/usr/bin/xcurl", NO),
    ("app: curl", "/curl/wget", NO),
    ("app: 'curl*'", "/usr/bin/curl2", YES),
    ("app: '*'", "/usr/bin/curl", YES),
    ("app: 'c?rl'", "/usr/bin/curl", YES),
    ("app: '[bc]url'", "/usr/bin/curl", YES),
    ("app: '[!bc]url'", "/usr/bin/curl", NO),
    ("app: no", "/usr/bin/no", YES),
    ("app: /usr/bin/curl", "/usr/bin/curl", YES),
    ("app: /usr/bin/curl", "/x/usr/bin/curl", NO),
    ("app: /usr/*", "/usr/bin/curl", NO),
    ("app: /usr/**", "/usr/bin/curl", YES),
    ("app: '**/curl'", "/usr/bin/curl", YES),
    ("app: '**/bin/*'", "/usr/bin/curl", YES),
    ("app: /usr/**/curl", "/usr/curl", YES),
    ("app: /opt/vendor/", "/opt/vendor/a/b", YES),
    ("app: /opt/vendor/", "/opt/vendor2/a", NO),
    ("app: /opt/*/bin/", "/opt/x/bin/a/b", YES),
    ("app: 're:bin/cu?rl$'", "/usr/bin/crl", YES),
    ("app: 're:^curl'", "/usr/bin/curl", NO),
    ("app: 're:CURL'", "/usr/bin/curl", NO),
    ("app: 're:(?i)CURL'", "/usr/bin/curl", YES),
    ("app: [wget, /usr/bin/c*]", "/usr/bin/curl", YES),
    ("app: C:/Foo/*.exe", "C:\\Foo\\a.exe", YES),
    ("path: /usr/bin/*", "/usr/bin/curl", YES),
    ("path: '**'", "/usr/bin/curl", YES),
    ("path: /usr/bin", "/usr/bin/curl", NO),
    ("path: /usr/bin/", "/usr/bin/curl", YES),
    ("app: /usr/bin/.**", "/usr/bin/.\n/x", YES),
]


@pytest.mark.parametrize(("match", "path", "expected"), APPS)
def test_app_and_path(match: str, path: str, expected: str) -> None:
    rules = one_rule(f"{{ {match} }}")
    assert rules.decide(flow(), app(path)).action == expected
    assert rules.decide(flow(), ABSENT).action == UNKNOWN
    assert rules.decide(flow(), owned(HIDDEN)).action == UNKNOWN


ROOT_SOCKET = Owner(Grade.DENIED, uid=0)
OWNER_CONDITIONS = [
    # users: of the process, or of the socket where there is no process
    ("user: ana", owned(CURL), YES),
    ("user: ana", owned(WGET), NO),
    ("user: ana", owned(NAMELESS), UNKNOWN),
    ("user: 1000", owned(NAMELESS), YES),
    ("user: '1000'", owned(NAMELESS), YES),
    ("user: [bob, 1000]", owned(NAMELESS), YES),
    ("user: [bob, 7]", owned(NAMELESS), UNKNOWN),
    ("user: ana", UID_ONLY, YES),
    ("user: 1000", UID_ONLY, YES),
    ("user: bob", UID_ONLY, NO),
    ("user: 0", ROOT_SOCKET, YES),
    ("user: root", ROOT_SOCKET, UNKNOWN),
    ("user: root", ABSENT, UNKNOWN),
    ("user: ana", Owner(Grade.EXACT, (WGET,), uid=1000, user="ana"), NO),
    ("pid: 812", owned(CURL), YES),
    ("pid: [1, 812]", owned(CURL), YES),
    ("pid: 813", owned(CURL), NO),
    ("pid: 813", UID_ONLY, UNKNOWN),
    # owner: grades are always known
    ("owner: unknown", ABSENT, YES),
    ("owner: unknown", UID_ONLY, YES),
    ("owner: unknown", owned(HIDDEN), NO),
    ("owner: unknown", owned(CURL, WGET, grade=Grade.AMBIGUOUS), NO),
    ("owner: exact", owned(CURL), YES),
    ("owner: exact", owned(CURL, grade=Grade.WILDCARD), NO),
    ("owner: [exact, wildcard]", owned(CURL, grade=Grade.WILDCARD), YES),
    ("owner: [uid-only, unknown]", UID_ONLY, YES),
    ("owner: kernel", ABSENT, NO),
    # several holders of one socket: any of them, if sure
    ("app: curl", owned(WGET, CURL), YES),
    ("app: nc", owned(WGET, CURL), NO),
    ("app: nc", owned(WGET, HIDDEN), UNKNOWN),
    ("app: curl", owned(HIDDEN, CURL), YES),
    ("app: curl", owned(WGET, CURL, grade=Grade.WILDCARD), YES),
    ("not: { app: curl }", owned(WGET, CURL), NO),
    # equally likely holders: all of them
    ("app: curl", owned(WGET, CURL, grade=Grade.AMBIGUOUS), UNKNOWN),
    ("app: [curl, wget]", owned(WGET, CURL, grade=Grade.AMBIGUOUS), YES),
    ("app: nc", owned(WGET, CURL, grade=Grade.AMBIGUOUS), NO),
    ("app: curl", owned(HIDDEN, CURL, grade=Grade.AMBIGUOUS), UNKNOWN),
    ("app: curl", owned(WGET, CURL, grade=Grade.CLOSED), UNKNOWN),
    # the keys of one mapping are about one holder
    ("app: curl, user: ana", owned(WGET, CURL), YES),
    ("app: curl, user: bob", owned(WGET, CURL), NO),
    ("all: [{ app: curl }, { user: bob }]", owned(WGET, CURL), YES),
    ("app: curl, user: bob", owned(WGET, CURL, grade=Grade.AMBIGUOUS), NO),
]


@pytest.mark.parametrize(("match", "owner", "expected"), OWNER_CONDITIONS)
def test_conditions_on_the_owner(match: str, owner: Owner, expected: str) -> None:
    assert one_rule(f"{{ {match} }}").decide(flow(), owner).action == expected


# `T` always true, `F` always false, `U` unknown for an absent owner
T, F, U = "{ protocol: tcp }", "{ protocol: udp }", "{ app: curl }"
LOGIC = [
    ("any", YES),
    (f"{{ all: [{T}, {T}] }}", YES),
    (f"{{ all: [{T}, {F}] }}", NO),
    (f"{{ all: [{T}, {U}] }}", UNKNOWN),
    (f"{{ all: [{U}, {F}] }}", NO),
    (f"{{ all: [{F}, {U}] }}", NO),
    (f"{{ all: [{U}, {U}] }}", UNKNOWN),
    (f"{{ any: [{F}, {F}] }}", NO),
    (f"{{ any: [{T}, {F}] }}", YES),
    (f"{{ any: [{U}, {T}] }}", YES),
    (f"{{ any: [{F}, {U}] }}", UNKNOWN),
    (f"{{ not: {T} }}", NO),
    (f"{{ not: {F} }}", YES),
    (f"{{ not: {U} }}", UNKNOWN),
    (f"{{ not: {{ not: {U} }} }}", UNKNOWN),
    (f"{{ protocol: tcp, not: {U} }}", UNKNOWN),
    (f"{{ protocol: udp, not: {U} }}", NO),
    (f"{{ protocol: tcp, port: 443, not: {F}, any: [{T}], all: [{T}] }}", YES),
    (f"{{ protocol: tcp, port: 80, not: {F}, any: [{T}], all: [{T}] }}", NO),
    ("{ app: curl, port: 80 }", NO),
    ("{ app: curl, owner: exact }", NO),
]


@pytest.mark.parametrize(("match", "expected"), LOGIC)
def test_three_valued_logic(match: str, expected: str) -> None:
    assert one_rule(match).decide(flow(port=443), ABSENT).action == expected


SETS = """
sets:
  lan: { ip: [10.0.0.0/8, $office], port: 22 }
  office: { ip: 192.0.2.0/24 }
"""


@pytest.mark.parametrize(
    ("match", "key", "expected"),
    [
        ("ip: $lan", flow("10.1.1.1"), YES),
        ("ip: $lan", flow("192.0.2.9"), YES),
        ("ip: $lan", flow("192.0.3.9"), NO),
        ("ip: [$lan, 192.0.3.9]", flow("192.0.3.9"), YES),
        ("ip: [$lan, $office]", flow("192.0.2.9"), YES),
        ("port: $lan", flow(port=22), YES),
        ("ip: $lan, port: $lan", flow("10.1.1.1", 23), NO),
        ("not: { ip: $lan }", flow("10.1.1.1"), NO),
    ],
)
def test_a_set_stands_for_its_values_under_the_same_key(
    match: str, key: FlowKey, expected: str
) -> None:
    assert one_rule(f"{{ {match} }}", SETS).decide(key, ABSENT).action == expected


REASONS = [
    ("{ app: curl, port: 443 }", owned(CURL), "app 'curl' is /usr/bin/curl; port 443"),
    ("{ port: 443, app: c* }", owned(CURL), "port 443; app 'c*' is /usr/bin/curl"),
    ("{ app: curl, port: 443 }", owned(WGET, CURL), "app 'curl' is /usr/bin/curl; port 443"),
    (
        "{ path: /opt/** }",
        app("/opt/a b\n\x1b[31m\udc80"),
        r"path '/opt/**' is /opt/a b\n\x1b[31m\udc80",
    ),
    ("{ app: 're:u.l' }", owned(CURL), "app 're:u.l' is /usr/bin/curl"),
    ("{ ip: 203.0.113.5 }", ABSENT, "ip 203.0.113.5"),
    ("{ ip: [1.1.1.1, 203.0.113.0/24] }", ABSENT, "ip 203.0.113.5 is in 203.0.113.0/24"),
    ("{ protocol: tcp, owner: unknown }", ABSENT, "protocol tcp; owner absent"),
    ("{ user: 1000, pid: 812 }", owned(CURL), "user ana; pid 812"),
    ("{ user: ana }", UID_ONLY, "user ana"),
    ("{ any: [{ port: 80 }, { port: 443 }] }", ABSENT, "port 443"),
    (
        "{ not: { ip: [1.1.1.1, $s, 2.2.2.2, 3.3.3.3] } }",
        ABSENT,
        "not (ip 1.1.1.1, $s, 2.2.2.2 and 1 more)",
    ),
    (
        "{ not: { any: [{ port: 80 }, { app: a, port: 8 }] } }",
        owned(CURL),
        "not (any of (port 80 | app a; port 8))",
    ),
    ("any", ABSENT, "any flow"),
    ("{ port: 80 }", ABSENT, "no rule matches"),
    ("{ app: curl }", ABSENT, "owner absent; rule 'it' needs app"),
    ("{ port: 443, not: { user: ana } }", ABSENT, "owner absent; rule 'it' needs user"),
    ("{ any: [{ port: 80 }, { pid: 1 }] }", ABSENT, "owner absent; rule 'it' needs pid"),
    ("{ user: 1000, app: curl }", UID_ONLY, "owner uid-only; rule 'it' needs app"),
    ("{ app: curl }", owned(HIDDEN), "app of pid 814 unknown; rule 'it' needs app"),
    (
        "{ app: curl }",
        owned(WGET, CURL, grade=Grade.AMBIGUOUS),
        "owner ambiguous; rule 'it' needs app",
    ),
]


@pytest.mark.parametrize(("match", "owner", "why"), REASONS)
def test_a_decision_says_why(match: str, owner: Owner, why: str) -> None:
    rules = one_rule(match, "sets: { s: { ip: 9.9.9.9 } }\n")
    assert rules.decide(flow("203.0.113.5", 443), owner).why == why


ORDERED = """
version: 1
defaults: { action: drop, when_unknown: vpn }
outbounds:
  vpn: { type: interface, name: wg0 }
  table: { type: table, table: 254 }
  mark: { type: mark, mark: 0xFFffFFff }
rules:
  - { name: a curl, match: { app: curl }, action: vpn }
  - { name: b web, match: { port: [80, 443] }, action: table }
"""
MORE = """
version: 1
rules:
  - { name: c, match: { port: 80 }, action: mark }
  - { name: d, match: { port: 22 }, action: direct }
"""


@pytest.mark.parametrize(
    ("port", "owner", "expected"),
    [
        (80, owned(CURL), ("vpn", "a curl", "a.yaml")),
        (80, owned(WGET), ("table", "b web", "a.yaml")),
        (80, ABSENT, ("table", "b web", "a.yaml")),
        (22, ABSENT, ("direct", "d", "b.yaml")),
        (23, owned(WGET), ("drop", None, None)),
        (23, ABSENT, ("vpn", None, None)),
    ],
)
def test_the_first_rule_that_surely_matches_decides(
    port: int, owner: Owner, expected: tuple[str, str | None, str | None]
) -> None:
    decision = load([("a.yaml", ORDERED), ("b.yaml", MORE)]).decide(flow(port=port), owner)
    assert (decision.action, decision.rule, decision.rule_file) == expected
    assert decision.owner is owner


def test_outbounds_keep_their_order() -> None:
    assert list(load([("a.yaml", ORDERED)]).outbounds.items()) == [
        ("vpn", InterfaceOutbound("vpn", "wg0")),
        ("table", TableOutbound("table", 254)),
        ("mark", MarkOutbound("mark", 0xFFFF_FFFF)),
    ]


def test_what_a_later_file_defines_is_usable_in_an_earlier_one() -> None:
    use = "version: 1\nrules: [{ name: r, match: { ip: $lan }, action: vpn }]"
    define = (
        "version: 1\n"
        "sets: { lan: { ip: 10.0.0.1 } }\n"
        "outbounds: { vpn: { type: mark, mark: 5 } }\n"
        "defaults: { action: block }"
    )
    rules = load([("a.yaml", use), ("b.yaml", define)])
    assert rules.decide(flow("10.0.0.1"), ABSENT).action == "vpn"
    assert rules.decide(flow("10.0.0.2"), ABSENT).action == "block"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("defaults: { when_unknown: block }", False),
        ("defaults: { action: drop }", False),
        ("rules: [{ name: r, match: { port: 1 }, action: direct }]", True),
        ("rules: [{ name: r, match: { port: 1 }, action: block }]", False),
        ("outbounds: { o: { type: mark, mark: 1 } }", True),
    ],
)
def test_only_direct(text: str, expected: bool) -> None:  # noqa: FBT001 - a table
    assert load([("a.yaml", f"version: 1\n{text}")]).only_direct is expected


def test_without_files_all_is_direct() -> None:
    rules = load([])
    assert rules.only_direct
    assert rules.decide(flow(), ABSENT).action == "direct"


def test_sets_that_double_each_other_cost_nothing() -> None:
    lines = ["  s0: { app: [a, b] }"]
    lines += [f"  s{n}: {{ app: [$s{n - 1}, $s{n - 1}, c{n}] }}" for n in range(1, 300)]
    text = "sets:\n" + "\n".join(reversed(lines)) + "\n"
    rules = one_rule("{ app: $s299 }", text)
    assert rules.decide(flow(), app("/bin/b")).action == YES
    assert rules.decide(flow(), app("/bin/c299")).action == YES


def test_a_process_is_not_confused_by_its_folder() -> None:
    trap = Process(1, 1, "/tmp/curl/evil", 1000, "ana")
    assert one_rule("{ app: curl }").decide(flow(), owned(trap)).action == NO


def test_a_file_with_warnings_loads_and_keeps_them() -> None:
    text = """version: 1
defaults: { when_unknown: block }
rules:
  - { name: all, match: any, action: direct }
  - { name: late, match: { port: 1 }, action: block }
"""
    assert list(map(str, load([("a.yaml", text)]).warnings)) == [
        (
            "a.yaml:2:11: warning W102: when_unknown can never apply; "
            "rule 'all' (a.yaml:4) matches every flow"
        ),
        (
            "a.yaml:5:5: warning W101: rule 'late' can never match; "
            "rule 'all' (a.yaml:4) before it matches every flow"
        ),
    ]
