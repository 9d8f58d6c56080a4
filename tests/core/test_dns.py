"""DNS answers as they go by: read right, beside scapy; and any bytes will do."""

from __future__ import annotations

import socket
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR

from tunowner.core.dns import KEPT_S, MAX_NAMES, Answer, HostNames, read_answer

FIRST, SECOND = bytes((203, 0, 113, 5)), bytes((203, 0, 113, 6))
SIX = socket.inet_pton(socket.AF_INET6, "2001:db8::5")


def record(name: str, kind: str, data: str) -> Any:
    return DNSRR(rrname=name, type=kind, rdata=data, ttl=60)


def answer(asked: str, *records: Any, **fields: Any) -> bytes:
    return bytes(DNS(**{"qr": 1, "qd": [DNSQR(qname=asked)], "an": [*records], **fields}))


A = record("example.org", "A", "203.0.113.5")
GOOD = answer("example.org", A)


def test_an_address_has_the_name_that_was_asked_for() -> None:
    assert read_answer(GOOD) == Answer((FIRST,), ("example.org",))
    six = answer("Example.ORG", record("example.org", "AAAA", "2001:db8::5"))
    assert read_answer(six) == Answer((SIX,), ("example.org",))


def test_aliases_are_names_too() -> None:
    message = answer(
        "www.example.org",
        record("www.example.org", "CNAME", "edge.example.net"),
        record("edge.example.net", "CNAME", "e7.cdn.example"),
        record("e7.cdn.example", "A", "203.0.113.5"),
        record("e7.cdn.example", "A", "203.0.113.6"),
        record("unasked.example", "A", "203.0.113.7"),
    )
    names = ("www.example.org", "edge.example.net", "e7.cdn.example")
    assert read_answer(message) == Answer((FIRST, SECOND), names)


def test_compressed_names() -> None:
    """Pointers into the question, as every server writes them."""
    question = b"\7example\3org\0" + pack("!HH", 1, 1)
    alias = b"\xc0\x0c" + pack("!HHIH", 5, 1, 60, 6) + b"\3www\xc0\x0c"
    address = b"\xc0" + bytes([12 + len(question) + 12]) + pack("!HHIH", 1, 1, 60, 4) + FIRST
    message = pack("!HHHHHH", 7, 0x8180, 1, 2, 0, 0) + question + alias + address
    assert read_answer(message) == Answer((FIRST,), ("example.org", "www.example.org"))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        GOOD[:11],
        GOOD[:-1],
        answer("example.org", A, qr=0),
        answer("example.org", A, rcode=3),
        answer("example.org", A, tc=1),
        answer("example.org", A, opcode=2),
        answer("example.org"),
        answer("example.org", record("example.org", "TXT", "203.0.113.5")),
        answer("example.org", record("example.com", "A", "203.0.113.5")),
        pack("!HHHHHH", 7, 0x8180, 1, 1, 0, 0) + b"\xc0\x0c" + bytes(20),  # a name in a circle
        pack("!HHHHHH", 7, 0x8180, 1, 1, 0, 0) + b"\x7fx",
        pack("!HHHHHH", 7, 0x8180, 1, 1, 0, 0) + b"\1a" * 200 + b"\0" + bytes(20),
    ],
)
def test_what_is_no_answer(message: bytes) -> None:
    assert read_answer(message) is None


@given(st.binary(max_size=200))
def test_any_bytes_will_do(message: bytes) -> None:
    names = HostNames()
    names.learn(message, 0.0)
    names.learn(pack("!HHHHHH", 7, 0x8180, 1, 3, 0, 0) + message, 0.0)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4))
def test_an_answer_with_some_bytes_changed(changes: list[tuple[int, int]]) -> None:
    message = bytearray(GOOD)
    for place, value in changes:
        message[place] = value
    found = read_answer(bytes(message))
    assert found is None or all(len(address) in (4, 16) for address in found.addresses)


def test_the_latest_name_stands_first() -> None:
    names = HostNames()
    for asked in ("a.example", "b.example", "a.example"):
        names.learn(answer(asked, record(asked, "A", "203.0.113.5")), 1.0)
    assert names.of(FIRST, 2.0) == ("a.example", "b.example")
    assert names.of(SECOND, 2.0) == ()


def test_names_are_forgotten_and_never_too_many() -> None:
    names = HostNames()
    for number in range(3 * MAX_NAMES):
        asked = f"{number}.example"
        names.learn(answer(asked, record(asked, "A", "203.0.113.5")), 1.0)
    assert len(names.of(FIRST, 2.0)) == MAX_NAMES
    assert names.of(FIRST, 2.0)[0] == f"{3 * MAX_NAMES - 1}.example"
    assert names.of(FIRST, 1.0 + KEPT_S) == ()
