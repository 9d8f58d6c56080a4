"""The parser on byte literals and hand-made packets. Its answers against scapy's: test_packet_oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core import packets as p
from tunowner.core.model import TCP, UDP, FlowKey
from tunowner.core.packet import (
    MAX_EXTENSION_HEADERS,
    FragmentKey,
    Segment,
    Unreadable,
    destination,
    is_fragment,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MALFORMED, OTHER = Unreadable.MALFORMED, Unreadable.OTHER_PROTOCOL


def test_deconstruct_a_tcp_syn_over_ipv4() -> None:
    packet = bytes.fromhex(
        "45 00 00 28 1c46 4000 40 06 0000 c0000201 cb007105"  # IPv4, don't fragment
        "9c40 01bb 00010203 00000000 50 02 fa f0 0000 0000"  # 40000 -> 443, SYN
    )
    here, there = bytes((192, 0, 2, 1)), bytes((203, 0, 113, 5))
    assert parse(packet) == Segment(
        FlowKey(TCP, here, 40000, there, 443),
        opens=True,
        sequence=0x010203,
        fragment=None,
        offset=20,
    )
    assert destination(packet) == there


def test_deconstruct_udp_over_ipv6() -> None:
    packet = bytes.fromhex(
        "60 00 00 00 000c 11 40"
        "20010db8000000000000000000000001 20010db8000500000000000000000005"
        "14e9 0035 000c 0000 61626364"
    )
    assert parse(packet) == Segment(
        FlowKey(UDP, p.V6[0], 5353, p.V6[1], 53), opens=True, sequence=0, fragment=None, offset=40
    )
    assert destination(packet) == p.V6[1]


TCP_FLAGS = [
    (p.SYN, True),
    (p.SYN | 0xC0, True),  # explicit congestion notification, RFC 3168
    (p.SYN | p.ACK, False),
    (p.ACK, False),
    (p.PSH | p.ACK, False),
    (p.FIN | p.ACK, False),
    (p.RST, False),
    (0, False),
]


@pytest.mark.parametrize(("flags", "opens"), TCP_FLAGS)
@pytest.mark.parametrize("make", [p.ipv4, p.ipv6])
def test_only_a_syn_without_ack_opens(
    make: Callable[[bytes], bytes], flags: int, *, opens: bool
) -> None:
    segment = parse(make(p.tcp(flags=flags)))
    assert isinstance(segment, Segment)
    assert (segment.opens, segment.sequence) == (opens, 7)


SAMPLES = {
    "tcp4": p.SYN4,
    "udp4": p.UDP4,
    "tcp4 with options": p.ipv4(p.tcp(), options=bytes([1] * 12)),
    "first fragment 4": p.ipv4(p.udp(), UDP, more=True),
    "tcp6": p.SYN6,
    "udp6": p.UDP6,
    "chain 6": p.ipv6(p.extension(p.AH, 2) + p.authentication(TCP) + p.tcp(), p.HOP_BY_HOP),
    "first fragment 6": p.ipv6(p.fragment(UDP, more=True) + p.udp(), p.FRAGMENT),
    "icmp": p.ipv4(b"\x08\0\0\0\0\0\0\0", p.ICMP),
    "later fragment 4": p.ipv4(b"12345678", UDP, frag=3),
    "later fragment 6": p.ipv6(p.fragment(UDP, frag=3) + b"12345678", p.FRAGMENT),
}
samples = pytest.mark.parametrize("packet", SAMPLES.values(), ids=SAMPLES.keys())


@samples
def test_every_truncation_is_malformed(packet: bytes) -> None:
    assert parse(packet) is not MALFORMED
    for length in range(len(packet)):
        assert parse(packet[:length]) is MALFORMED, length


@samples
def test_bytes_after_the_packet_change_nothing(packet: bytes) -> None:
    assert parse(packet + b"\0" * 6) == parse(packet)
    assert parse(packet + packet) == parse(packet)


@samples
def test_a_view_gives_the_same_answer_and_keeps_nothing_of_the_buffer(packet: bytes) -> None:
    buffer = bytearray(packet)
    with memoryview(buffer) as view:
        answer = parse(view)
        assert destination(view) == destination(packet)
    buffer[:] = bytes(len(buffer))
    assert answer == parse(packet)


@samples
def test_the_destination_needs_a_whole_ip_header_only(packet: bytes) -> None:
    header = 20 if packet[0] >> 4 == 4 else 40
    expected = (p.V4 if header == 20 else p.V6)[1]
    for length in range(len(packet) + 1):
        assert destination(packet[:length]) == (expected if length >= header else None)


def patched(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + bytes([value]) + packet[at + 1 :]


CONTRADICTIONS = {
    "no packet": b"",
    "version 0": patched(p.SYN4, 0, 0x05),
    "version 5": patched(p.SYN4, 0, 0x55),
    "version 15": patched(p.SYN6, 0, 0xF0),
    "header of 16 bytes": patched(p.SYN4, 0, 0x44),
    "header longer than the packet": patched(p.SYN4, 0, 0x4F),
    "total length 0": patched(p.SYN4, 3, 0),
    "total length below the header's": patched(p.SYN4, 3, 19),
    "total length above the packet's": patched(p.SYN4, 3, 41),
    "total length leaves no tcp header": patched(p.SYN4, 3, 33),
    "total length leaves no udp header": patched(p.UDP4, 3, 27),
    "payload length above the packet's": patched(p.SYN6, 5, 21),
    "payload length leaves no tcp header": patched(p.SYN6, 5, 13),
    "payload length 0, as of a jumbogram": patched(p.SYN6, 5, 0),
    "payload length 0 before extension headers": p.ipv6(
        p.extension(TCP) + p.tcp(), p.HOP_BY_HOP, length=0
    ),
    "extension header longer than the packet": p.ipv6(
        bytes([TCP, 255, 0, 0, 0, 0, 0, 0]) + p.tcp(), p.HOP_BY_HOP
    ),
    "nothing sound follows a header that runs past the end": p.ipv6(
        bytes([p.ICMP6, 255, 0, 0, 0, 0, 0, 0]), p.HOP_BY_HOP
    ),
    "authentication header longer than the packet": p.ipv6(
        bytes([TCP, 255]) + bytes(22) + p.tcp(), p.AH
    ),
    "extension header that is not there": p.ipv6(b"", p.DESTINATION),
    "fragment header cut short": p.ipv6(p.fragment(TCP)[:7], p.FRAGMENT),
    "first fragment without ports": p.ipv4(p.udp()[:7], UDP, more=True),
}


@pytest.mark.parametrize("packet", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_lengths_that_contradict_each_other(packet: bytes) -> None:
    assert parse(packet) is MALFORMED


NOT_OURS = {
    "icmp": p.ipv4(bytes(8), p.ICMP),
    "icmp of no length": p.ipv4(b"", p.ICMP),
    "esp 4": p.ipv4(bytes(16), p.ESP),
    "esp 6": p.ipv6(bytes(16), p.ESP),
    "icmp6": p.ipv6(bytes(8), p.ICMP6),
    "no next header": p.ipv6(b"", p.NO_NEXT),
    "no next header after a chain": p.ipv6(p.extension(p.NO_NEXT), p.HOP_BY_HOP),
    "icmp6 behind a fragment header": p.ipv6(p.fragment(p.ICMP6, more=True) + bytes(8), p.FRAGMENT),
    "first fragment of icmp": p.ipv4(bytes(8), p.ICMP, more=True),
    "later fragment of icmp": p.ipv4(bytes(8), p.ICMP, frag=1),
    "sctp": p.ipv4(bytes(12), 132),
    "an extension header of ipv6 in ipv4": p.ipv4(p.extension(TCP) + p.tcp(), p.DESTINATION),
}


@pytest.mark.parametrize("packet", NOT_OURS.values(), ids=NOT_OURS.keys())
def test_other_protocols(packet: bytes) -> None:
    assert parse(packet) is OTHER


CHAINS = {
    "hop-by-hop": p.ipv6(p.extension(TCP) + p.tcp(), p.HOP_BY_HOP),
    "long hop-by-hop": p.ipv6(p.extension(TCP, 31) + p.tcp(), p.HOP_BY_HOP),
    "all of RFC 8200": p.ipv6(
        p.extension(p.DESTINATION)
        + p.extension(p.ROUTING, 1)
        + p.extension(p.AH, 2)
        + p.authentication(p.DESTINATION)
        + p.extension(TCP)
        + p.tcp(),
        p.HOP_BY_HOP,
    ),
    "authentication header of length 0": p.ipv6(p.authentication(TCP, 0) + p.tcp(), p.AH),
    "mobility": p.ipv6(p.extension(TCP, 1) + p.tcp(), 135),
    "as many as we follow": p.ipv6(
        p.extension(p.DESTINATION) * (MAX_EXTENSION_HEADERS - 1) + p.extension(TCP) + p.tcp(),
        p.DESTINATION,
    ),
}


@pytest.mark.parametrize("packet", CHAINS.values(), ids=CHAINS.keys())
def test_the_transport_header_is_found_behind_extension_headers(packet: bytes) -> None:
    segment = parse(packet)
    assert isinstance(segment, Segment)
    assert segment.flow == p.flow(ipv6=True)
    assert packet[segment.offset :] == p.tcp()


@pytest.mark.parametrize("count", [MAX_EXTENSION_HEADERS + 1, 100, 8000])
def test_a_chain_longer_than_we_follow_names_no_flow(count: int) -> None:
    chain = p.extension(p.DESTINATION) * (count - 1) + p.extension(TCP)
    assert parse(p.ipv6(chain + p.tcp(), p.DESTINATION)) is OTHER


def test_fragments_of_one_ipv4_datagram_share_a_key() -> None:
    first = parse(p.ipv4(p.udp(), UDP, more=True, ident=9))
    later = parse(p.ipv4(b"rest", UDP, frag=1, ident=9))
    assert isinstance(first, Segment)
    assert first.fragment == later == FragmentKey(*p.V4, UDP, 9)
    assert parse(p.ipv4(b"rest", UDP, frag=1, ident=10)) != later
    assert parse(p.ipv4(b"rest", TCP, frag=1, ident=9)) != later


def test_fragments_of_one_ipv6_datagram_share_a_key() -> None:
    first = parse(p.ipv6(p.fragment(UDP, more=True, ident=9) + p.udp(), p.FRAGMENT))
    # RFC 8200 section 4.5: the next header of a later fragment counts for nothing.
    later = parse(p.ipv6(p.fragment(p.DESTINATION, frag=1, ident=9) + b"rest", p.FRAGMENT))
    assert isinstance(first, Segment)
    assert first.fragment == later == FragmentKey(*p.V6, 0, 9)
    assert parse(p.ipv6(p.fragment(UDP, frag=1, ident=10) + b"rest", p.FRAGMENT)) != later


def test_flags_that_are_no_fragmentation() -> None:
    for flags in (0x4000, 0x8000):  # don't fragment; reserved
        packet = p.ipv4(p.tcp(), frag=flags)
        assert parse(packet) == parse(p.SYN4)


@pytest.mark.parametrize("length", [14, 19])
def test_the_ports_and_flags_of_a_short_tcp_header_are_enough(length: int) -> None:
    """What the kernel takes for broken still must not get round the rules."""
    segment = parse(p.ipv4(p.tcp()[:length]))
    assert isinstance(segment, Segment)
    assert segment.flow == p.flow()


def mutated(packet: bytes) -> st.SearchStrategy[bytes]:
    changes = st.dictionaries(st.integers(0, len(packet) - 1), st.integers(0, 255), max_size=4)
    return changes.map(lambda new: bytes(new.get(at, byte) for at, byte in enumerate(packet)))


@given(st.binary(max_size=120) | st.sampled_from(list(SAMPLES.values())).flatmap(mutated))
def test_any_bytes_give_an_answer(packet: bytes) -> None:
    answer = parse(packet)
    assert answer == parse(memoryview(packet))
    assert isinstance(answer, Segment | FragmentKey | Unreadable)
    if not isinstance(answer, Unreadable):
        assert destination(packet) is not None
    if isinstance(answer, Segment):
        assert {type(it) for it in answer.flow} == {int, bytes}
        assert len(answer.flow.local) == len(answer.flow.remote) in (4, 16)
        assert answer.offset + 8 <= len(packet)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (p.UDP4, False),
        (p.UDP6, False),
        (p.ipv4(p.udp(), UDP, more=True), True),
        (p.ipv4(b"a rest..", UDP, frag=1, more=True), True),
        (p.ipv4(b"the last", UDP, frag=2), True),
        (p.ipv6(p.fragment(UDP, more=True) + p.udp(), p.FRAGMENT), True),
        (p.ipv6(p.fragment(UDP, frag=1) + b"the rest", p.FRAGMENT), True),
    ],
)
def test_fragments_are_told_from_whole_datagrams(packet: bytes, expected: bool) -> None:  # noqa: FBT001 - a table
    assert is_fragment(packet) is expected
