"""10,000 flows of 50 programs at once: each is decided for the program that opened it."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.lab.topology import BY_ETH, BY_VPN, SERVICE4, SERVICE6, VPN_CLIENT4, VPN_CLIENT6
from tests.lab.wait import wait_until
from tunowner.backends.linux.tun import QUEUE_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.apps import App, FlowReport, RunningProbe
    from tests.lab.engine import Engine
    from tests.lab.world import World

pytestmark = pytest.mark.root

PROGRAMS, FLOWS_EACH = 50, 200
TARGETS = (SERVICE4, SERVICE6)
REFUSED = {"tcp": {"ECONNREFUSED"}, "udp": {"ECONNREFUSED", "ETIMEDOUT"}}
"""The kernel sends 1,000 ICMP errors a second (net.ipv4.icmp_msgs_per_sec): the rest is silence."""


class Member(NamedTuple):
    """A program, what it should meet with, and its flows."""

    app: App
    action: str
    probe: RunningProbe

    @property
    def rule(self) -> str:
        return f"rule-of-{self.app.path.name}"


def rules(actions: list[str]) -> str:
    """One rule for each program, so that a mix-up of two shows even where they fare the same."""
    lines = ["version: 1", "outbounds: { vpn: { type: interface, name: vpn0 } }", "rules:"]
    lines += [
        f"  - {{ name: rule-of-app{number}, match: {{ app: app{number} }}, action: {action} }}"
        for number, action in enumerate(actions)
    ]
    return "\n".join(lines)


@contextmanager
def starting_gun(fifo: Path) -> Iterator[None]:
    """Hold back every probe that waits for `fifo` until the end of the block."""
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)
    try:
        yield
    finally:
        os.close(writer)
        fifo.unlink()


def has_open(pid: int, file: Path) -> bool:
    return any(
        os.path.realpath(link) == str(file) for link in Path(f"/proc/{pid}/fd").glob("[3-9]*")
    )


def burst(world: World, proto: str, actions: list[str]) -> list[Member]:
    """Let every program open all of its flows at the same moment, and keep them open."""
    fifo = world.folder / "start"
    members = []
    with starting_gun(fifo):
        for number, action in enumerate(actions):
            app = world.app(f"app{number}")
            # What is blocked and gets no ICMP waits in vain for all of that time.
            patience = 6.0 if (proto, action) == ("udp", "block") else 25.0
            probe = app.start_probe(
                proto, TARGETS[number // 3 % 2], count=FLOWS_EACH, burst=True,
                timeout=patience, start=fifo,
            )  # fmt: skip
            members.append(Member(app, action, probe))
        for member in members:
            wait_until(lambda pid=member.probe.pid: has_open(pid, fifo), "the probe")  # type: ignore[misc]
    return members


def reports(member: Member) -> list[FlowReport]:
    return [member.probe.next() for _ in range(FLOWS_EACH)]


def wrongs(member: Member, flows: list[FlowReport], proto: str) -> Iterator[str]:
    """Say which flows of a program fared otherwise than its rule says."""
    for flow in flows:
        if member.action == "block":
            right = flow.error in REFUSED[proto]
        elif member.action == "vpn":
            right = flow.ok and flow.peer_seen in (VPN_CLIENT4, VPN_CLIENT6)
        else:
            right = flow.ok and str(flow.peer_seen) in flow.src
        if not right:
            yield f"{member.app.path.name} {member.action}: {flow}"


def assert_events(engine: Engine, told: dict[tuple[str, str], Member]) -> None:
    """Every flow was announced once, with the program that opened it and the rule for that."""
    wait_until(lambda: len(engine.matching(event="open")) >= len(told), "all events", 20)
    events = engine.matching(event="open")
    counts = Counter((event["src"], event["dst"]) for event in events)
    assert counts.keys() == told.keys()
    assert [flow for flow, count in counts.items() if count > 1] == []
    mixed_up = [
        event
        for event in events
        if (member := told[event["src"], event["dst"]])
        and (event["owner"]["path"], event["owner"]["pid"], event["rule"], event["action"])
        != (str(member.app), member.probe.pid, member.rule, member.action)
    ]
    assert mixed_up == []


def run(world: World, proto: str, actions: list[str]) -> None:
    engine = world.engine(rules(actions))
    before = time.monotonic()
    members = burst(world, proto, actions)
    told: dict[tuple[str, str], Member] = {}
    wrong: list[str] = []
    allowed: dict[str, set[int]] = {BY_ETH: set(), BY_VPN: set()}
    for member in members:
        flows = reports(member)
        told |= {(flow.src, flow.dst): member for flow in flows}
        wrong += wrongs(member, flows, proto)
        if member.action != "block":
            link = BY_VPN if member.action == "vpn" else BY_ETH
            allowed[link] |= {flow.peer_port or 0 for flow in flows}
    print(f"{len(told)} {proto} flows in {time.monotonic() - before:.1f} s")
    assert wrong[:9] == []
    assert len(told) == PROGRAMS * FLOWS_EACH
    for link, ports in allowed.items():
        arrived = [arrival.source_port for arrival in world.arrivals.flows(link=link)]
        assert set(arrived) == ports, f"by {link}"
    assert_events(engine, told)
    device = world.client.link_stats("tunowner0")["tx"]
    # On a busy machine SYNs are sent again, and again, before the first of them is read.
    assert device["dropped"] == 0 or device["packets"] + device["dropped"] > QUEUE_LENGTH
    for member in members:
        member.probe.finish()
    assert engine.stop() == 0
    counters = engine.stopped["statistics"]
    kept = ("lookup_timeouts", "malformed", "dropped_flow_full", "dropped_table_full", "lost")
    assert {name: counters[name] for name in kept} == dict.fromkeys(kept, 0)
    assert counters["flows"] == len(told)


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_half_direct_half_blocked(world: World, proto: str) -> None:
    run(world, proto, ["direct", "block"] * (PROGRAMS // 2))


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_some_by_the_vpn(world: World, proto: str) -> None:
    run(world, proto, (["direct", "block", "vpn"] * PROGRAMS)[:PROGRAMS])
