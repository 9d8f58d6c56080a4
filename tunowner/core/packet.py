"""Read what a packet says about its flow. Total: any bytes give an answer, none raises.

Header layouts: RFC 791 (IPv4), RFC 8200 (IPv6 and its extension headers), RFC 9293 (TCP),
RFC 768 (UDP), RFC 4302 (AH). `tests/core/test_packet.py` holds the parser against scapy's.
"""

from __future__ import annotations

from enum import StrEnum
from struct import Struct
from typing import NamedTuple

from tunowner.core.model import PROTOCOL_NAMES, TCP, UDP, FlowKey

_V4 = Struct("!BxHHHxB2x4s4s")  # version+ihl, length, id, flags+offset, protocol, addresses
_V6 = Struct("!4xHBx16s16s")  # payload length, next header, addresses
_V6_FRAGMENT = Struct("!BxHI")  # next header, offset+flags, id
_PORTS = Struct("!HH")
_TCP = Struct("!HHI5xB")  # ports, sequence, flags
_UDP_HEADER = 8
_TCP_SYN_ACK = 0x12
_TCP_SYN = 0x02

_FRAGMENT = 44
_AUTHENTICATION = 51
_EXTENSION_HEADERS = frozenset({0, 43, _FRAGMENT, _AUTHENTICATION, 60, 135, 139, 140})
"""Hop-by-hop, routing, fragment, AH, destination options, mobility, HIP, shim6 (IANA registry)."""
MAX_EXTENSION_HEADERS = 16
"""RFC 8200 foresees seven; a longer chain is somebody wasting our time."""


class Unreadable(StrEnum):
    """Why a packet names no flow."""

    MALFORMED = "malformed"
    """Not IP, cut short, or with lengths that contradict each other."""
    OTHER_PROTOCOL = "other-protocol"
    """Sound IP that carries neither TCP nor UDP where we can see it."""


class FragmentKey(NamedTuple):
    """What all fragments of one datagram share (RFC 791 section 3.2, RFC 8200 section 4.5)."""

    source: bytes
    destination: bytes
    protocol: int
    identification: int


class Segment(NamedTuple):
    """A packet that names its flow. `sequence` is TCP's, 0 for UDP.

    `opens` is true for a TCP SYN without ACK and for every UDP datagram. `fragment` is set on a
    first fragment, so that the later ones, which have no ports, can follow it. The TCP or UDP
    header starts `offset` bytes into the packet.
    """

    flow: FlowKey
    opens: bool
    sequence: int
    fragment: FragmentKey | None
    offset: int


def parse(packet: bytes | memoryview) -> Segment | FragmentKey | Unreadable:
    """Read one IP packet, as sent from this machine.

    A `FragmentKey` answers for a fragment that is not the first of its datagram.
    """
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4:
        return _parse_v4(packet)
    if version == 6:
        return _parse_v6(packet)
    return Unreadable.MALFORMED


def destination(packet: bytes | memoryview) -> bytes | None:
    """Return the packed destination address, or None where there is no whole IP header."""
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4 and len(packet) >= _V4.size:
        return bytes(packet[16:20])
    if version == 6 and len(packet) >= _V6.size:
        return bytes(packet[24:40])
    return None


def is_fragment(packet: bytes | memoryview) -> bool:
    """Tell whether a packet with a whole IP header is a part of a datagram."""
    if packet[0] >> 4 == 4:
        return bool(packet[6] & 0x3F or packet[7])  # more fragments, or an offset
    if packet[6] not in _EXTENSION_HEADERS:
        return False
    parsed = parse(packet)
    return isinstance(parsed, FragmentKey) or (
        isinstance(parsed, Segment) and parsed.fragment is not None
    )


def _parse_v4(packet: bytes | memoryview) -> Segment | FragmentKey | Unreadable:
    if len(packet) < _V4.size:
        return Unreadable.MALFORMED
    first, length, identification, fragmentation, protocol, source, target = _V4.unpack_from(packet)
    start = (first & 0x0F) * 4
    if start < _V4.size or not start <= length <= len(packet):
        return Unreadable.MALFORMED
    if not fragmentation & 0x3FFF:
        return _parse_transport(packet, start, length, protocol, source, target, None)
    key = FragmentKey(source, target, protocol, identification)
    if fragmentation & 0x1FFF:
        return key if protocol in PROTOCOL_NAMES else Unreadable.OTHER_PROTOCOL
    return _parse_transport(packet, start, length, protocol, source, target, key)


def _parse_v6(packet: bytes | memoryview) -> Segment | FragmentKey | Unreadable:
    if len(packet) < _V6.size:
        return Unreadable.MALFORMED
    payload, header, source, target = _V6.unpack_from(packet)
    start, end = _V6.size, _V6.size + payload
    if end > len(packet):
        return Unreadable.MALFORMED
    key = None
    for _ in range(MAX_EXTENSION_HEADERS + 1):  # the last turn is for the transport header
        if header not in _EXTENSION_HEADERS:
            return _parse_transport(packet, start, end, header, source, target, key)
        if start + 8 > end:
            return Unreadable.MALFORMED
        if header == _FRAGMENT:
            _, offset, identification = _V6_FRAGMENT.unpack_from(packet, start)
            key = FragmentKey(source, target, 0, identification)
            if offset & 0xFFF8:
                return key
        header, start = packet[start], start + _extension_length(header, packet[start + 1])
    return Unreadable.OTHER_PROTOCOL


def _extension_length(header: int, length: int) -> int:
    """Return bytes. `length` is the header's own field, counted in units that differ by header."""
    if header == _FRAGMENT:
        return 8
    return 4 * (length + 2) if header == _AUTHENTICATION else 8 * (length + 1)


def _parse_transport(
    packet: bytes | memoryview,
    start: int,
    end: int,
    protocol: int,
    source: bytes,
    target: bytes,
    fragment: FragmentKey | None,
) -> Segment | Unreadable:
    if protocol == TCP:
        if end - start < _TCP.size:
            return Unreadable.MALFORMED
        sport, dport, sequence, flags = _TCP.unpack_from(packet, start)
        opens = flags & _TCP_SYN_ACK == _TCP_SYN
        return Segment(FlowKey(TCP, source, sport, target, dport), opens, sequence, fragment, start)
    if protocol != UDP:
        return Unreadable.OTHER_PROTOCOL if start <= end else Unreadable.MALFORMED
    if end - start < _UDP_HEADER:
        return Unreadable.MALFORMED
    sport, dport = _PORTS.unpack_from(packet, start)
    return Segment(FlowKey(UDP, source, sport, target, dport), True, 0, fragment, start)
