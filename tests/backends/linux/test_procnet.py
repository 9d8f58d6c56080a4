"""Ping and raw sockets, which only /proc/net tells of."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from tests.accuracy.arena import own_network
from tests.accuracy.stage import command
from tests.backends.owner_contract import ask
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.core.model import FlowKey, Grade

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

pytestmark = pytest.mark.root

ICMP, OTHER = socket.IPPROTO_ICMP, 253
HERE, FAR = (socket.inet_aton(ip) for ip in ("127.0.0.1", "127.0.0.9"))


@pytest.fixture
def source() -> Iterator[LinuxOwners]:
    with own_network():
        command("sysctl", "-q", "-w", "net.ipv4.ping_group_range=0 0")
        with LinuxOwners() as made:
            yield made


def ping_socket(local: str = "") -> tuple[socket.socket, FlowKey]:
    ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, ICMP)
    ping.bind((local, 0))
    return ping, FlowKey(ICMP, HERE, ping.getsockname()[1], FAR, 0)


@pytest.mark.parametrize("local", ["", "127.0.0.1"])
def test_a_ping_socket_has_no_cookie_to_tell(source: LinuxOwners, local: str) -> None:
    ping, flow = ping_socket(local)
    with ping:
        for _ in range(2):
            owner = ask(source, flow)
            assert (owner.grade, owner.cookie, owner.uid) == (Grade.WILDCARD, None, 0)
            assert [process.pid for process in owner.candidates] == [os.getpid()]
        assert ask(source, flow._replace(local_port=flow.local_port ^ 1)).grade == Grade.ABSENT
        assert ask(source, flow._replace(local=FAR)).grade == (
            Grade.ABSENT if local else Grade.WILDCARD
        )
    assert ask(source, flow).grade == Grade.ABSENT


def test_a_ping_socket_connected_elsewhere(source: LinuxOwners) -> None:
    ping, flow = ping_socket()
    with ping:
        ping.connect(("127.0.0.8", 0))
        assert ask(source, flow._replace(local_port=ping.getsockname()[1])).grade == Grade.ABSENT


def test_icmp_by_a_raw_socket_may_be_the_kernels(source: LinuxOwners) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, ICMP):
        owner = ask(source, FlowKey(ICMP, HERE, 7, FAR, 0))
        assert (owner.grade, owner.process) == (Grade.AMBIGUOUS, None)
        assert [process.pid for process in owner.candidates] == [os.getpid()]


def test_another_protocol_is_the_one_raw_sockets(source: LinuxOwners) -> None:
    flow = FlowKey(OTHER, HERE, 0, FAR, 0)
    assert ask(source, flow).grade == Grade.ABSENT
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, OTHER):
        owner = ask(source, flow)
        assert owner.process is not None
        assert (owner.grade, owner.process.pid) == (Grade.WILDCARD, os.getpid())
        assert ask(source, flow._replace(protocol=OTHER - 1)).grade == Grade.ABSENT
