"""Known flows: the short way and the long one agree, and nothing is known for longer than it may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core import packets as p
from tunowner.core.known import (
    DOUBTFUL_S,
    TCP_IDLE_S,
    UDP_IDLE_S,
    UDP_S,
    KnownFlows,
    Lifetime,
    lifetime,
    syn_sequence,
)
from tunowner.core.model import TCP, UDP, Decision, FlowKey, Grade, Owner, Process
from tunowner.core.packet import Segment, parse

if TYPE_CHECKING:
    from tunowner.core.packet import FragmentKey, Unreadable

CURL = Process(7, 1, "/usr/bin/curl")
EXACT = Owner(Grade.EXACT, (CURL,), cookie=5)
DIRECT, BLOCK = Decision("direct", EXACT), Decision("block", EXACT)
LONG = Lifetime(60.0, idle=False)
ACK4, ACK6 = p.ipv4(p.tcp(flags=p.ACK)), p.ipv6(p.tcp(flags=p.ACK))
PLAIN = [ACK4, ACK6, p.UDP4, p.UDP6]
TAKEN_APART = [
    p.ipv4(p.tcp(flags=p.ACK), options=bytes(4)),
    p.ipv4(p.tcp(flags=p.ACK), options=bytes(20)),  # its ports are where IPv6 has them
    p.ipv6(p.extension(TCP) + p.tcp(flags=p.ACK), p.DESTINATION),
    p.ipv4(p.udp(data=b"12345678"), UDP, more=True),
    p.ipv6(p.fragment(UDP, more=True) + p.udp(data=b"12345678"), p.FRAGMENT),
]


def segment_of(packet: bytes) -> Segment:
    segment = parse(packet)
    assert isinstance(segment, Segment)
    return segment


def knowing(*packets: bytes, life: Lifetime = LONG) -> KnownFlows:
    """Return what knows the flows of packets, and has seen those packets."""
    flows = KnownFlows()
    for packet in packets:
        segment = segment_of(packet)
        flows.put(segment.flow, DIRECT, syn_sequence(packet, segment), life, 0.0)
        assert flows.find(packet, segment, 0.0) is DIRECT
    return flows


@pytest.mark.parametrize("packet", PLAIN)
def test_a_plain_packet_takes_the_short_way(packet: bytes) -> None:
    flows = knowing(packet)
    assert flows.follow(packet, 1.0) is DIRECT
    assert flows.follow(memoryview(bytearray(packet)), 1.0) is DIRECT


@pytest.mark.parametrize("packet", TAKEN_APART)
def test_what_has_to_be_taken_apart_takes_the_long_way(packet: bytes) -> None:
    flows = knowing(packet)
    assert flows.follow(packet, 1.0) is None
    assert flows.find(packet, segment_of(packet), 1.0) is DIRECT


def test_a_flow_that_may_be_fragmented_has_one_decision() -> None:
    """The flag "don't fragment" is set for some packets of a flow and not for others."""
    flows = knowing(ACK4)
    other = ACK4[:6] + b"\x40\x00" + ACK4[8:]
    assert flows.follow(other, 1.0) is None
    assert flows.find(other, segment_of(other), 1.0) is DIRECT
    assert flows.follow(other, 1.0) is DIRECT
    flows.forget(p.flow())
    assert flows.follow(other, 1.0) is flows.follow(ACK4, 1.0) is None


def test_tcp_and_udp_on_the_same_ports_are_two_flows() -> None:
    tcp, udp = p.ipv4(p.tcp(dport=53, flags=p.ACK)), p.ipv4(p.udp(dport=53, data=bytes(20)), UDP)
    flows = knowing(tcp)
    assert flows.follow(udp, 0.0) is None
    assert flows.find(udp, segment_of(udp), 0.0) is None


@pytest.mark.parametrize("wrap", [p.ipv4, p.ipv6])
@pytest.mark.parametrize("flags", [p.SYN, p.SYN | p.ACK])
def test_a_syn_with_another_number_is_another_flow(wrap: object, flags: int) -> None:
    assert callable(wrap)
    first, again, other = (wrap(p.tcp(seq=seq, flags=flags)) for seq in (7, 7, 8))
    flows = knowing(first)
    data = wrap(p.tcp(flags=p.ACK))
    assert flows.find(data, segment_of(data), 0.0) is DIRECT
    assert flows.follow(again, 0.0) is None  # the long way compares the numbers
    assert flows.find(again, segment_of(again), 0.0) is DIRECT
    assert flows.find(other, segment_of(other), 0.0) is None


def test_a_syn_on_a_flow_whose_beginning_was_not_seen_is_another_flow() -> None:
    flows = knowing(ACK4)
    assert flows.find(p.SYN4, segment_of(p.SYN4), 0.0) is None


def test_a_decision_ends_with_its_time() -> None:
    flows = knowing(ACK4)
    assert flows.follow(ACK4, 59.9) is DIRECT
    assert flows.follow(ACK4, 60.0) is None
    assert flows.find(ACK4, segment_of(ACK4), 60.0) is None


def test_a_flow_that_speaks_is_not_idle() -> None:
    flows = knowing(ACK4, life=Lifetime(60.0, idle=True))
    assert flows.follow(ACK4, 59.0) is DIRECT
    assert flows.find(ACK4, segment_of(ACK4), 110.0) is DIRECT
    assert flows.follow(ACK4, 169.0) is DIRECT
    assert flows.follow(ACK4, 229.0) is None


def test_the_last_decision_holds() -> None:
    flows = knowing(ACK4)
    flows.put(p.flow(), BLOCK, None, LONG, 1.0)
    assert flows.find(ACK4, segment_of(ACK4), 1.0) is BLOCK
    assert flows.follow(ACK4, 1.0) is BLOCK
    assert len(flows) == 1


def test_an_answer_that_comes_late_changes_nothing() -> None:
    flows = KnownFlows()
    newer, older = (Decision("block", EXACT._replace(resolved_at=at)) for at in (2.0, 1.0))
    for decision in (newer, older):
        flows.put(p.flow(), decision, None, LONG, 3.0)
    assert flows.find(ACK4, segment_of(ACK4), 3.0) is newer


def test_no_more_flows_are_known_than_there_is_room_for() -> None:
    flows = KnownFlows(limit=3)
    for port in range(1, 10):
        packet = p.ipv4(p.tcp(sport=port, flags=p.ACK))
        flows.put(p.flow(sport=port), DIRECT, None, LONG, 0.0)
        flows.find(packet, segment_of(packet), 0.0)
    assert len(flows) == len(flows._by_header) == 3
    assert flows.follow(packet, 0.0) is DIRECT


def test_what_is_over_makes_room_before_the_table_is_full() -> None:
    flows = KnownFlows(limit=1000)
    for port in range(1, 901):
        life = Lifetime(1.0 if port % 3 else 500.0, idle=port % 3 == 0)
        flows.put(p.flow(sport=port), DIRECT, None, life, float(port))
    assert len(flows) < 400


def test_an_old_flow_that_lives_stays_when_the_table_is_full() -> None:
    flows = KnownFlows(limit=10)
    flows.put(p.flow(), DIRECT, None, Lifetime(9e9, idle=True), 0.0)
    for port in range(1, 100):
        flows.put(p.flow(sport=port), DIRECT, None, Lifetime(0.5, idle=False), float(port))
    assert flows.find(ACK4, segment_of(ACK4), 100.0) is DIRECT


def test_nothing_is_known_after_clear() -> None:
    flows = knowing(*PLAIN)
    flows.clear()
    assert len(flows) == 0
    assert [flows.follow(packet, 0.0) for packet in PLAIN] == [None] * 4


@pytest.mark.parametrize(
    ("flow", "grade", "told", "expected"),
    [
        (p.flow(), Grade.EXACT, True, Lifetime(TCP_IDLE_S, idle=True)),
        (p.flow(), Grade.EXACT, False, Lifetime(TCP_IDLE_S, idle=True)),
        (p.flow(), Grade.CLOSED, True, Lifetime(DOUBTFUL_S, idle=False)),
        (p.flow(UDP), Grade.EXACT, True, Lifetime(UDP_IDLE_S, idle=True)),
        (p.flow(UDP), Grade.EXACT, False, Lifetime(UDP_S, idle=False)),
        (p.flow(UDP), Grade.WILDCARD, True, Lifetime(UDP_S, idle=False)),
        (p.flow(UDP), Grade.AMBIGUOUS, True, Lifetime(DOUBTFUL_S, idle=False)),
        (p.flow(UDP), Grade.ABSENT, False, Lifetime(DOUBTFUL_S, idle=False)),
    ],
)
def test_how_long_a_decision_holds(
    flow: FlowKey, grade: Grade, *, told: bool, expected: Lifetime
) -> None:
    assert lifetime(flow, Owner(grade, (CURL,), cookie=5), end_is_told=told) == expected


MANGLED = st.tuples(
    st.sampled_from([*PLAIN, *TAKEN_APART, p.SYN4, p.SYN6]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=3),
    st.integers(0, 80),
)


@given(MANGLED)
def test_the_short_way_never_says_what_the_long_one_would_not(
    mangled: tuple[bytes, list[tuple[int, int]], int],
) -> None:
    """Any packet that is near to one of a known flow: cut, lengthened or with other bytes in it."""
    packet, changes, length = mangled
    raw = bytearray(packet[:length].ljust(min(length, len(packet) + 4), b"\0"))
    for position, value in changes:
        if position < len(raw):
            raw[position] = value
    flows = knowing(*PLAIN)
    quick = flows.follow(bytes(raw), 1.0)
    parsed: Segment | FragmentKey | Unreadable = parse(bytes(raw))
    if quick is not None:
        assert isinstance(parsed, Segment)
        assert flows.find(bytes(raw), parsed, 1.0) is quick


@given(st.binary(max_size=80))
def test_any_bytes_will_do(raw: bytes) -> None:
    assert knowing(*PLAIN).follow(raw, 1.0) in (None, DIRECT)
