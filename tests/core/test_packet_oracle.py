"""The parser against scapy's, on packets that scapy builds."""

from __future__ import annotations

import warnings
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunowner.core.model import TCP as TCP_NUMBER
from tunowner.core.model import UDP as UDP_NUMBER
from tunowner.core.model import FlowKey
from tunowner.core.packet import FragmentKey, Segment, Unreadable, parse

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy's imports are not ours to judge
    from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, fragment
    from scapy.layers.inet6 import (
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
        PadN,
        fragment6,
    )
    from scapy.layers.ipsec import AH
    from scapy.packet import Raw

ports = st.integers(0, 65535)
v4 = st.ip_addresses(v=4).map(str)
v6 = st.ip_addresses(v=6).map(str)
payloads = st.binary(max_size=32)
flags = st.lists(st.sampled_from("FSRPAUEC"), unique=True).map("".join)


@st.composite
def transports(draw: st.DrawFn) -> Any:
    if draw(st.booleans()):
        sequence = draw(st.integers(0, 2**32 - 1))
        options = draw(st.sampled_from([[], [("MSS", 1460)], [("NOP", None), ("WScale", 7)]]))
        head = TCP(
            sport=draw(ports), dport=draw(ports), seq=sequence, flags=draw(flags), options=options
        )
    else:
        head = UDP(sport=draw(ports), dport=draw(ports))
    return head / Raw(draw(payloads))


@st.composite
def ipv4_packets(draw: st.DrawFn) -> Any:
    options = [IPOption(b"\x01" * draw(st.integers(1, 40)))] if draw(st.booleans()) else []
    head = IP(
        src=draw(v4),
        dst=draw(v4),
        id=draw(ports),
        options=options,
        flags=draw(st.sampled_from(["", "DF"])),
    )
    return head / draw(transports())


NUMBERS = {
    TCP: 6,
    UDP: 17,
    IPv6ExtHdrHopByHop: 0,
    IPv6ExtHdrDestOpt: 60,
    IPv6ExtHdrRouting: 43,
    IPv6ExtHdrFragment: 44,
    AH: 51,
}
EXTENSIONS = {
    "hop-by-hop": lambda: IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 12)]),
    "destination": lambda: IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]),
    "routing": lambda: IPv6ExtHdrRouting(addresses=["2001:db8::77"]),
    "authentication": lambda: AH(payloadlen=4, icv=b"\0" * 12),
    "atomic fragment": lambda: IPv6ExtHdrFragment(id=77, m=0, offset=0),
}


@st.composite
def ipv6_packets(draw: st.DrawFn) -> Any:
    packet = IPv6(src=draw(v6), dst=draw(v6))
    for name in draw(st.lists(st.sampled_from(sorted(EXTENSIONS)), max_size=5)):
        packet /= EXTENSIONS[name]()
    packet /= draw(transports())
    for layer in _layers(packet):
        if AH in (type(layer), type(layer.payload)):  # scapy leaves these numbers to us
            layer.nh = NUMBERS[type(layer.payload)]
    return packet


def expected(built: Any) -> Segment:
    """What scapy put into the packet."""
    head = built.getlayer(TCP) or built.getlayer(UDP)
    is_tcp = isinstance(head, TCP)
    source, target = (ip_address(it).packed for it in (built.src, built.dst))
    number = TCP_NUMBER if is_tcp else UDP_NUMBER
    chain = [layer for layer in _layers(built) if isinstance(layer, IPv6ExtHdrFragment)]
    key = FragmentKey(source, target, 0, chain[-1].id) if chain else None
    return Segment(
        FlowKey(number, source, head.sport, target, head.dport),
        opens=not is_tcp or ("S" in head.flags and "A" not in head.flags),
        sequence=head.seq if is_tcp else 0,
        fragment=key,
        offset=len(built) - len(head),
    )


def _layers(packet: Any) -> list[Any]:
    found = []
    while packet:
        found.append(packet)
        packet = packet.payload
    return found


@given(ipv4_packets())
def test_ipv4_with_options(built: Any) -> None:
    assert parse(bytes(built)) == expected(built)


@given(ipv6_packets())
def test_ipv6_with_extension_headers(built: Any) -> None:
    assert parse(bytes(built)) == expected(built)


@given(st.binary(min_size=64, max_size=400), ports, v4, v4)
def test_ipv4_fragments(data: bytes, ident: int, source: str, target: str) -> None:
    whole = IP(src=source, dst=target, id=ident) / UDP(sport=5, dport=6) / Raw(data)
    first, *later = (parse(bytes(piece)) for piece in fragment(whole, fragsize=32))
    key = FragmentKey(ip_address(source).packed, ip_address(target).packed, UDP_NUMBER, ident)
    assert isinstance(first, Segment)
    assert (first.flow.local_port, first.flow.remote_port, first.fragment) == (5, 6, key)
    assert later
    assert set(later) == {key}


@given(st.binary(min_size=1400, max_size=3000), st.integers(0, 2**32 - 1), v6, v6)
def test_ipv6_fragments(data: bytes, ident: int, source: str, target: str) -> None:
    whole = (
        IPv6(src=source, dst=target)
        / IPv6ExtHdrFragment(id=ident)
        / UDP(sport=5, dport=6)
        / Raw(data)
    )
    first, *later = (parse(bytes(piece)) for piece in fragment6(whole, 1280))
    key = FragmentKey(ip_address(source).packed, ip_address(target).packed, 0, ident)
    assert isinstance(first, Segment)
    assert (first.flow.local_port, first.flow.remote_port, first.fragment) == (5, 6, key)
    assert later
    assert set(later) == {key}


@pytest.mark.parametrize("built", [IP() / ICMP(), IPv6() / IPv6ExtHdrDestOpt() / ICMP()])
def test_other_protocols_as_scapy_builds_them(built: Any) -> None:
    assert parse(bytes(built)) is Unreadable.OTHER_PROTOCOL
