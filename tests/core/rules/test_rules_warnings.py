"""Warnings: what is not wrong but hardly meant. The exact text of each."""

from __future__ import annotations

import pytest

from tunowner.core.rules import load
from tunowner.errors import ConfigError

NEVER = (
    "warning W101: rule 'b' can never match; rule 'a' (a.yaml:3) before it matches all that it does"
)
RULES = """\
version: 1
rules:
  - {{ name: a, match: {}, action: block }}
  - {{ name: b, match: {}, action: direct }}
"""

SHADOWED = [
    ("{ app: curl }", "{ app: curl, port: 443 }"),
    ("{ app: [curl, wget] }", "{ app: wget }"),
    ("{ app: 'c*' }", "{ app: [curl, cat] }"),
    ("{ app: curl }", "{ app: /usr/bin/curl }"),
    ("{ app: /opt/ }", "{ app: /opt/vendor/ }"),
    ("{ app: /opt/ }", "{ path: /opt/vendor/*/bin/x }"),
    ("{ path: '/opt/**' }", "{ app: /opt/x }"),
    ("{ ip: 10.0.0.0/8 }", "{ ip: [10.1.0.0/16, 10.2.3.4] }"),
    ("{ ip: '::/0' }", "{ ip: 'fe80::/10' }"),
    ("{ port: 1-1024 }", "{ port: [80, 443], protocol: tcp }"),
    ("{ protocol: udp }", "{ protocol: quic }"),
    ("{ user: [ana, 1000] }", "{ user: 1000 }"),
    ("{ host: '*.example.org' }", "{ host: '*.example.org', port: 443 }"),
    ("{ any: [{ app: curl }, { port: 53 }] }", "{ port: 53 }"),
    ("{ app: [curl, wget] }", "{ any: [{ app: curl }, { app: wget }] }"),
    ("{ not: { ip: 10.0.0.0/8 } }", "{ not: { ip: 10.0.0.0/8 }, app: curl }"),
    ("{ ancestor: git }", "{ ancestor: git, app: ssh }"),
    ("{ package: deb:curl }", "{ package: deb:curl, cmdline: 'curl *' }"),
]
NOT_SHADOWED = [
    ("{ app: curl, port: 443 }", "{ app: curl }"),
    ("{ app: /usr/bin/curl }", "{ app: curl }"),
    ("{ app: curl }", "{ app: 'cur*' }"),
    ("{ ip: 10.1.0.0/16 }", "{ ip: 10.0.0.0/8 }"),
    ("{ ip: 10.0.0.0/8 }", "{ ip: [10.1.0.0/16, 11.0.0.1] }"),
    ("{ port: [1-500, 502-1000] }", "{ port: 400-600 }"),
    ("{ protocol: quic }", "{ protocol: udp }"),
    ("{ not: { ip: 10.0.0.0/8 } }", "{ not: { ip: 10.0.0.0/16 } }"),
    ("{ app: 're:curl' }", "{ app: curl }"),
    ("{ all: [{ app: curl }, { app: wget }] }", "{ app: curl }"),
    ("{ parent: git }", "{ ancestor: git }"),
    ("{ app: /opt/ }", "{ app: '/opt*/x' }"),
]


def warnings(text: str) -> list[str]:
    return [str(it).removeprefix("a.yaml:") for it in load([("a.yaml", text)]).warnings]


@pytest.mark.parametrize(("first", "second"), SHADOWED)
def test_a_rule_that_an_earlier_one_hides(first: str, second: str) -> None:
    assert warnings(RULES.format(first, second)) == [f"4:5: {NEVER}"]


@pytest.mark.parametrize(("first", "second"), NOT_SHADOWED)
def test_a_rule_that_is_not_hidden(first: str, second: str) -> None:
    assert warnings(RULES.format(first, second)) == []


@pytest.mark.parametrize("extra", ["mode: audit", "for: 1h", "until: restart"])
def test_a_rule_that_goes_on_or_ends_hides_nothing(extra: str) -> None:
    text = RULES.format("{ app: curl }", "{ app: curl, port: 1 }")
    assert warnings(text.replace("action: block", f"action: block, {extra}")) == []


def test_a_rule_that_only_marks_hides_nothing_and_may_be_hidden() -> None:
    text = """\
version: 1
rules:
  - { name: mark, match: { app: curl }, tag: seen }
  - { name: all, match: any, action: direct }
  - { name: late, match: { app: wget }, tag: seen }
"""
    assert warnings(text) == [
        "5:5: warning W101: rule 'late' can never match; rule 'all' (a.yaml:4) before it matches every flow"
    ]


MATCHES_ALL = [
    ("{ ip: [0.0.0.0/0, '::/0'] }", "flow"),
    ("{ port: [1-1000, 1001-65535] }", "flow"),
    ("{ protocol: [tcp, udp] }", "flow"),
    ("{ app: '*' }", "program"),
    ("{ path: '**' }", "program"),
    ("{ any: [{ app: curl }, { ip: [0.0.0.0/0, '::/0'] }] }", "flow"),
    ("{ app: [curl, '/**'], protocol: [tcp, udp] }", "program"),
]


@pytest.mark.parametrize(("match", "what"), MATCHES_ALL)
def test_a_rule_that_matches_everything(match: str, what: str) -> None:
    text = f"version: 1\nrules: [{{ name: a, match: {match}, action: direct }}]"
    assert warnings(text) == [
        f"2:9: warning W104: rule 'a' matches every {what}; if that is meant, write match: any"
    ]


@pytest.mark.parametrize(
    "match", ["{ ip: 0.0.0.0/0 }", "{ protocol: tcp }", "{ app: '*', port: 1 }"]
)
def test_a_rule_that_does_not(match: str) -> None:
    assert warnings(f"version: 1\nrules: [{{ name: a, match: {match}, action: direct }}]") == []


MOVING = [
    ("/snap/firefox/5917/usr/lib/firefox/firefox", "write package: snap:firefox"),
    (
        "/var/lib/flatpak/app/org.x.Y/x86_64/stable/abc/files/bin/y",
        "write package: flatpak:org.x.Y",
    ),
    ("/tmp/.mount_ABC123/app", "write package: appimage:/where/it/is/*.AppImage"),
    ("/opt/app-1.2.3/bin/app", "write '/opt/app*/bin/app'"),
    ("/opt/7.1/bin/", "write '/opt/*/bin/'"),
    ("/home/ana/.local/Discord/app-1.0.9011/*", "write '/home/ana/.local/Discord/app*/*'"),
    (
        "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-curl-8.5.0/bin/curl",
        "write '/nix/store/*-curl*/bin/curl'",
    ),
]


@pytest.mark.parametrize(("path", "hint"), MOVING)
@pytest.mark.parametrize("key", ["app", "path", "parent"])
def test_a_path_that_will_move(key: str, path: str, hint: str) -> None:
    text = f"version: 1\nrules:\n  - name: a\n    match: {{ {key}: '{path}' }}\n    action: block\n"
    shown = path if len(path) <= 60 else path[:57] + "..."
    column = 14 + len(key) + 2
    assert warnings(text) == [
        f"4:{column}: warning W103: '{shown}' will move with the next update; {hint}"
    ]


@pytest.mark.parametrize(
    "path", ["/usr/bin/python3.11", "/opt/app-*/bin/x", "/opt/x86_64/bin/x", "/usr/lib32/x", "curl"]
)
def test_a_path_that_stays(path: str) -> None:
    assert (
        warnings(f"version: 1\nrules: [{{ name: a, match: {{ app: '{path}' }}, action: block }}]")
        == []
    )


def test_the_kernels_suffix_is_not_part_of_a_path() -> None:
    text = "version: 1\nrules: [{ name: a, match: { app: '/usr/bin/x (deleted)' }, action: block }]"
    assert warnings(text) == [
        "2:34: warning W106: '/usr/bin/x (deleted)' never matches; write the path without it; programs replaced while they run match as before"
    ]


@pytest.mark.parametrize(
    ("path", "normal"),
    [("/usr//bin/x", "/usr/bin/x"), ("/usr/./bin/../x", "/usr/x"), ("/opt/../srv/", "/srv/")],
)
def test_a_path_that_no_process_has(path: str, normal: str) -> None:
    text = f"version: 1\nrules: [{{ name: a, match: {{ app: {path} }}, action: block }}]"
    (warning,) = load([("a.yaml", text)]).warnings
    assert str(warning) == (f"a.yaml:2:34: warning W106: '{path}' never matches; write '{normal}'")


def test_the_root_is_a_folder_too() -> None:
    text = "version: 1\nrules: [{ name: a, match: { app: /, port: 1 }, action: block }]"
    assert load([("a.yaml", text)]).warnings == ()


def test_a_test_that_may_mean_a_rule_or_the_default() -> None:
    text = (
        "version: 1\nrules: [{ name: default, match: { port: 5 }, action: block }]\n"
        "tests: [{ flow: { to: '192.0.2.7:443' }, expect: default }]"
    )
    with pytest.raises(ConfigError) as caught:
        load([("a.yaml", text)])
    (finding,) = caught.value.findings
    assert str(finding) == (
        "a.yaml:3:50: error E211: 'default' may be a rule or what decides without one; "
        "give the rule another name"
    )
