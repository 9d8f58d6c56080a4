"""Names from DNS answers: what is learnt, what is refused, and that any bytes are survived."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR, dns_compress
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from tunowner.core import dns
from tunowner.core.dns import Answer, HostNames, read_message

ADDRESS = ip_address("192.0.2.7").packed
ADDRESS6 = ip_address("2001:db8::7").packed


def question(name: str = "www.Example.org", number: int = 7) -> bytes:
    return bytes(DNS(id=number, rd=1, qd=DNSQR(qname=name)))


def answer(*records: DNSRR, name: str = "www.Example.org", number: int = 7, **fields: int) -> bytes:
    chain = records[0]
    for record in records[1:]:
        chain = chain / record
    return bytes(
        DNS(id=number, qr=1, qd=DNSQR(qname=name), an=chain, ancount=len(records), **fields)
    )


A = DNSRR(rrname="www.example.org", type="A", ttl=60, rdata="192.0.2.7")
AAAA = DNSRR(rrname="www.example.org", type="AAAA", ttl=60, rdata="2001:db8::7")
ALIAS = DNSRR(rrname="www.example.org", type="CNAME", ttl=60, rdata="cdn.example.net")
BEHIND = DNSRR(rrname="cdn.example.net", type="A", ttl=5, rdata="192.0.2.7")


def asks(payload: bytes, port: int = 40_000) -> bytes:
    return bytes(IP(src="192.0.2.1", dst="192.0.2.53") / UDP(sport=port, dport=53) / payload)


def tells(payload: bytes, port: int = 40_000) -> bytes:
    return bytes(IP(src="192.0.2.53", dst="192.0.2.1") / UDP(sport=53, dport=port) / payload)


def names_after(*packets: bytes) -> HostNames:
    names = HostNames()
    for packet in packets:
        names.packet_seen(packet, 1.0)
    return names


def told(name: str, address: str) -> tuple[bytes, bytes]:
    """A question for a name, and the answer with an address."""
    kind = "AAAA" if ":" in address else "A"
    record = DNSRR(rrname=name, type=kind, ttl=60, rdata=address)
    return asks(question(name)), tells(answer(record, name=name))


def test_the_latest_name_stands_first() -> None:
    packets = [it for name in ("a.org", "b.org", "a.org") for it in told(name, "192.0.2.7")]
    assert names_after(*packets).of(ADDRESS, 2.0) == ("a.org", "b.org")


def test_an_answer_gives_names() -> None:
    names = names_after(asks(question()), tells(answer(A, AAAA)))
    assert names.of(ADDRESS, 2.0) == ("www.example.org",)
    assert names.of(ADDRESS6, 2.0) == ("www.example.org",)
    assert names.of(ip_address("192.0.2.8").packed, 2.0) == ()


def test_all_names_on_the_way_count() -> None:
    names = names_after(asks(question()), tells(answer(ALIAS, BEHIND)))
    assert names.of(ADDRESS, 2.0) == ("www.example.org", "cdn.example.net")


def test_a_compressed_answer() -> None:
    short = bytes(dns_compress(DNS(answer(ALIAS, BEHIND))))
    assert len(short) < len(answer(ALIAS, BEHIND))
    assert read_message(short) == read_message(answer(ALIAS, BEHIND))


def test_over_ipv6() -> None:
    here, there = "2001:db8::1", "2001:db8::53"
    names = names_after(
        bytes(IPv6(src=here, dst=there) / UDP(sport=4000, dport=53) / question()),
        bytes(IPv6(src=there, dst=here) / UDP(sport=53, dport=4000) / answer(A)),
    )
    assert names.of(ADDRESS, 1.0) == ("www.example.org",)


@pytest.mark.parametrize(
    "packets",
    [
        [tells(answer(A))],
        [asks(question()), tells(answer(A), port=40_001)],
        [asks(question()), tells(answer(A, number=8))],
        [asks(question()), tells(answer(A, name="other.example.org"))],
        [asks(question()), tells(answer(A, rcode=3))],
        [asks(question()), tells(answer(BEHIND))],
        [asks(question()), tells(answer(BEHIND, ALIAS))],
        [asks(question()), tells(answer(A)[:-2])],
        [asks(question()), bytes(IP(dst="192.0.2.1") / TCP(sport=53, dport=40_000) / answer(A))],
    ],
)
def test_what_nobody_asked_for_or_makes_no_sense_is_not_believed(packets: list[bytes]) -> None:
    assert names_after(*packets).of(ADDRESS, 1.0) == ()


def test_an_answer_that_comes_too_late_is_not_believed() -> None:
    names = names_after(asks(question()))
    names.packet_seen(tells(answer(A)), 1.0 + dns.ANSWER_S)
    assert names.of(ADDRESS, 12.0) == ()


def test_names_are_kept_for_longer_than_their_ttl_but_not_for_ever() -> None:
    names = names_after(asks(question()), tells(answer(A)))
    assert names.of(ADDRESS, dns.SHORTEST_S) == ("www.example.org",)
    assert names.of(ADDRESS, 1.0 + dns.SHORTEST_S) == ()


def test_a_pointer_that_leads_nowhere() -> None:
    head = bytes.fromhex("000780000001000100000000")
    for name in (b"\xc0\x0c", b"\x01a\xc0\x0e", b"\xc0", b"\x40", b"\x05ab", b"", b"\x01.\x00"):
        assert read_message(head + name) is None


def test_neither_addresses_nor_names_of_one_grow_without_bound() -> None:
    names = HostNames()
    for number in range(dns.MAX_ADDRESSES + 10):
        names._learn(Answer(number.to_bytes(4, "big"), ("x",), 60), 1.0)
    assert len(names) == dns.MAX_ADDRESSES
    for number in range(dns.MAX_NAMES + 5):
        names._learn(Answer(ADDRESS, (f"n{number}",), 60), 1.0)
    assert len(names.of(ADDRESS, 1.0)) == dns.MAX_NAMES
    assert "n20" in names.of(ADDRESS, 1.0)


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    read_message(data)
    names_after(data, tells(data), asks(data))


@given(st.integers(0, 120), st.integers(0, 255))
def test_one_wrong_byte_is_survived(position: int, value: int) -> None:
    payload = bytearray(answer(ALIAS, BEHIND, AAAA))
    payload[position % len(payload)] = value
    message = read_message(bytes(payload))
    assert message is None or all(len(it.address) in (4, 16) for it in message.answers)
