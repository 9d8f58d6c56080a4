"""The Companion on a backend in memory, and on this machine's sockets."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tunowner
from tests.core import packets as p
from tunowner.app.companion import DEATHS_S, Companion
from tunowner.app.context import Facts
from tunowner.app.resolver import OwnerResolver
from tunowner.backends.memory import MemoryBackend, MemoryOwners
from tunowner.core.known import DOUBTFUL_S, UDP_IDLE_S, UDP_S
from tunowner.core.model import UDP, FlowKey, Grade, Owner, Process
from tunowner.core.rules import load
from tunowner.errors import BackendError, ConfigError, TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CURL = Owner(Grade.EXACT, (Process(7, 1, "/usr/bin/curl"),), cookie=5)
WGET = Owner(Grade.EXACT, (Process(8, 1, "/usr/bin/wget"),), cookie=6)
RULES = """
version: 1
defaults: { action: direct, when_unknown: drop }
outbounds: { vpn: { type: interface, name: wg0 } }
rules:
  - { name: no-curl, match: { app: curl }, action: block }
  - { name: wget-over-vpn, match: { app: wget }, action: vpn }
"""
ACK4 = p.ipv4(p.tcp(flags=p.ACK))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountingOwners(MemoryOwners):
    """Counts what it is asked for."""

    asked = 0

    def quick(self, flow: FlowKey, since: float | None = None) -> Owner | None:
        self.asked += 1
        return super().quick(flow, since)


class Desk:
    """A Companion, and everything that it was given."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "rules.yaml"
        self.file.write_text(RULES)
        self.clock, self.owners = Clock(), CountingOwners()
        self.backend = MemoryBackend(owners=self.owners)
        self.backend.plane.close()
        self.companion = Companion.load(self.file, backend=self.backend, timer=self.clock)

    def action(self, packet: bytes) -> str:
        return self.companion.decide(packet).action

    def close_sockets(self, *cookies: int) -> None:
        """Close sockets, and let the time pass after which that is asked for."""
        self.backend.deaths.put(*cookies)
        self.clock.now += DEATHS_S


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    with made.companion:
        yield made


def test_the_public_name() -> None:
    assert tunowner.Companion is Companion


def test_a_decision_says_what_and_why(desk: Desk) -> None:
    desk.owners.put(p.flow(), WGET)
    decision = desk.companion.decide(p.SYN4)
    assert (decision.action, decision.rule) == ("vpn", "wget-over-vpn")
    assert decision.rule_file == str(desk.file)
    assert decision.owner.process == WGET.candidates[0]
    assert "wget" in decision.why
    assert desk.companion.outbounds["vpn"].name == "vpn"
    assert isinstance(desk.companion.rules, tunowner.RuleSet)


@pytest.mark.parametrize(
    ("packets", "flow"),
    [
        ((p.SYN4, ACK4), p.flow()),
        ((p.SYN6, p.ipv6(p.tcp(flags=p.ACK))), p.flow(ipv6=True)),
        ((p.UDP4, p.UDP4), p.flow(UDP)),
        ((p.UDP6, p.UDP6), p.flow(UDP, ipv6=True)),
    ],
)
def test_a_known_flow_is_not_looked_up_again(
    desk: Desk, packets: Sequence[bytes], flow: FlowKey
) -> None:
    desk.owners.put(flow, CURL)
    first = desk.companion.decide(packets[0])
    for _ in range(20):
        assert desk.companion.decide(packets[1]) is first
        assert desk.companion.decide(memoryview(packets[1])) is first
        desk.clock.now += 0.4 if flow.protocol == UDP else 200.0
    assert desk.owners.asked == 1


def test_a_connection_keeps_its_owner_when_its_socket_has_gone(desk: Desk) -> None:
    desk.owners.put(p.flow(), CURL)
    assert desk.action(p.SYN4) == "block"
    desk.owners.remove(p.flow())
    assert desk.action(p.ipv4(p.tcp(flags=p.ACK | p.FIN))) == "block"


def test_a_new_connection_on_the_same_ports_is_looked_up(desk: Desk) -> None:
    desk.owners.put(p.flow(), CURL)
    assert desk.action(p.SYN4) == "block"
    desk.owners.put(p.flow(), WGET)
    assert desk.action(p.SYN4) == "block", "a retransmission"
    assert desk.action(p.ipv4(p.tcp(seq=8))) == "vpn"
    assert desk.action(ACK4) == "vpn"
    assert desk.owners.asked == 2


def test_that_there_was_no_socket_is_no_answer_for_a_new_connection(desk: Desk) -> None:
    assert desk.action(ACK4) == "drop"
    desk.owners.put(p.flow(), CURL)
    assert desk.action(p.SYN4) == "block"


def test_a_doubtful_owner_is_asked_for_again_soon(desk: Desk) -> None:
    for grade in (Grade.ABSENT, Grade.AMBIGUOUS, Grade.CLOSED, Grade.KERNEL, Grade.DENIED):
        desk.owners.put(p.flow(UDP), Owner(grade, cookie=5))
        desk.clock.now += 2 * UDP_IDLE_S
        before = desk.owners.asked
        assert [desk.action(p.UDP4) for _ in range(5)] == ["drop"] * 5
        assert desk.owners.asked == before + 1, "a burst costs one look-up"
        desk.clock.now += DOUBTFUL_S
        desk.owners.put(p.flow(UDP), CURL)
        assert desk.action(p.UDP4) == "block"


def test_a_udp_port_that_changes_hands(desk: Desk) -> None:
    desk.owners.put(p.flow(UDP), CURL)
    assert desk.action(p.UDP4) == "block"
    desk.owners.put(p.flow(UDP), WGET)
    desk.close_sockets(99)
    assert desk.action(p.UDP4) == "block"
    desk.close_sockets(5)
    assert desk.action(p.UDP4) == "vpn"


def test_some_sockets_closed_unnoticed(desk: Desk) -> None:
    desk.owners.put(p.flow(UDP), CURL)
    assert desk.action(p.UDP4) == "block"
    desk.owners.put(p.flow(UDP), WGET)
    desk.backend.deaths.overflow()
    desk.clock.now += DEATHS_S
    assert desk.action(p.UDP4) == "vpn"


def test_a_socket_that_was_closed_before_its_flow_was_decided(desk: Desk) -> None:
    desk.close_sockets(5)
    desk.owners.put(p.flow(UDP), CURL)
    assert desk.action(p.UDP4) == "block"
    desk.owners.put(p.flow(UDP), WGET)
    desk.clock.now += UDP_S
    assert desk.action(p.UDP4) == "vpn"


def test_a_silent_udp_flow_is_looked_up_again(desk: Desk) -> None:
    desk.owners.put(p.flow(UDP), CURL)
    assert desk.action(p.UDP4) == "block"
    desk.owners.put(p.flow(UDP), WGET)
    desk.clock.now += UDP_IDLE_S
    assert desk.action(p.UDP4) == "vpn"


class DeafBackend(MemoryBackend):
    """Does not tell of sockets that close."""

    def open_deaths(self, _: object = None):  # type: ignore[no-untyped-def]
        raise BackendError("no such thing")


def test_a_system_that_does_not_tell_of_closed_sockets(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(RULES)
    clock, owners = Clock(), MemoryOwners({p.flow(UDP): CURL, p.flow(): CURL})
    backend = DeafBackend(owners=owners)
    backend.plane.close()
    backend.deaths.close()
    with Companion.load(tmp_path, backend=backend, timer=clock) as companion:
        assert companion.decide(p.UDP4).action == companion.decide(p.SYN4).action == "block"
        owners.put(p.flow(UDP), WGET)
        assert companion.decide(p.UDP4).action == "block"
        clock.now += UDP_S
        assert companion.decide(p.UDP4).action == "vpn"
        assert companion.decide(ACK4).action == "block"


@pytest.mark.parametrize("version", [4, 6])
def test_later_fragments_follow_the_first(desk: Desk, version: int) -> None:
    def part(ident: int, *, frag: int, more: bool) -> bytes:
        payload = p.udp(data=b"12345678") if frag == 0 else bytes(16)
        if version == 4:
            return p.ipv4(payload, UDP, ident=ident, frag=frag, more=more)
        header = p.fragment(UDP, ident=ident, frag=frag, more=more)
        return p.ipv6(header + payload, p.FRAGMENT)

    desk.owners.put(p.flow(UDP, ipv6=version == 6), WGET)
    assert desk.action(part(1, frag=0, more=True)) == "vpn"
    assert desk.action(part(1, frag=2, more=False)) == "vpn"
    assert desk.action(part(2, frag=0, more=True)) == "vpn"
    stray = desk.companion.decide(part(3, frag=2, more=False))
    assert (stray.action, stray.rule) == ("drop", None)
    assert stray.why == "a part of a datagram whose beginning was not seen"
    desk.clock.now += 60
    assert desk.action(part(1, frag=2, more=False)) == "drop"


@pytest.mark.parametrize(
    ("packet", "action", "why"),
    [
        (b"", "drop", "malformed packet: it names no flow"),
        (b"\x45", "drop", "malformed packet: it names no flow"),
        (bytes(100), "drop", "malformed packet: it names no flow"),
        (p.SYN4[:30], "direct", "malformed packet: it names no flow"),
        (p.ipv4(bytes(8), p.ICMP), "direct", "other-protocol packet: it names no flow"),
        (p.ipv6(bytes(8), p.ICMP6), "direct", "other-protocol packet: it names no flow"),
    ],
)
def test_what_names_no_flow(desk: Desk, packet: bytes, action: str, why: str) -> None:
    decision = desk.companion.decide(packet)
    assert (decision.action, decision.rule, decision.why) == (action, None, why)
    assert decision.owner.grade is Grade.ABSENT
    assert desk.owners.asked == 0


def test_a_flow_without_a_packet(desk: Desk) -> None:
    desk.owners.put(p.flow(), CURL)
    ask = desk.companion.decide_flow
    ends = (("192.0.2.1", 40000), ("203.0.113.5", 443))
    assert ask("tcp", *ends).rule == "no-curl"
    desk.owners.put(p.flow(), WGET)
    assert desk.action(ACK4) == "block", "packets follow"
    assert ask("tcp", *ends).action == "vpn", "it begins anew each time"
    assert desk.action(ACK4) == "vpn"
    mapped = (("::ffff:192.0.2.1", 40000), ("::ffff:203.0.113.5", 443))
    assert ask("tcp", *mapped).action == "vpn", "as a socket of IPv6 writes them"
    assert ask("udp", ("2001:db8::1", 1), ("2001:db8:5::5", 2)).action == "drop"


@pytest.mark.parametrize(
    ("protocol", "source", "target", "message"),
    [
        ("icmp", ("192.0.2.1", 1), ("192.0.2.2", 2), "protocol 'icmp' is not one of tcp, udp"),
        ("tcp", ("", 1), ("192.0.2.2", 2), "the local end needs an address"),
        ("tcp", ("192.0.2.1", 0), ("192.0.2.2", 2), "port 0 is not in 1..65535"),
        ("tcp", ("192.0.2.1", 1), ("::1", 2), "192.0.2.1 and ::1 are of different IP versions"),
        ("tcp", ("192.0.2.1", 1), ("host", 2), "'host' is no IP address"),
    ],
)
def test_what_is_no_flow(
    desk: Desk, protocol: str, source: tuple[str, int], target: tuple[str, int], message: str
) -> None:
    with pytest.raises(TunOwnerError, match=message.replace(".", r"\.")):
        desk.companion.decide_flow(protocol, source, target)


def test_reload_is_for_flows_to_come(desk: Desk) -> None:
    desk.owners.put(p.flow(), CURL)
    assert desk.action(p.SYN4) == "block"
    desk.file.write_text(RULES.replace("action: block", "action: direct"))
    desk.companion.reload()
    assert desk.action(ACK4) == "block", "a flow keeps its verdict"
    assert desk.action(p.ipv4(p.tcp(seq=8))) == "direct"


def test_reload_for_all_flows(desk: Desk) -> None:
    desk.owners.put(p.flow(), CURL)
    assert desk.action(p.SYN4) == "block"
    desk.file.write_text(RULES.replace("action: block", "action: direct"))
    desk.companion.reload(apply_existing=True)
    assert desk.action(ACK4) == "direct"


def test_a_reload_of_what_is_wrong_changes_nothing(desk: Desk) -> None:
    desk.owners.put(p.flow(), CURL)
    desk.file.write_text(RULES + "  - { name: x, match: { appp: y }, action: nowhere }\n")
    with pytest.raises(ConfigError) as caught:
        desk.companion.reload(apply_existing=True)
    assert [finding.code for finding in caught.value.findings] == ["E012", "E201"]
    assert desk.action(p.SYN4) == "block"


def test_load_refuses_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 2\n")
    with pytest.raises(ConfigError):
        Companion.load(tmp_path)


def test_after_the_end(desk: Desk) -> None:
    desk.owners.put(p.flow(), CURL)
    desk.action(p.SYN4)
    desk.action(ACK4)
    desk.companion.close()
    desk.companion.close()
    ends = (("192.0.2.1", 40000), ("203.0.113.5", 443))
    for attempt in (
        lambda: desk.companion.decide(ACK4),
        lambda: desk.companion.decide(p.SYN6),
        lambda: desk.companion.decide_flow("tcp", *ends),
        desk.companion.reload,
    ):
        with pytest.raises(TunOwnerError, match="the companion is closed"):
            attempt()
    assert repr(desk.companion) == "<Companion: 2 rules, closed>"


@settings(deadline=None)  # each example opens a backend
@given(st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=4), st.integers(0, 80))
def test_any_bytes_will_do(changes: list[tuple[int, int]], length: int) -> None:
    """Packets that are near to those of a known flow; each is decided, and twice alike."""
    backend = MemoryBackend(owners=MemoryOwners({p.flow(): CURL, p.flow(UDP): CURL}))
    backend.plane.close()
    rules = load([("a.yaml", RULES)])
    resolver = OwnerResolver(backend=backend, timer=Clock())
    with Companion(rules, Facts(backend), resolver, backend.deaths, timer=Clock()) as companion:
        for packet in (p.SYN4, ACK4, p.UDP4, p.SYN6):
            raw = bytearray(packet)
            for place, value in changes:
                if place < len(raw):
                    raw[place] = value
            first = companion.decide(packet)
            mangled = [companion.decide(bytes(raw[:length])) for _ in range(3)]
            assert len({(it.action, it.why) for it in mangled}) == 1
            assert companion.decide(packet).action == first.action


def test_its_own_flows_are_direct(desk: Desk) -> None:
    desk.owners.put(p.flow(), Owner(Grade.EXACT, (Process(os.getpid(), 1, "/usr/bin/curl"),)))
    decision = desk.companion.decide(p.SYN4)
    assert (decision.action, decision.rule, decision.why) == ("direct", None, "tunowner's own")


def test_many_threads_at_once(desk: Desk) -> None:
    """Each thread has flows of its own and some in common, while rules are loaded again."""
    owners = {port: (CURL, WGET)[port % 2] for port in range(1, 401)}
    for port, owner in owners.items():
        desk.owners.put(p.flow(sport=port), owner, slow=port % 3 == 0)
    wrong: list[object] = []

    def work(first: int) -> None:
        try:
            for turn in range(200):
                port = (first + turn) % 400 + 1
                flags = p.SYN if turn % 2 else p.ACK
                packet = p.ipv4(p.tcp(sport=port, seq=turn, flags=flags))
                expected = ("block", "vpn")[port % 2]
                if desk.action(packet) != expected:
                    wrong.append((port, turn))
        except Exception as error:
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(50 * number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            desk.companion.reload(apply_existing=True)
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
