"""Packets built by hand from the header layouts of the RFCs: what the parser must take apart."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack

from tunowner.core.model import TCP, UDP, FlowKey

V4 = (ip_address("192.0.2.1").packed, ip_address("203.0.113.5").packed)
V6 = (ip_address("2001:db8::1").packed, ip_address("2001:db8:5::5").packed)

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

HOP_BY_HOP, ROUTING, FRAGMENT, ESP, AH, ICMP6, NO_NEXT, DESTINATION = 0, 43, 44, 50, 51, 58, 59, 60
ICMP = 1


def tcp(sport: int = 40000, dport: int = 443, seq: int = 7, flags: int = SYN) -> bytes:
    return pack("!HHIIBBHHH", sport, dport, seq, 0, 0x50, flags, 64240, 0, 0)


def udp(sport: int = 40000, dport: int = 53, data: bytes = b"") -> bytes:
    return pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def ipv4(
    payload: bytes,
    protocol: int = TCP,
    *,
    options: bytes = b"",
    ident: int = 1,
    frag: int = 0,
    more: bool = False,
) -> bytes:
    """`frag` is the fragment's offset in units of 8 bytes."""
    words = 5 + len(options) // 4
    length = 4 * words + len(payload)
    flags = frag | (0x2000 if more else 0)
    head = pack("!BBHHHBBH", 0x40 | words, 0, length, ident, flags, 64, protocol, 0)
    return head + V4[0] + V4[1] + options + payload


def ipv6(payload: bytes, header: int = TCP, *, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return pack("!IHBB", 6 << 28, size, header, 64) + V6[0] + V6[1] + payload


def extension(following: int, units: int = 0) -> bytes:
    """A hop-by-hop, destination or routing header that is filled with padding."""
    return bytes([following, units]) + bytes(6 + 8 * units)


def fragment(following: int, *, frag: int = 0, more: bool = False, ident: int = 1) -> bytes:
    return pack("!BBHI", following, 0, frag << 3 | more, ident)


def authentication(following: int, words: int = 4) -> bytes:
    """`words` is the header's own length field: its 4-byte words, minus 2 (RFC 4302)."""
    return bytes([following, words]) + bytes(4 * (words + 2) - 2)


def flow(
    protocol: int = TCP, *, ipv6: bool = False, sport: int = 40000, dport: int | None = None
) -> FlowKey:
    """The flow that the packets above belong to."""
    here, there = V6 if ipv6 else V4
    if dport is None:
        dport = 443 if protocol == TCP else 53
    return FlowKey(protocol, here, sport, there, dport)


SYN4, SYN6 = ipv4(tcp()), ipv6(tcp())
UDP4, UDP6 = ipv4(udp(data=b"query"), UDP), ipv6(udp(data=b"query"), UDP)
