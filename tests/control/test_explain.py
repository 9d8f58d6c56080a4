"""`tunowner explain`, of flows that are described and of processes that live."""

from __future__ import annotations

import inspect
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.control.helpers import tunowner
from tunowner.app.explain import Explained, Question, explain_process
from tunowner.backends.memory import MemoryBackend, MemoryOwners
from tunowner.control.cli import explain
from tunowner.core.model import TCP, UDP, FlowKey, Grade, Owner, Process
from tunowner.core.rules import load
from tunowner.core.rules.supposed import FIELDS

if TYPE_CHECKING:
    from pathlib import Path

RULES = """\
version: 1
sets:
  lan: { ip: [10.0.0.0/8] }
rules:
  - { name: lan, match: { ip: $lan }, action: direct }
  - { name: git-ssh, match: { app: ssh, ancestor: git, port: 22 }, action: block }
  - { name: seen, match: { port: 443 }, action: drop, mode: audit }
  - { name: no-curl, match: { app: curl, user: ana }, action: block }
  - { name: rest, match: any, action: direct }
"""
FLOW = ("--app", "/opt/it/curl", "--user", "ana", "--to", "192.0.2.7:443")


@pytest.fixture
def rules(tmp_path: Path) -> str:
    file = tmp_path / "desk.yaml"
    file.write_text(RULES)
    return str(file)


def lines(rules: str, *arguments: str) -> list[str]:
    done = tunowner("explain", "--rules", rules, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def as_json(rules: str, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(rules, "--json", *arguments)]


def test_every_rule_in_order_and_why(rules: str) -> None:
    *told, cost = lines(rules, *FLOW)
    assert told == [
        "tcp -> 192.0.2.7:443  /opt/it/curl",
        "  1 lan      no       ip is 192.0.2.7, not $lan",
        "  2 git-ssh  no       app is /opt/it/curl, not ssh",
        "  3 seen     yes      port 443  (audit)",
        "  4 no-curl  yes      app 'curl' is /opt/it/curl; user ana",
        "  5 rest     yes      any flow  (not reached)",
        f"  -> block  rule 'no-curl' ({rules}): app 'curl' is /opt/it/curl; user ana",
    ]
    assert cost.startswith("  cost ")
    assert cost.endswith(" us")


def test_the_nearest_miss(rules: str) -> None:
    told = lines(rules, "--app", "/usr/bin/wget", "--user", "ana", "--to", "192.0.2.7:443")
    assert told[-3:-1] == [
        f"  -> direct  rule 'rest' ({rules}): any flow",
        f"  nearest miss: rule 'no-curl' failed only on app ({rules}:8)",
    ]


def test_what_is_not_told_is_unknown(rules: str) -> None:
    told = lines(rules, "--to", "[2001:db8::7]:22", "--proto", "udp")
    assert told[0] == "udp -> [2001:db8::7]:22  (unknown: absent)"
    assert told[2] == "  2 git-ssh  unknown  app is not known"
    (answer,) = as_json(rules, "--app", "/usr/bin/ssh", "--to", "192.0.2.7:22")
    assert answer["steps"][1]["result"] == "unknown"
    assert answer["steps"][1]["because"] == "ancestor is not known"


def test_parents_are_told_one_after_the_other(rules: str) -> None:
    flow = ("--app", "/usr/bin/ssh", "--to", "192.0.2.7:22")
    parents = ("--parent", "/bin/sh", "--parent", "/usr/lib/git-core/git")
    (answer,) = as_json(rules, *flow, *parents)
    assert (answer["action"], answer["rule"]) == ("block", "git-ssh")
    (answer,) = as_json(rules, *flow, "--parent", "/bin/sh")
    assert answer["rule"] == "rest"


def test_json(rules: str) -> None:
    (answer,) = as_json(rules, *FLOW)
    assert answer.pop("cost_us") > 0
    steps = answer.pop("steps")
    assert answer == {
        "action": "block",
        "rule": "no-curl",
        "rule_file": rules,
        "why": "app 'curl' is /opt/it/curl; user ana",
        "proto": "tcp",
        "src": None,
        "dst": "192.0.2.7:443",
        "owner": {
            "grade": "exact",
            "backend": "",
            "pid": None,
            "start": None,
            "name": "curl",
            "path": "/opt/it/curl",
            "uid": None,
            "user": "ana",
        },
        "nearest": None,
        "tags": [],
        "audited": [{"rule": "seen", "action": "drop"}],
    }
    assert [step["result"] for step in steps] == ["no", "no", "yes", "yes", "yes"]
    assert steps[3] == {
        "rule": "no-curl",
        "result": "yes",
        "because": "app 'curl' is /opt/it/curl; user ana",
        "action": "block",
        "mode": "decides",
        "reached": True,
        "file": rules,
        "line": 8,
    }


def test_a_program_is_found_on_path_and_links_are_followed(rules: str, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "real").chmod(0o755)
    (tmp_path / "link").symlink_to("real")
    done = tunowner(
        *("explain", "--rules", rules, "--app", "link", "--to", "192.0.2.7:1"), PATH=str(tmp_path)
    )
    assert done.stdout.splitlines()[0] == f"tcp -> 192.0.2.7:1  {(tmp_path / 'real').resolve()}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --to ADDRESS:PORT"),
        (["--to", "example.org:443"], "'example.org:443' is no address with a port"),
        (["--to", "192.0.2.7:443", "--app", "no-such-program"], "is no program on PATH"),
        (["--to", "192.0.2.7:443", "--owner", "sure"], "'sure' is no owner grade"),
        (["--to", "192.0.2.7:443", "--proto", "icmp"], "'icmp' is no protocol"),
        (["--pid", "1", "--to", "192.0.2.7:443", "--proto", "icmp"], "'icmp' is no protocol"),
        (["--pid", "1", "--app", "/x"], "--pid tells all of the process, so leave out --app"),
        (["--pid", "0"], "0 is not in the range"),
    ],
)
def test_usage_errors(rules: str, arguments: list[str], message: str) -> None:
    done = tunowner("explain", "--rules", rules, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_broken_rules_are_told_in_full(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 2\nrulez: []\n")
    done = tunowner("explain", "--rules", str(tmp_path), *FLOW)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count(": error E") == 2


def test_all_that_can_be_told_of_a_flow_is_an_option() -> None:
    options = {parameter.name for parameter in explain.params}
    assert set(FIELDS) <= options
    assert options - set(FIELDS) == {"rules", "as_json"}
    assert inspect.getdoc(explain.callback)


def test_no_such_process(rules: str) -> None:
    done = tunowner("explain", "--rules", rules, "--pid", "4194304", "--to", "192.0.2.7:443")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tunowner: no process has the pid 4194304\n"


def test_a_process_as_if_it_opened_the_flow(rules: str) -> None:
    told = lines(rules, "--pid", str(os.getpid()), "--to", "10.0.0.1:443")
    assert told[0] == f"tcp -> 10.0.0.1:443  {os.path.realpath(sys.executable)}[{os.getpid()}]"
    assert told[1] == "  1 lan      yes      ip 10.0.0.1 is in 10.0.0.0/8"


def test_only_the_name_of_an_address_is_not_the_process_s_own(tmp_path: Path) -> None:
    text = "version: 1\nrules: [ { name: a, match: { host: '*.example' }, action: block } ]\n"
    (tmp_path / "a.yaml").write_text(text)
    asked = (str(tmp_path), "--pid", str(os.getpid()), "--to", "192.0.2.7:443")
    assert [it["steps"][0]["result"] for it in as_json(*asked)] == ["unknown"]
    assert [it["rule"] for it in as_json(*asked, "--host", "WWW.example.")] == ["a"]


def test_the_flows_that_a_process_has_open(rules: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        socket.create_connection(server.getsockname()) as other,
    ):
        port = server.getsockname()[1]
        asked = ("--pid", str(os.getpid()))
        known = {answer["src"]: answer for answer in as_json(rules, *asked)}
        ends = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in (client, other)]
        assert set(ends) <= set(known)
        assert known[ends[0]]["owner"]["pid"] == os.getpid()
        assert known[ends[0]]["owner"]["grade"] == "exact"
        named = as_json(rules, *asked, "--to", f"127.0.0.1:{port}")
        assert sorted(answer["src"] for answer in named) == sorted(ends)


@pytest.mark.parametrize("to", ["127.0.0.1", "[::ffff:127.0.0.1]"])
def test_a_flow_of_ipv4_on_a_socket_of_ipv6(tmp_path: Path, to: str) -> None:
    (tmp_path / "a.yaml").write_text(
        "version: 1\nrules: [ { name: lo, match: { ip: 127.0.0.0/8 }, action: direct } ]\n"
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET6) as client,
    ):
        port = server.getsockname()[1]
        client.connect(("::ffff:127.0.0.1", port))
        asked = ("--pid", str(os.getpid()), "--to", f"{to}:{port}")
        (answer,) = as_json(str(tmp_path), *asked)
        assert answer["src"] == f"127.0.0.1:{client.getsockname()[1]}"
        assert (answer["rule"], answer["owner"]["pid"]) == ("lo", os.getpid())


def test_a_process_without_flows(rules: str) -> None:
    done = tunowner("explain", "--rules", rules, "--pid", "2")  # a kernel thread, or nobody
    assert (done.returncode, done.stdout) == (1, "")
    assert "2" in done.stderr


HERE, THERE = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 7))
CURL, WGET = Process(7, 1, "/usr/bin/curl", 1000, "ana"), Process(8, 1, "/usr/bin/wget", 1000)
BOTH = Owner(Grade.EXACT, (WGET, CURL), cookie=5)


def flows_of(question: Question, backend: MemoryBackend) -> list[Explained]:
    explained = explain_process(load([("desk.yaml", RULES)]), question, backend)
    assert explained is not None
    return explained


def test_all_holders_of_a_socket_count() -> None:
    flow = FlowKey(TCP, HERE, 5, THERE, 443)
    backend = MemoryBackend(owners=MemoryOwners({flow: BOTH}))
    backend.plane.close()
    backend.deaths.close()
    for pid in (7, 8):
        (open_flow,) = flows_of(Question(pid), backend)
        assert (open_flow.flow, open_flow.trace.decision.rule) == (flow, "no-curl")
        assert open_flow.trace.decision.owner.candidates == (WGET, CURL)
    (other,) = flows_of(Question(8, ("192.0.2.9", 80)), backend)
    assert other.trace.decision.owner.candidates == (WGET,), "a socket of its own"
    (other,) = flows_of(Question(8, ("192.0.2.7", 443), UDP), backend)
    assert other.flow.protocol == UDP


def test_a_udp_socket_that_is_shared_and_not_connected() -> None:
    flow = FlowKey(UDP, bytes(4), 5353, bytes(4), 0)
    backend = MemoryBackend(owners=MemoryOwners({flow: BOTH}))
    backend.plane.close()
    backend.deaths.close()
    asked = Question(8, ("192.0.2.7", 443), UDP)
    (explained,) = flows_of(asked, backend)
    assert explained.trace.decision.rule == "no-curl"


def test_a_described_flow_meets_with_no_rule_that_is_over(tmp_path: Path) -> None:
    file = tmp_path / "ended.yaml"
    file.write_text(
        "version: 1\nrules: [{ name: old, match: { app: curl }, action: drop,"
        " expires: 2020-01-01T00:00:00Z }]\n"
    )
    (found,) = as_json(str(file), *FLOW)
    assert (found["action"], found["rule"]) == ("direct", None)
    assert found["steps"][0]["because"] == "it ended at 2020-01-01T00:00:00Z"
