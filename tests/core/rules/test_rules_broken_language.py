"""Broken rule files and the exact text of every finding: the rest of the language."""

from __future__ import annotations

import pytest

from tests.core.rules.flows import findings
from tunowner.core.rules import load
from tunowner.errors import ConfigError

# What is wrong: the files a.yaml, b.yaml, ... and what loading them says.
BROKEN: dict[str, tuple[list[str], list[str]]] = {
    "a bomb of aliases": (
        [
            "version: 1\nsets:\n  a: &a { ip: [10.0.0.1, 10.0.0.2] }\n  b: &b { ip: [*a, *a, *a, *a] }\n  c: { ip: [*b, *b, *b, *b] }\n"
        ],
        [
            "a.yaml:3:6: error E004: anchor '&a' is not allowed; use sets: to share values",
            "a.yaml:4:6: error E004: anchor '&b' is not allowed; use sets: to share values",
            "a.yaml:4:16: error E004: alias '*a' is not allowed; use sets: to share values",
            "a.yaml:4:20: error E004: alias '*a' is not allowed; use sets: to share values",
            "a.yaml:4:24: error E004: alias '*a' is not allowed; use sets: to share values",
            "a.yaml:4:28: error E004: alias '*a' is not allowed; use sets: to share values",
            "a.yaml:5:13: error E004: alias '*b' is not allowed; use sets: to share values",
            "a.yaml:5:17: error E004: alias '*b' is not allowed; use sets: to share values",
            "a.yaml:5:21: error E004: alias '*b' is not allowed; use sets: to share values",
            "a.yaml:5:25: error E004: alias '*b' is not allowed; use sets: to share values",
        ],
    ),
    "merge keys": (
        ["version: 1\nsets:\n  a: &a { ip: 10.0.0.1 }\n  b: { <<: *a }\n"],
        [
            "a.yaml:3:6: error E004: anchor '&a' is not allowed; use sets: to share values",
            "a.yaml:4:8: error E012: unknown key '<<' in a set; known keys: app, path, cmdline, script, parent, ancestor, package, service, cgroup, container, sha256, user, pid, ip, port, protocol, host, interface, owner, profile, include",
            "a.yaml:4:12: error E004: alias '*a' is not allowed; use sets: to share values",
        ],
    ),
    "a tab": (
        ["version: 1\nrules:\n\t- name: a\n"],
        [
            "a.yaml:3:1: error E001: not valid YAML: found character that cannot start any token; indent with spaces, not with tabs"
        ],
    ),
    "a NUL": (
        ['version: 1\nrules: [{ name: "a\x00b", match: any, action: block }]\n'],
        ["a.yaml:2:19: error E001: character U+0000 is not allowed in YAML; remove it"],
    ),
    "control characters written as escapes": (
        [
            'version: 1\nrules: [{ name: r, match: { app: "cu\\x00rl", host: "a\\eb", cmdline: "x\\ny" }, action: block }]\n'
        ],
        [
            "a.yaml:2:34: error E008: control character U+0000 in text; write it on one line, without escapes",
            "a.yaml:2:52: error E008: control character U+001B in text; write it on one line, without escapes",
            "a.yaml:2:69: error E008: control character U+000A in text; write it on one line, without escapes",
        ],
    ),
    "regexes that may take forever": (
        [
            "version: 1\nrules: [{ name: r, match: { app: 're:(a+)+$', cmdline: 're:foo.*bar.*baz', host: 're:(' }, action: block }]\n"
        ],
        [
            "a.yaml:2:34: error E126: regex may take forever: it repeats what can be read in several ways; write a glob, start it with ^, or let each repeat end where other characters follow",
            "a.yaml:2:56: error E126: regex may take too long: it has too many repeats that can end anywhere; write a glob, start it with ^, or let each repeat end where other characters follow",
            "a.yaml:2:82: error E102: regex does not compile: missing ), unterminated subpattern at position 0",
        ],
    ),
    "scripts and command lines": (
        [
            "version: 1\nrules: [{ name: r, match: { cmdline: ['', 7], script: [b/c.py, true] }, action: block }]\n"
        ],
        [
            "a.yaml:2:39: error E101: the pattern is empty; write a name, a path or a pattern",
            'a.yaml:2:43: error E010: expected text, found the number 7; put it in quotes: "7"',
            "a.yaml:2:56: error E110: path 'b/c.py' is not absolute; start it with / or **/, as in '**/b/c.py'",
            'a.yaml:2:64: error E010: expected text, found true; put it in quotes: "true"',
        ],
    ),
    "packages": (
        [
            "version: 1\nrules: [{ name: r, match: { package: [curl, 'dep:curl', 'snap:', 'flatpak:[a'] }, action: block }]\n"
        ],
        [
            "a.yaml:2:39: error E115: 'curl' is no package; write deb:curl or flatpak:org.mozilla.firefox",
            "a.yaml:2:45: error E115: 'dep:curl' is no package; known kinds: deb, rpm, flatpak, snap, appimage",
            "a.yaml:2:57: error E115: 'snap:' is no package; write deb:curl or flatpak:org.mozilla.firefox",
            "a.yaml:2:66: error E101: bad pattern at position 8: the [ is never closed; write [[] for the character itself",
        ],
    ),
    "containers": (
        [
            "version: 1\nrules: [{ name: r, match: { container: [web, 'dokcer:x'] }, action: block }]\n"
        ],
        [
            "a.yaml:2:41: error E115: 'web' is no container; write docker:0123456789ab or docker:*",
            "a.yaml:2:46: error E115: 'dokcer:x' is no container; did you mean 'docker'?",
        ],
    ),
    "cgroups and services": (
        [
            "version: 1\nrules: [{ name: r, match: { cgroup: system.slice, service: [~] }, action: block }]\n"
        ],
        [
            "a.yaml:2:37: error E110: path 'system.slice' is not absolute; start it with / or **/, as in '**/system.slice'",
            "a.yaml:2:61: error E010: expected text, found nothing",
        ],
    ),
    "hashes": (
        [
            "version: 1\nrules: [{ name: r, match: { sha256: [9f86d081, 12345678, gggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg] }, action: block }]\n"
        ],
        [
            "a.yaml:2:38: error E117: '9f86d081' is no SHA-256; write the 64 digits that `sha256sum FILE` prints",
            "a.yaml:2:48: error E117: '12345678' is no SHA-256; write the 64 digits that `sha256sum FILE` prints",
            "a.yaml:2:58: error E117: 'ggggggggggggggggggggggggggggggggggggggggggggggggggggggggg...' is no SHA-256; write the 64 digits that `sha256sum FILE` prints",
        ],
    ),
    "hosts": (
        [
            "version: 1\nrules: [{ name: r, match: { host: ['https://x.org/', 'x.org:443', 10.0.0.1, '::1', 'a b', '.'] }, action: block }]\n"
        ],
        [
            "a.yaml:2:36: error E118: 'https://x.org/' is no host name; write example.org or *.example.org; ports go into port, addresses into ip",
            "a.yaml:2:54: error E118: 'x.org:443' is no host name; write example.org or *.example.org; ports go into port, addresses into ip",
            "a.yaml:2:67: error E118: '10.0.0.1' is no host name; write example.org or *.example.org; ports go into port, addresses into ip",
            "a.yaml:2:77: error E118: '::1' is no host name; write example.org or *.example.org; ports go into port, addresses into ip",
            "a.yaml:2:84: error E118: 'a b' is no host name; write example.org or *.example.org; ports go into port, addresses into ip",
            "a.yaml:2:91: error E118: '.' is no host name; write example.org or *.example.org; ports go into port, addresses into ip",
        ],
    ),
    "parents": (
        [
            "version: 1\nrules: [{ name: r, match: { parent: { app: a/b, port: 80, appp: x }, ancestor: [{}, { ancestor: { pid: 0 } }] }, action: block }]\n"
        ],
        [
            "a.yaml:2:44: error E110: path 'a/b' is not absolute; start it with / or **/, as in '**/a/b'",
            "a.yaml:2:49: error E012: unknown key 'port' in a match for a process; known keys: app, path, cmdline, script, parent, ancestor, package, service, cgroup, container, sha256, user, pid",
            "a.yaml:2:59: error E012: unknown key 'appp' in a match for a process; did you mean 'app'?",
            "a.yaml:2:81: error E014: an empty match; write { app: git }, for example",
            "a.yaml:2:104: error E108: 0 is no process number; write 1 or more",
        ],
    ),
    "profiles": (
        [
            "version: 1\nprofile: [home, 'a b']\nrules: [{ name: r, match: { profile: /x }, action: block }]\n"
        ],
        [
            "a.yaml:2:17: error E015: 'a b' is not a good name; 1 to 64 letters, digits, '_', '.' or '-', the first an ASCII letter or digit",
            "a.yaml:3:38: error E015: '/x' is not a good name; 1 to 64 letters, digits, '_', '.' or '-', the first an ASCII letter or digit",
        ],
    ),
    "modes and marks": (
        [
            "version: 1\nrules:\n  - { name: a, match: any, action: block, mode: audti }\n  - { name: b, match: any, mode: audit, tag: x }\n  - { name: c, match: any, log: yes }\n  - { name: d, match: any, tag: [] }\n  - { name: e, match: any, tag: [a b, 5] }\n  - { name: f, match: any }\n"
        ],
        [
            "a.yaml:3:49: error E119: 'audti' is no mode; did you mean 'audit'?",
            "a.yaml:4:5: error E011: key 'action' is missing in a rule",
            "a.yaml:4:5: warning W101: rule 'b' can never match; rule 'a' (a.yaml:3) before it matches every flow",
            "a.yaml:5:5: warning W101: rule 'c' can never match; rule 'a' (a.yaml:3) before it matches every flow",
            "a.yaml:5:33: error E010: expected true or false, found 'yes'",
            "a.yaml:6:5: warning W101: rule 'd' can never match; rule 'a' (a.yaml:3) before it matches every flow",
            "a.yaml:6:33: error E014: tag is empty; write a word",
            "a.yaml:7:5: warning W101: rule 'e' can never match; rule 'a' (a.yaml:3) before it matches every flow",
            "a.yaml:7:34: error E015: 'a b' is not a good name; 1 to 64 letters, digits, '_', '.' or '-', the first an ASCII letter or digit",
            'a.yaml:7:39: error E010: expected text, found the number 5; put it in quotes: "5"',
            "a.yaml:8:5: error E011: key 'action' is missing in a rule",
            "a.yaml:8:5: warning W101: rule 'f' can never match; rule 'a' (a.yaml:3) before it matches every flow",
        ],
    ),
    "ends": (
        [
            "version: 1\nrules:\n  - { name: a, match: { port: 1 }, action: block, for: 15 }\n  - { name: b, match: { port: 2 }, action: block, for: 1m2h }\n  - { name: c, match: { port: 3 }, action: block, for: 0s }\n  - { name: d, match: { port: 4 }, action: block, expires: 2026-12-01 }\n  - { name: e, match: { port: 5 }, action: block, expires: tomorrow }\n  - { name: f, match: { port: 6 }, action: block, until: reboot }\n  - { name: g, match: { port: 7 }, action: block, until: restart, for: 15m }\n  - { name: h, match: { port: 8 }, action: block, for: 99999d }\n"
        ],
        [
            "a.yaml:3:56: error E123: '15' is no duration; write 30s, 15m, 12h, 7d or 1h30m",
            "a.yaml:4:56: error E123: '1m2h' is no duration; write 30s, 15m, 12h, 7d or 1h30m",
            "a.yaml:5:56: error E123: '0s' is no duration; write 30s, 15m, 12h, 7d or 1h30m",
            "a.yaml:6:60: error E122: '2026-12-01' is no moment; write 2026-12-31T23:59:00Z, with Z or an offset such as +01:00",
            "a.yaml:7:60: error E122: 'tomorrow' is no moment; write 2026-12-31T23:59:00Z, with Z or an offset such as +01:00",
            "a.yaml:8:58: error E124: 'reboot' is nothing that ends a rule; write until: restart; for a moment write expires: 2026-12-31T23:59:00Z",
            "a.yaml:9:58: error E125: 'until' beside 'for'; a rule ends once; keep one of them",
            "a.yaml:10:56: error E123: '99999d' is no duration; write 30s, 15m, 12h, 7d or 1h30m",
        ],
    ),
    "includes": (
        [
            "version: 1\nsets:\n  a: { include: [b, nosuch] }\n  b: { include: c }\n  c: { include: [a, 5] }\n  d: { ip: $e }\n  e: { include: d }\nrules: [{ name: r, match: { port: $b }, action: block }]\n"
        ],
        [
            "a.yaml:3:18: error E203: sets hold each other: $a -> $b -> $c -> $a; take one of the references out",
            "a.yaml:3:21: error E202: no set is named 'nosuch'; known sets: a, b, c, d, e",
            'a.yaml:5:21: error E010: expected text, found the number 5; put it in quotes: "5"',
            "a.yaml:6:12: error E203: sets hold each other: $d -> $e -> $d; take one of the references out",
            "a.yaml:8:35: error E204: set 'b' holds no port; it holds nothing",
        ],
    ),
    "tests": (
        [
            "version: 1\nrules: [{ name: lan, match: { ip: 10.0.0.0/8 }, action: direct }]\ntests:\n  - { flow: { app: /usr/bin/git, to: '10.0.0.9:22' }, expect: lam }\n  - { flow: { app: git, to: '10.0.0.9' }, expect: lan }\n  - { flow: { ap: /x }, expect: lan }\n  - { flow: [], expect: 5 }\n  - { expect: lan, action: blok }\n  - { flow: { to: '10.0.0.9:22', app: [] , cmdline: \"a 'b\", owner: sure }, expect: lan }\n  - hello\n"
        ],
        [
            "a.yaml:4:63: error E210: no rule is named 'lam'; known rules: lan, default, unknown",
            "a.yaml:5:20: error E110: path 'git' is not absolute; write the whole path of the program, as in /usr/bin/curl",
            "a.yaml:5:29: error E120: '10.0.0.9' is no address with a port; write 192.0.2.7:443 or [2001:db8::7]:443; a name goes into host",
            "a.yaml:6:13: error E011: key 'to' is missing in a flow",
            "a.yaml:6:15: error E012: unknown key 'ap' in a flow; did you mean 'app'?",
            "a.yaml:7:13: error E010: expected a mapping, found a list; write { app: /usr/bin/curl, to: '192.0.2.7:443' }, for example",
            'a.yaml:7:25: error E010: expected text, found the number 5; put it in quotes: "5"',
            "a.yaml:8:5: error E011: key 'flow' is missing in a test",
            "a.yaml:8:28: error E201: 'blok' is neither an action nor an outbound; did you mean 'block'?",
            "a.yaml:9:39: error E010: expected one text that is not empty",
            "a.yaml:9:53: error E121: not a command line: No closing quotation; close the quotes",
            "a.yaml:9:68: error E109: 'sure' is no owner grade; known values: unknown, exact, wildcard, ambiguous, uid-only, cgroup-only, closed, kernel, denied, absent",
            "a.yaml:10:5: error E010: expected a mapping, found 'hello'; write flow: and expect:",
        ],
    ),
    "tests that fail": (
        [
            "version: 1\nrules:\n  - { name: lan, match: { ip: 10.0.0.0/8 }, action: direct }\n  - { name: curl, match: { app: curl, user: ana }, action: block }\ntests:\n  - { flow: { app: /usr/bin/curl, to: '10.0.0.9:22' }, expect: curl }\n  - { flow: { app: /usr/bin/curl, to: '1.2.3.4:22' }, expect: curl }\n  - { flow: { app: /usr/bin/wget, to: '1.2.3.4:22' }, expect: default, action: block }\n"
        ],
        [
            "a.yaml:6:5: error E301: test expects 'curl', but 'lan' decides; ip 10.0.0.9 is in 10.0.0.0/8; 'curl' says unknown: user is not known",
            "a.yaml:7:5: error E301: test expects 'curl', but 'unknown' decides; user of the process unknown; rule 'curl' needs user; 'curl' says unknown: user is not known",
            "a.yaml:8:5: error E302: test expects action 'block', but it is direct; 'default' decides: no rule matches",
        ],
    ),
    "warnings beside an error": (
        [
            "version: 1\nrules:\n  - { name: a, match: { app: /snap/firefox/12/firefox }, action: block }\n  - { name: b, match: { port: [80, 99999] }, action: blcok }\n"
        ],
        [
            "a.yaml:3:30: warning W103: '/snap/firefox/12/firefox' will move with the next update; write package: snap:firefox",
            "a.yaml:4:36: error E105: '99999' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "a.yaml:4:54: error E201: 'blcok' is neither an action nor an outbound; did you mean 'block'?",
        ],
    ),
    "a byte order mark and a second document": (
        ["\ufeffversion: 1\nrules: []\n---\nversion: 1\n"],
        ["a.yaml:3:1: error E003: a second document starts here; use a file for each"],
    ),
    "numbers as names": (
        [
            "version: 1\nrules: [{ name: r, match: { interface: 7, service: 7, container: 7 }, action: block }]\n"
        ],
        [
            'a.yaml:2:40: error E010: expected text, found the number 7; put it in quotes: "7"',
            'a.yaml:2:52: error E010: expected text, found the number 7; put it in quotes: "7"',
            'a.yaml:2:66: error E010: expected text, found the number 7; put it in quotes: "7"',
        ],
    ),
}


@pytest.mark.parametrize(("texts", "expected"), BROKEN.values(), ids=BROKEN)
def test_every_finding_has_its_place_code_and_hint(texts: list[str], expected: list[str]) -> None:
    assert findings(*texts).split("\n") == expected


EXCERPTS = {
    "version: 1\nrules: [{ name: r, match: { app: 're:a(b' }, action: block }]": """\
a.yaml:2:34: error E102: regex does not compile: missing ), unterminated subpattern at position 1
     2 | rules: [{ name: r, match: { app: 're:a(b' }, action: block }]
       |                                  ^""",
    "version: 1\n\u4e16\u754c: { a: b }": """\
a.yaml:2:1: error E012: unknown key '\u4e16\u754c' in a rule file; known keys: version, defaults, outbounds, sets, rules, tests, profile
     2 | \u4e16\u754c: { a: b }
       | ^""",
    "version: 1\nsets: { \u4e16: { iq: 1 } }": """\
a.yaml:2:9: error E015: '\u4e16' is not a good name; 1 to 64 letters, digits, '_', '.' or '-', the first an ASCII letter or digit
     2 | sets: { \u4e16: { iq: 1 } }
       |         ^""",
    'version: 1\nrules: [{ name: "\u4e16", match: { port: 0 }, action: block }]': """\
a.yaml:2:17: error E015: '\u4e16' is not a good name; 1 to 64 letters, digits, blank, '_', '.' or '-', the first an ASCII letter or digit
     2 | rules: [{ name: "\u4e16", match: { port: 0 }, action: block }]
       |                 ^
a.yaml:2:37: error E105: '0' is no port; write 443 or 1000-2000, each from 1 to 65535
     2 | rules: [{ name: "\u4e16", match: { port: 0 }, action: block }]
       |                                      ^""",
    "version: 1\nrules: [{ name: r, match: { app: [" + "x, " * 60 + "5] }, action: block }]": """\
a.yaml:2:215: error E010: expected text, found the number 5; put it in quotes: "5"
     2 | x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, 5] }, action: block }]
       |                                                                         ^""",
    "version: 1\nrules:\n\t- name: a": """\
a.yaml:3:1: error E001: not valid YAML: found character that cannot start any token; indent with spaces, not with tabs
     3 |  - name: a
       | ^""",
    "": "a.yaml:1:1: error E002: the file is empty; write at least: version: 1",
}


@pytest.mark.parametrize(("text", "report"), EXCERPTS.items())
def test_a_report_shows_the_line_with_a_caret(text: str, report: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([("a.yaml", text)])
    assert str(caught.value) == report


def test_thousands_of_findings_are_all_listed() -> None:
    rules = "".join(
        f"  - {{ name: r{n}, match: {{ appp: x }}, action: blok }}\n" for n in range(3_000)
    )
    with pytest.raises(ConfigError) as caught:
        load([("a.yaml", f"version: 1\nrules:\n{rules}")])
    assert len(caught.value.findings) == 6_000


def test_a_word_is_found_among_thousands_and_these_are_not_all_listed() -> None:
    sets = "".join(f"  set-{n}: {{ ip: 10.0.0.1 }}\n" for n in range(3_000))
    text = f"version: 1\nsets:\n{sets}rules: [{{ name: r, match: {{ ip: [$ste-7, $x] }}, action: block }}]"
    first, second = findings(text).split("\n")
    assert first.endswith("no set is named 'ste-7'; did you mean 'set-7'?")
    assert second.endswith("set-23, set-24 and 2975 more")


def test_five_thousand_files_are_one_rule_set() -> None:
    text = "version: 1\nrules: [{{ name: r{}, match: {{ port: {} }}, action: block }}]"
    loaded = load([(f"{n}.yaml", text.format(n, n + 1)) for n in range(5_000)])
    assert len(loaded.rules) == 5_000
