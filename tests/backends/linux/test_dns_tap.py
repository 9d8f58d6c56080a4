"""The tap sees DNS packets of its namespace, and nothing else: real datagrams on loopback."""

from __future__ import annotations

import socket
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

from tests.core.test_dns import A, answer, question
from tunowner.backends.linux.dns_tap import LinuxDnsTap
from tunowner.core.dns import HostNames
from tunowner.core.packet import Segment, parse

if TYPE_CHECKING:
    from tests.lab.world import World

pytestmark = pytest.mark.root
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def bound(family: int, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((LOOPBACK[socket.AddressFamily(family)], port))
    return made


def seen(tap: LinuxDnsTap, wanted: int) -> list[bytes]:
    """Return packets until there are so many, 5 s at most."""
    packets: list[bytes] = []
    deadline = time.monotonic() + 5.0
    while len(packets) < wanted and time.monotonic() < deadline:
        packets += tap.read()
    return packets


def converse(family: int) -> tuple[list[bytes], bytes]:
    """Ask and answer on loopback beside other traffic; return what the tap saw."""
    with (
        closing(LinuxDnsTap()) as tap,
        bound(family, 53) as server,
        bound(family, 0) as client,
        bound(family, 5353) as other,
    ):
        client.sendto(b"x", other.getsockname())
        client.sendto(question(), server.getsockname())
        asked, peer = server.recvfrom(512)
        server.sendto(answer(A), peer)
        client.recv(512)
        return seen(tap, 4), asked


@pytest.mark.parametrize("family", LOOPBACK)
def test_both_ways_and_nothing_else(world: World, family: int) -> None:
    packets, _ = world.client.call(converse, family)
    ports = [
        (it.flow.local_port, it.flow.remote_port)
        for packet in packets
        if isinstance(it := parse(packet), Segment)
    ]
    assert len(ports) == len(packets) == 4  # loopback shows each packet leaving and arriving
    assert all(53 in pair for pair in ports)


@pytest.mark.parametrize("family", LOOPBACK)
def test_what_it_sees_gives_names(world: World, family: int) -> None:
    packets, _ = world.client.call(converse, family)
    names = HostNames()
    for packet in packets:
        names.packet_seen(packet, 1.0)
    assert names.of(bytes([192, 0, 2, 7]), 1.0) == ("www.example.org",)


def test_closing_twice(world: World) -> None:
    tap = world.client.call(LinuxDnsTap)
    tap.close()
    tap.close()
    assert tap.read() == []
