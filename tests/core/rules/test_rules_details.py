"""Conditions that need more than a path: command line, script, relatives, packages, names, ends."""

from __future__ import annotations

import pytest

from tests.core.rules.flows import CURL, NO, UNKNOWN, YES, flow, one_rule, owned
from tunowner.core.model import FlowKey, Process, ProcessDetails
from tunowner.core.rules import Context, load
from tunowner.core.rules.scripts import NO_SCRIPT, Script, script_of
from tunowner.core.rules.supposed import suppose

TO = {"to": ["203.0.113.5:443"]}
PY = {"app": ["/usr/bin/python3.11"]}
HASH = "ab" * 32

CASES = [
    # the command line, whole, as a shell would have it
    ("cmdline: 'curl *'", {"cmdline": ["curl", "-s", "x"]}, YES),
    ("cmdline: 'curl * x'", {"cmdline": ["curl", "-s", "/a/b", "x"]}, YES),
    ("cmdline: curl", {"cmdline": ["curl", "-s"]}, NO),
    ("cmdline: \"curl 'a b'\"", {"cmdline": ["curl", "a b"]}, YES),
    ("cmdline: 're:-[-]?s(ilent)?\\b'", {"cmdline": ["curl", "--silent"]}, YES),
    ("cmdline: '*'", {"app": ["/usr/bin/curl"]}, UNKNOWN),
    ("cmdline: '*y'", {"cmdline": ["x" * 5_000, "y"]}, YES),
    ("cmdline: 're:y'", {"cmdline": ["x" * 5_000, "y"]}, UNKNOWN),
    ("cmdline: '**'", {"cmdline": ["x" * 40_000, "y"]}, UNKNOWN),
    # scripts
    ("script: backup.py", PY | {"cmdline": ["python3", "/opt/backup.py", "x"]}, YES),
    ("script: /opt/*.py", PY | {"cmdline": ["python3", "-u", "/opt/backup.py"]}, YES),
    ("script: /opt/", PY | {"cmdline": ["python3", "../b.py"], "directory": ["/opt/x"]}, YES),
    ("script: /opt/b.py", PY | {"cmdline": ["python3", "b.py"]}, UNKNOWN),
    ("script: b.py", PY | {"cmdline": ["python3", "b.py"]}, YES),
    ("script: c.py", PY | {"cmdline": ["python3", "b.py"]}, NO),
    ("script: [c.py, /opt/b.py]", PY | {"cmdline": ["python3", "b.py"]}, UNKNOWN),
    ("script: http.server", PY | {"cmdline": ["python3", "-m", "http.server", "80"]}, YES),
    ("script: '*'", PY | {"cmdline": ["python3", "-c", "x.py"]}, NO),
    ("script: '*'", PY, UNKNOWN),
    ("script: '*'", {"app": ["/usr/bin/curl"]}, NO),
    ("script: '*'", {"pid": ["7"]}, UNKNOWN),
    # parents and ancestors
    ("parent: git", {"parent": ["/usr/bin/git", "/usr/bin/bash"]}, YES),
    ("parent: bash", {"parent": ["/usr/bin/git", "/usr/bin/bash"]}, NO),
    ("ancestor: bash", {"parent": ["/usr/bin/git", "/usr/bin/bash"]}, YES),
    ("ancestor: /usr/bin/g*", {"parent": ["/usr/bin/git", "/usr/bin/bash"]}, YES),
    ("ancestor: { app: git }", {"parent": ["/usr/bin/git"]}, YES),
    ("ancestor: { app: git, path: /opt/** }", {"parent": ["/usr/bin/git"]}, NO),
    ("ancestor: { app: git, user: ana }", {"parent": ["/usr/bin/git"]}, UNKNOWN),
    ("ancestor: [hg, { app: git }]", {"parent": ["/usr/bin/git"]}, YES),
    ("parent: [{ app: hg }, { app: git }]", {"parent": ["/usr/bin/git"]}, YES),
    ("ancestor: ssh", {"parent": ["/usr/bin/git"]}, NO),
    ("ancestor: ssh", {"app": ["/usr/bin/curl"]}, UNKNOWN),
    ("parent: ssh", {"app": ["/usr/bin/curl"]}, UNKNOWN),
    # where it comes from
    ("package: deb:curl", {"package": ["deb:curl"]}, YES),
    ("package: flatpak:*", {"package": ["flatpak:org.mozilla.firefox"]}, YES),
    ("package: '*:firefox'", {"package": ["snap:firefox"]}, YES),
    ("package: snap:firefox", {"package": ["deb:firefox"]}, NO),
    ("package: 're:^(deb|rpm):'", {"package": ["deb:firefox"]}, YES),
    ("package: deb:curl", {"pid": ["7"]}, UNKNOWN),
    ("service: ssh", {"service": ["ssh.service"]}, YES),
    ("service: ssh.service", {"service": ["ssh.service"]}, YES),
    ("service: 'ssh*'", {"service": ["sshd.service"]}, YES),
    ("service: ssh", {"service": ["cron.service"]}, NO),
    ("service: ssh", {"pid": ["7"]}, UNKNOWN),
    ("cgroup: /system.slice/", {"cgroup": ["/system.slice/ssh.service"]}, YES),
    ("cgroup: /system.slice/*", {"cgroup": ["/system.slice/a/b"]}, NO),
    ("container: docker:0123456789ab", {"container": ["docker:" + "0123456789abcdef" * 4]}, YES),
    ("container: docker:*", {"container": ["podman:1"]}, NO),
    ("container: '*'", {"container": ["lxc:web"]}, YES),
    (f"sha256: {HASH.upper()}", {"sha256": [HASH]}, YES),
    (f"sha256: {HASH}", {"sha256": ["cd" * 32]}, NO),
    (f"sha256: {HASH}", {"pid": ["7"]}, UNKNOWN),
    # names, interface, profile
    ("host: example.org", {"host": ["example.org"]}, YES),
    ("host: EXAMPLE.org.", {"host": ["Example.ORG"]}, YES),
    ("host: '*.example.org'", {"host": ["a.b.example.org"]}, YES),
    ("host: '*.example.org'", {"host": ["example.org"]}, NO),
    ("host: [a.org, b.org]", {"host": ["cdn.net", "b.org"]}, YES),
    ("host: b\u00fccher.de", {"host": ["xn--bcher-kva.de"]}, YES),
    ("host: 're:^ads?[0-9]+'", {"host": ["ad7.example"]}, YES),
    ("host: example.org", {}, UNKNOWN),
    ("interface: wg*", {"interface": ["wg0"]}, YES),
    ("interface: wg0", {"interface": ["eth0"]}, NO),
    ("interface: wg0", {}, UNKNOWN),
    ("profile: [home, work]", {"profile": ["work"]}, YES),
    ("profile: home", {"profile": ["work"]}, NO),
    ("profile: home", {}, NO),
    # what a process is known not to have
    ("package: deb:*", {"package": ["none"]}, NO),
    ("package: 're:.*'", {"package": ["none"]}, NO),
    ("service: '*'", {"service": ["none"]}, NO),
    ("service: none", {"service": ["none"]}, NO),
    ("container: '*'", {"container": ["none"]}, NO),
    ("container: '*'", {"package": ["none"]}, UNKNOWN),
    # told as a rule would say it
    ("service: ssh", {"service": ["ssh"]}, YES),
    ("service: ssh.service", {"service": ["ssh"]}, YES),
    ("service: dbus-org.example.x", {"service": ["dbus-org.example.x.service"]}, YES),
    ("service: ssh.socket", {"service": ["ssh.service"]}, NO),
    # Windows paths, as Windows writes them
    ("app: 'C:\\x\\a.exe'", {"app": ["C:\\x\\a.exe"]}, YES),
    ("path: 'C:\\x\\*'", {"app": ["C:/x/a.exe"]}, YES),
    ("app: 'C:\\x\\'", {"app": ["C:\\x\\y\\a.exe"]}, YES),
    ("app: 'C:\\x\\*'", {"app": ["C:\\x\\y\\a.exe"]}, NO),
    (f"sha256: {'ab' * 32}", {"sha256": ["AB" * 32]}, YES),
    # quic is UDP to port 443
    ("protocol: quic", {"protocol": ["udp"]}, YES),
    ("protocol: quic", {"protocol": ["tcp"]}, NO),
    ("protocol: quic", {"protocol": ["udp"], "to": ["203.0.113.5:53"]}, NO),
    ("protocol: [quic, tcp]", {"protocol": ["tcp"]}, YES),
    # a supposed process whose number nobody told
    ("pid: 7", {"app": ["/x"]}, UNKNOWN),
]


@pytest.mark.parametrize(("match", "told", "expected"), CASES)
def test_a_condition_and_its_negation(
    match: str, told: dict[str, list[str]], expected: str
) -> None:
    supposed = suppose(TO | told)
    assert one_rule(f"{{ {match} }}").decide(*supposed).action == expected
    turned = {YES: NO, NO: YES, UNKNOWN: UNKNOWN}[expected]
    assert one_rule(f"{{ not: {{ {match} }} }}").decide(*supposed).action == turned


@pytest.mark.parametrize(("match", "told", "expected"), CASES)
def test_it_says_why_in_one_line(match: str, told: dict[str, list[str]], expected: str) -> None:
    (step,) = one_rule(f"{{ {match} }}").explain(*suppose(TO | told)).steps
    assert step.result == {YES: "yes", NO: "no", UNKNOWN: "unknown"}[expected]
    assert step.because.isprintable()
    assert step.because.startswith(match.split(":", maxsplit=1)[0]) or "protocol" in step.because


SCRIPTS = [
    ("/usr/bin/python3", "python3 -X dev -W error -B /a.py -c x", "/a.py"),
    ("/usr/bin/python3", "python3 -Bm json.tool", Script("", "json.tool")),
    ("/usr/bin/python3", "python3 -mjson.tool", Script("", "json.tool")),
    ("/usr/bin/python3", "python3 -Ic pass", NO_SCRIPT),
    ("/usr/bin/python3", "python3", NO_SCRIPT),
    ("/usr/bin/python3", "python3 -", NO_SCRIPT),
    ("/usr/bin/python3", "python3 -- -odd.py", Script("/home/ana/-odd.py", "-odd.py")),
    ("/usr/bin/pypy3", "pypy3 ./a/../b.py", "/home/ana/b.py"),
    ("/usr/bin/node", "node --require x.js --inspect /srv/app.js --port 1", "/srv/app.js"),
    ("/usr/bin/node", "node -e 1", NO_SCRIPT),
    ("/usr/bin/perl", "perl -Mstrict -I /lib -w /x.pl", "/x.pl"),
    ("/usr/bin/perl", "perl -lne print /x.pl", NO_SCRIPT),
    ("/usr/bin/perl", "perl -i.orig /x.pl", "/x.pl"),
    ("/usr/bin/ruby3.1", "ruby -rjson -I lib /x.rb", "/x.rb"),
    ("/usr/bin/bash", "/bin/bash -eu -o pipefail /x.sh", "/x.sh"),
    ("/usr/bin/bash", "bash -ec 'curl x' /x.sh", NO_SCRIPT),
    ("/usr/bin/bash", "bash --norc --rcfile /r /x.sh", "/x.sh"),
    ("/usr/bin/dash", "sh /x.sh", "/x.sh"),
    ("/usr/lib/jvm/17/bin/java", "java -Xmx1g -cp /a.jar -jar /b.jar x", "/b.jar"),
    ("/usr/lib/jvm/17/bin/java", "java -cp /a.jar org.Main -jar /b.jar", NO_SCRIPT),
    ("/usr/bin/wine64-preloader", r"'C:\Games\g.exe' /f", Script("C:/Games/g.exe", "g.exe")),
    ("C:\\Python\\python.exe", r"python 'C:\a\b.py'", Script("C:/a/b.py", "b.py")),
    ("/usr/bin/pythonish", "pythonish /a.py", NO_SCRIPT),
]


@pytest.mark.parametrize(("program", "line", "expected"), SCRIPTS)
def test_the_script_of_an_interpreter(program: str, line: str, expected: str | Script) -> None:
    import shlex

    script = script_of(program, shlex.split(line), "/home/ana")
    if isinstance(expected, str):
        expected = Script(expected, expected.rpartition("/")[2])
    assert script == expected


def test_details_are_asked_for_once_and_only_when_needed() -> None:
    asked: list[Process] = []

    def details(process: Process) -> ProcessDetails:
        asked.append(process)
        return ProcessDetails(process, command_line=("curl",), package="deb:curl")

    rules = one_rule("{ port: 80, cmdline: curl }")
    assert rules.decide(flow(), owned(CURL), Context(details)).action == NO
    assert asked == []
    rules = one_rule("{ any: [ { cmdline: wget }, { package: deb:curl } ], cmdline: curl }")
    assert rules.decide(flow(), owned(CURL), Context(details)).action == YES
    assert asked == [CURL]


def test_names_and_the_interface_are_asked_for_once() -> None:
    asked: list[str] = []

    def hosts(address: bytes) -> tuple[str, ...]:
        asked.append(f"hosts of {address.hex()}")
        return ("example.org",)

    def interface(key: FlowKey) -> str:
        asked.append(f"interface of {key.destination}")
        return "wg0"

    context = Context(hosts=hosts, interface=interface)
    match = "{ any: [ { host: a.org }, { host: b.org }, { interface: a }, { interface: b } ] }"
    assert one_rule(match).decide(flow(), owned(CURL), context).action == NO
    assert asked == ["hosts of cb007105", "interface of 203.0.113.5:443"]


def test_details_are_asked_for_when_a_rule_is_reached_that_needs_them() -> None:
    asked: list[Process] = []

    def details(process: Process) -> ProcessDetails:
        asked.append(process)
        return ProcessDetails(process, package="deb:curl")

    many = [
        f"  - {{ name: r{n}, match: {{ package: deb:p{n} }}, action: drop }}\n" for n in range(40)
    ]
    first = "  - { name: first, match: { port: 443 }, action: direct }\n"
    last = "  - { name: last, match: { package: 'deb:*' }, action: block }\n"
    rules = load([("a.yaml", "version: 1\nrules:\n" + first + "".join(many) + last)])
    assert rules.decide(flow(port=443), owned(CURL), Context(details)).rule == "first"
    assert asked == []
    assert rules.decide(flow(port=80), owned(CURL), Context(details)).rule == "last"
    assert asked == [CURL]


@pytest.mark.parametrize(
    "match",
    [
        "{ package: deb:x }",
        "{ not: { package: deb:x } }",
        "{ any: [ { port: 1 }, { all: [ { package: deb:x } ] } ] }",
        "{ parent: { package: deb:x } }",
        "{ app: curl, ancestor: [ git, { parent: { package: deb:x } } ] }",
    ],
)
def test_rules_tell_what_they_ask_for(match: str) -> None:
    rules = one_rule(match)
    assert rules.asks_for("package")
    assert not rules.asks_for("sha256")


def test_a_long_list_of_hosts() -> None:
    hosts = ", ".join(f"'*.site-{n}.example', site-{n}.example" for n in range(10_000))
    sets = f"sets: {{ ads: {{ host: [{hosts}] }} }}"
    rules = one_rule("{ host: $ads }", sets)
    for name, expected in (
        ("site-7.example", YES),
        ("a.b.site-9999.example", YES),
        ("example", NO),
        ("site-7.example.org", NO),
    ):
        context = Context(hosts=lambda _, name=name: (name,))  # type: ignore[misc]
        assert rules.decide(flow(), owned(CURL), context).action == expected


def test_a_process_that_has_gone_is_unknown() -> None:
    rules = one_rule("{ cmdline: curl }")
    assert rules.decide(flow(), owned(CURL), Context()).action == UNKNOWN


def test_unknown_parents_beyond_those_known() -> None:
    broken = ProcessDetails(CURL, parents=(Process(5, 1, "/usr/bin/bash"),), parents_whole=False)
    context = Context(lambda _: broken)
    assert one_rule("{ ancestor: bash }").decide(flow(), owned(CURL), context).action == YES
    assert one_rule("{ ancestor: git }").decide(flow(), owned(CURL), context).action == UNKNOWN
    assert one_rule("{ parent: git }").decide(flow(), owned(CURL), context).action == NO
