"""What the engine says about flows, and that saying it never holds them up."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.lab.engine import ROOT
from tests.lab.topology import BY_VPN, CLIENT4, CLIENT6, ETH, SERVICE4, SERVICE6
from tests.lab.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.world import World

pytestmark = pytest.mark.root

RULES = """
version: 1
outbounds: { vpn: { type: interface, name: vpn0 } }
rules:
  - { name: blocked, match: { app: block-app }, action: block }
  - { name: dropped, match: { app: drop-app }, action: drop }
  - { name: by-vpn, match: { app: vpn-app }, action: vpn }
"""
ACTIONS = {"block-app": "block", "drop-app": "drop", "vpn-app": "vpn", "other-app": "direct"}
ONE_BY_ONE = list(product(["tcp", "udp"], [SERVICE4, SERVICE6]))
LINE = re.compile(
    r"\d\d:\d\d:\d\d\.\d{3} (tcp|udp) (?P<name>\S+)\[(?P<pid>\d+)\] root "
    r"(?P<src>\S+) -> (?P<dst>\S+) (?P<action>\w+)(  rule=(?P<rule>\S+))?  .*  lookup=\d+\.\dms"
)
FLOWS = 600
"""Their events fill a pipe of 64 KiB (pipe(7)) several times over."""


@pytest.mark.parametrize("app", list(ACTIONS))
def test_dry_run_tells_and_lets_pass(world: World, app: str) -> None:
    engine = world.engine(RULES, "--dry-run")
    assert engine.wait_for_event("ready")["dry_run"] is True
    for proto, target in ONE_BY_ONE:
        (flow,) = world.app(app).probe(proto, target, messages=5)
        assert flow.ok
        assert flow.peer_seen in (CLIENT4, CLIENT6)
        event = engine.wait_for_event("open", src=flow.src, dst=flow.dst, action=ACTIONS[app])
        assert event["owner"]["path"] == str(world.app(app))
    assert world.client.tun_packets() == len(ONE_BY_ONE)
    world.arrivals.assert_none(link=BY_VPN)


def test_dry_run_does_not_touch_sockets_bound_to_a_device(world: World) -> None:
    world.engine(RULES, "--dry-run")
    for proto, target in ONE_BY_ONE:
        (flow,) = world.app("block-app").probe(proto, target, device=ETH)
        assert flow.ok


def test_a_line_for_people_per_decision(world: World) -> None:
    engine = world.engine(RULES, json=False)
    wait_until(lambda: engine.text, "the first line")
    assert engine.text[0] == "ready: tunowner0, 3 rules. Ctrl-C ends it.\n"
    told = []
    for app, action in ACTIONS.items():
        (flow,) = world.app(app).probe("tcp", timeout=0.5)
        told.append((app, str(flow.pid), flow.src, flow.dst, action))
    wait_until(lambda: len(engine.text) == 1 + len(ACTIONS), "a line for each")
    for line, (name, pid, src, dst, action) in zip(engine.text[1:], told, strict=True):
        match = LINE.fullmatch(line.rstrip("\n"))
        assert match, line
        found = match.groupdict()
        assert (found["name"], found["pid"], found["src"], found["dst"]) == (name, pid, src, dst)
        assert found["action"] == action
        assert (found["rule"] is None) == (action == "direct")
    assert engine.stop() == 0
    assert len(engine.text) == 2 + len(ACTIONS)
    assert engine.text[-1].startswith("stopped: packets 4, flows 4")
    assert engine.stderr == ""


def start_without_reader(world: World, *words: str) -> tuple[subprocess.Popen[str], Path]:
    """Start an engine that intercepts; return it, unread, and the file of its error output."""
    rules = world.folder / "unread.yaml"
    rules.write_text(RULES, encoding="utf-8")
    errors = world.folder / "unread.stderr"
    with errors.open("w") as sink:
        process = world.client.popen(
            [sys.executable, "-m", "tunowner", "run", *words, "--rules", str(rules)],
            env={"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
        )
    wait_until(lambda: "tunowner" in world.client.sh("nft list tables"), "the engine")
    return process, errors


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("words", [("--json",), ()])
def test_a_reader_that_stalls_stalls_no_flow(
    world: World, words: tuple[str, ...], how: signal.Signals
) -> None:
    before = world.client.snapshot()
    process, errors = start_without_reader(world, *words)
    flows = world.app("other-app").probe("tcp", count=FLOWS, concurrency=20, timeout=2)
    blocked = world.app("block-app").probe("tcp", count=FLOWS, concurrency=20, timeout=2)
    assert all(flow.ok for flow in flows)
    assert {flow.error for flow in blocked} == {"ECONNREFUSED"}
    assert max(flow.connect_us or 0 for flow in flows[-100:]) < 500_000
    asked_at = time.monotonic()
    process.send_signal(how)
    assert process.wait(10.0) == 0, errors.read_text()
    assert time.monotonic() - asked_at < 5
    assert errors.read_text() == ""
    assert process.stdout
    told = process.stdout.read().splitlines()
    assert 1 < len(told) < len(flows) + len(blocked), "the pipe was never full"
    assert before.diff(world.client.snapshot()) == []


@pytest.mark.parametrize("words", [("--json",), ()])
def test_a_reader_that_leaves_ends_no_flow(world: World, words: tuple[str, ...]) -> None:
    before = world.client.snapshot()
    process, errors = start_without_reader(world, *words)
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    (blocked,) = world.app("block-app").probe("tcp")
    (passed,) = world.app("other-app").probe("tcp")
    assert (blocked.error, passed.ok) == ("ECONNREFUSED", True)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10.0) in (0, 1)
    assert "Traceback" not in errors.read_text()
    assert before.diff(world.client.snapshot()) == []
