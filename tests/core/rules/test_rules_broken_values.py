"""Broken rule files and the exact text of every finding: values and references."""

from __future__ import annotations

import pytest

from tests.core.rules.flows import findings

# What is wrong: the files a.yaml, b.yaml, ... and what loading them says.
BROKEN: dict[str, tuple[list[str], list[str]]] = {
    "glob": (
        [
            "version: 1\nrules: [{ name: r, match: { app: ['a[b', '[]', '[^a]', '[z-a]', ''] }, action: block }]"
        ],
        [
            "a.yaml:2:35: error E101: bad pattern at position 1: the [ is never closed; write [[] for the character itself",
            "a.yaml:2:42: error E101: bad pattern at position 0: the class is empty; put a character between [ and ]",
            "a.yaml:2:48: error E101: bad pattern at position 0: a class is negated with !; write [!a]",
            "a.yaml:2:56: error E101: bad pattern at position 0: range z-a is empty; write a-z",
            "a.yaml:2:65: error E101: the pattern is empty; write a name, a path or a pattern",
        ],
    ),
    "relative path": (
        ["version: 1\nrules: [{ name: r, match: { app: bin/curl, path: curl }, action: block }]"],
        [
            "a.yaml:2:34: error E110: path 'bin/curl' is not absolute; start it with / or **/, as in '**/bin/curl'",
            "a.yaml:2:50: error E110: path 'curl' is not absolute; start it with / or **/, as in '**/curl'",
        ],
    ),
    "regex": (
        [
            "version: 1\nrules: [{ name: r, match: { app: ['re:a(b', 're:a{99999999999}', 're:[[a]', 're:(?<=a*)b'] }, action: block }]"
        ],
        [
            "a.yaml:2:35: error E102: regex does not compile: missing ), unterminated subpattern at position 1",
            "a.yaml:2:45: error E102: regex does not compile: the repetition number is too large",
            "a.yaml:2:66: error E102: regex does not compile: Possible nested set at position 1",
            "a.yaml:2:77: error E102: regex does not compile: look-behind requires fixed-width pattern",
        ],
    ),
    "app types": (
        ["version: 1\nrules: [{ name: r, match: { app: [7, true, ~, 1.5] }, action: block }]"],
        [
            'a.yaml:2:35: error E010: expected text, found the number 7; put it in quotes: "7"',
            'a.yaml:2:38: error E010: expected text, found true; put it in quotes: "true"',
            "a.yaml:2:44: error E010: expected text, found nothing",
        ],
    ),
    "addresses": (
        [
            "version: 1\nrules: [{ name: r, match: { ip: [10.0.0.1/8, 10.0.0.256, 10.0.0.0/33, 10.0.0.0/255.0.0.0, 'fe80::1%eth0', example.org, 10, '2001:db8::1/32', 10.0.0.0/] }, action: block }]"
        ],
        [
            "a.yaml:2:34: error E104: '10.0.0.1/8' has bits set after the first 8; the network is 10.0.0.0/8",
            "a.yaml:2:46: error E103: '10.0.0.256' is no address and no network; write 192.0.2.7, 192.0.2.0/24, 2001:db8::7 or 2001:db8::/32",
            "a.yaml:2:58: error E103: '10.0.0.0/33' is no address and no network; write 192.0.2.7, 192.0.2.0/24, 2001:db8::7 or 2001:db8::/32",
            "a.yaml:2:71: error E103: '10.0.0.0/255.0.0.0' is no address and no network; write 192.0.2.7, 192.0.2.0/24, 2001:db8::7 or 2001:db8::/32",
            "a.yaml:2:91: error E103: 'fe80::1%eth0' is no address and no network; write 192.0.2.7, 192.0.2.0/24, 2001:db8::7 or 2001:db8::/32",
            "a.yaml:2:107: error E103: 'example.org' is no address and no network; write 192.0.2.7, 192.0.2.0/24, 2001:db8::7 or 2001:db8::/32",
            'a.yaml:2:120: error E010: expected text, found the number 10; put it in quotes: "10"',
            "a.yaml:2:124: error E104: '2001:db8::1/32' has bits set after the first 32; the network is 2001:db8::/32",
            "a.yaml:2:142: error E103: '10.0.0.0/' is no address and no network; write 192.0.2.7, 192.0.2.0/24, 2001:db8::7 or 2001:db8::/32",
        ],
    ),
    "ports": (
        [
            "version: 1\nrules: [{ name: r, match: { port: [0, 65536, -1, http, 2000-1000, 1-65536, 80:90, '', 1-2-3, true, 99999999999999999999999] }, action: block }]"
        ],
        [
            "a.yaml:2:36: error E105: '0' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "a.yaml:2:39: error E105: '65536' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "a.yaml:2:46: error E105: '-1' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "a.yaml:2:50: error E105: 'http' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "a.yaml:2:56: error E105: range 2000-1000 is empty; write 1000-2000",
            "a.yaml:2:67: error E105: '1-65536' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "a.yaml:2:76: error E105: '80:90' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "a.yaml:2:83: error E105: '' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "a.yaml:2:87: error E105: '1-2-3' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "a.yaml:2:94: error E105: 'true' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "a.yaml:2:100: error E105: '99999999999999999999999' is no port; write 443 or 1000-2000, each from 1 to 65535",
        ],
    ),
    "protocol": (
        ["version: 1\nrules: [{ name: r, match: { protocol: [TCP, icmp, 6] }, action: block }]"],
        [
            "a.yaml:2:40: error E106: 'TCP' is no protocol; known protocols: tcp, udp, quic",
            "a.yaml:2:45: error E106: 'icmp' is no protocol; known protocols: tcp, udp, quic",
            'a.yaml:2:51: error E010: expected text, found the number 6; put it in quotes: "6"',
        ],
    ),
    "user": (
        [
            "version: 1\nrules: [{ name: r, match: { user: [-1, 4294967296, '4294967296', true, ~, ''] }, action: block }]"
        ],
        [
            "a.yaml:2:36: error E107: -1 is no uid; write 0 to 4294967295",
            "a.yaml:2:40: error E107: 4294967296 is no uid; write 0 to 4294967295",
            "a.yaml:2:52: error E107: 4294967296 is no uid; write 0 to 4294967295",
            "a.yaml:2:66: error E010: expected a user name or a uid, found true",
            "a.yaml:2:72: error E010: expected a user name or a uid, found nothing",
            "a.yaml:2:75: error E010: expected a user name or a uid, found ''",
        ],
    ),
    "pid": (
        [
            "version: 1\nrules: [{ name: r, match: { pid: [0, x, '7', 4294967296] }, action: block }]"
        ],
        [
            "a.yaml:2:35: error E108: 0 is no process number; write 1 or more",
            "a.yaml:2:38: error E010: expected a number, found 'x'",
            "a.yaml:2:41: error E010: expected a number, found '7'",
            "a.yaml:2:46: error E108: 4294967296 is no process number; write 1 or more",
        ],
    ),
    "owner": (
        ["version: 1\nrules: [{ name: r, match: { owner: [exct, Unknown, 5] }, action: block }]"],
        [
            "a.yaml:2:37: error E109: 'exct' is no owner grade; did you mean 'exact'?",
            "a.yaml:2:43: error E109: 'Unknown' is no owner grade; did you mean 'unknown'?",
            'a.yaml:2:52: error E010: expected text, found the number 5; put it in quotes: "5"',
        ],
    ),
    "outbounds": (
        [
            """\
version: 1
outbounds:
  a: { type: socks5, server: "127.0.0.1:1080" }
  b: { name: wg0 }
  c: { type: interface }
  d: { type: interface, name: sixteencharacter }
  e: { type: interface, name: a/b }
  f: { type: interface, name: ".." }
  g: { type: interface, name: 7, table: 5 }
  h: { type: table, table: 255 }
  i: { type: table, table: 0 }
  j: { type: table, table: 4294967296 }
  k: { type: table, table: main }
  l: { type: mark, mark: 0 }
  m: { type: mark, mark: 0x100000000 }
  n: { type: mark, mark: "5" }
  o: wg0
  p: { type: [mark] }
  q: { type: interface, name: "a b" }
  block: { type: mark, mark: 1 }
"""
        ],
        [
            "a.yaml:3:14: error E111: unknown outbound type 'socks5'; known types: interface, table, mark",
            "a.yaml:4:6: error E011: key 'type' is missing in an outbound",
            "a.yaml:5:6: error E011: key 'name' is missing in an outbound of type interface",
            "a.yaml:6:31: error E112: 'sixteencharacter' is no interface name; 1 to 15 bytes without blanks, / and :, as `ip link` shows it",
            "a.yaml:7:31: error E112: 'a/b' is no interface name; 1 to 15 bytes without blanks, / and :, as `ip link` shows it",
            "a.yaml:8:31: error E112: '..' is no interface name; 1 to 15 bytes without blanks, / and :, as `ip link` shows it",
            'a.yaml:9:31: error E010: expected text, found the number 7; put it in quotes: "7"',
            "a.yaml:9:34: error E012: unknown key 'table' in an outbound of type interface; known keys: type, name",
            "a.yaml:10:28: error E113: table 255 is local, which holds our own addresses; use a table of your own, such as 100",
            "a.yaml:11:28: error E113: table 0 is unspec, which is no table; use a table of your own, such as 100",
            "a.yaml:12:28: error E113: 4294967296 is no routing table; write 1 to 4294967295",
            "a.yaml:13:28: error E010: expected a number, found 'main'",
            "a.yaml:14:26: error E114: 0 is no mark; write 1 to 0xffffffff",
            "a.yaml:15:26: error E114: 0x100000000 is no mark; write 1 to 0xffffffff",
            "a.yaml:16:26: error E010: expected a number, found '5'",
            "a.yaml:17:6: error E010: expected a mapping, found 'wg0'; write o: { type: interface, name: wg0 }, for example",
            "a.yaml:18:14: error E010: expected text, found a list",
            "a.yaml:19:31: error E112: 'a b' is no interface name; 1 to 15 bytes without blanks, / and :, as `ip link` shows it",
            "a.yaml:20:3: error E208: 'block' is a built-in action; choose another name",
        ],
    ),
    "undefined": (
        [
            """\
version: 1
defaults: { when_unknown: vpm }
outbounds: { vpn: { type: mark, mark: 1 } }
sets: { lan: { ip: $lam } }
rules: [{ name: r, match: { ip: [$lan, $wan], app: $lan }, action: reject }]"""
        ],
        [
            "a.yaml:2:27: error E201: 'vpm' is neither an action nor an outbound; known actions: direct, block, drop, vpn",
            "a.yaml:4:20: error E202: no set is named 'lam'; known sets: lan",
            "a.yaml:5:40: error E202: no set is named 'wan'; known sets: lan",
            "a.yaml:5:52: error E204: set 'lan' holds no app; it holds ip",
            "a.yaml:5:68: error E201: 'reject' is neither an action nor an outbound; known actions: direct, block, drop, vpn",
        ],
    ),
    "a broken outbound is still defined": (
        ["version: 1\ndefaults: { action: vpn }\noutbounds: { vpn: { type: mark, mark: 0 } }"],
        ["a.yaml:3:39: error E114: 0 is no mark; write 1 to 0xffffffff"],
    ),
    "cycles": (
        [
            """\
version: 1
sets:
  a: { ip: $b, port: $a }
  b: { ip: [1.1.1.1, $e, $c] }
  e: { ip: 2.2.2.2 }
  c: { ip: $a, port: 1 }
  d: { ip: $a }
"""
        ],
        [
            "a.yaml:3:12: error E203: sets hold each other: $a -> $b -> $c -> $a; take one of the references out",
            "a.yaml:3:22: error E203: sets hold each other: $a -> $a; take one of the references out",
        ],
    ),
    "twice in two files": (
        [
            """\
version: 1
defaults: {}
sets: { s: { ip: 1.1.1.1 } }
outbounds: { o: { type: mark, mark: 1 } }
rules: [{ name: r, match: { port: 1 }, action: o }]""",
            """\
version: 1
defaults: {}
sets: { s: { ip: 1.1.1.1 } }
outbounds: { o: { type: mark, mark: 1 } }
rules: [{ name: r, match: { port: 1 }, action: o }]""",
        ],
        [
            "b.yaml:2:11: error E209: defaults are set twice; the first are at a.yaml:2",
            "b.yaml:3:9: error E207: set 's' is defined twice; the first is at a.yaml:3",
            "b.yaml:4:14: error E206: outbound 'o' is defined twice; the first is at a.yaml:4",
            "b.yaml:5:17: error E205: rule 'r' is here twice; the first is at a.yaml:5",
        ],
    ),
    "twice in one file": (
        [
            """\
version: 1
rules:
  - { name: r, match: { port: 1 }, action: block }
  - { name: r, match: { port: 2 }, action: block }
"""
        ],
        ["a.yaml:4:13: error E205: rule 'r' is here twice; the first is at a.yaml:3"],
    ),
    "actions of wrong types": (
        [
            """\
version: 1
defaults: { action: ~, when_unknown: 5 }
rules:
  - { name: r, match: any, action: [block] }
  - { name: s, match: any, action: { route: vpn } }
"""
        ],
        [
            "a.yaml:2:21: error E010: expected text, found nothing",
            'a.yaml:2:38: error E010: expected text, found the number 5; put it in quotes: "5"',
            "a.yaml:4:36: error E010: expected text, found a list",
            "a.yaml:5:36: error E010: expected text, found a mapping",
        ],
    ),
    "what an unreadable file may define is not missing": (
        ["version: 1\nrules: [{ name: r, match: { ip: $lan, port: 0 }, action: vpn }]", "sets: ["],
        [
            "a.yaml:2:45: error E105: '0' is no port; write 443 or 1000-2000, each from 1 to 65535",
            "b.yaml:2:1: error E001: not valid YAML: did not find expected node content; check the indentation, and quote text that contains : # [ ] { } or ,",
        ],
    ),
    "set types": (
        ["version: 1\nsets: { a: {}, b: ~, c: [1], d: { ip: {} } }"],
        [
            "a.yaml:2:12: error E014: set 'a' is empty",
            "a.yaml:2:19: error E010: expected a mapping, found nothing; write b: { ip: [...] }, for example",
            "a.yaml:2:25: error E010: expected a mapping, found a list; write c: { ip: [...] }, for example",
            "a.yaml:2:39: error E010: expected a value or a list, found a mapping",
        ],
    ),
    "long text is cut": (
        [
            "version: 1\nrules: [{ name: r, match: { ip: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx }, action: block }]"
        ],
        [
            "a.yaml:2:33: error E103: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...' is no address and no network; write 192.0.2.7, 192.0.2.0/24, 2001:db8::7 or 2001:db8::/32"
        ],
    ),
}


@pytest.mark.parametrize(("texts", "expected"), BROKEN.values(), ids=BROKEN)
def test_every_finding_has_its_place_code_and_hint(texts: list[str], expected: list[str]) -> None:
    assert findings(*texts).split("\n") == expected
