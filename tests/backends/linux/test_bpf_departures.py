"""Which socket a packet in hand is from, as noted where it enters the device that it is read from."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.accuracy.arena import own_network
from tests.backends.linux.bpf_cgroup import own_cgroup
from tests.backends.linux.test_deaths import cookie_of
from tunowner.backends.linux.bpf.loader import OwnerMap, Reader
from tunowner.core.model import TCP, UDP, FlowKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

pytestmark = pytest.mark.root

LO = 1
FAMILIES = [
    (socket.AF_INET, "127.0.0.1", "127.0.0.9"),
    (socket.AF_INET6, "::1", "::1"),
]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with own_cgroup() as made, own_network():
        yield made


@pytest.fixture(params=[True, False], ids=["btf", "helpers"])
def owner_map(cgroup: Path, request: pytest.FixtureRequest) -> Iterator[OwnerMap]:
    with OwnerMap(cgroup, reads_tasks=request.param, interface=LO) as made:
        yield made


@pytest.fixture
def reader(owner_map: OwnerMap) -> Reader:
    return Reader(owner_map)


def flow_from(end: socket.socket, near: str, far: tuple[str, int]) -> FlowKey:
    protocol = TCP if end.type == socket.SOCK_STREAM else UDP
    packed = [socket.inet_pton(end.family, ip) for ip in (near, far[0])]
    return FlowKey(protocol, packed[0], end.getsockname()[1], packed[1], far[1])


@pytest.mark.parametrize(("family", "near", "far"), FAMILIES)
def test_a_datagram(reader: Reader, family: int, near: str, far: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as end:
        end.bind((near, 0))
        before = time.monotonic()
        flow = flow_from(end, near, (far, 9))
        assert reader.departed(flow, cookie_of(end)) == 0
        end.sendto(b"x", (far, 9))
        first = reader.departed(flow, cookie_of(end))
        assert reader.monotonic(before) <= first <= reader.monotonic(time.monotonic())
        end.sendto(b"x", (far, 9))
        assert reader.departed(flow, cookie_of(end)) > first
        assert reader.departed(flow._replace(remote_port=10), cookie_of(end)) == 0
        assert reader.departed(flow, cookie_of(end) + 1) == 0
        assert reader.departed_untold() == 0


@pytest.mark.parametrize(("family", "near", "far"), FAMILIES)
def test_a_connection(reader: Reader, family: int, near: str, far: str) -> None:
    with socket.create_server((far, 0), family=family) as server:
        address = server.getsockname()[:2]
        with socket.create_connection(address, source_address=(near, 0)) as end:
            assert reader.departed(flow_from(end, near, address), cookie_of(end)) > 0


def test_a_v4_mapped_socket_sends_ipv4(reader: Reader) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as end:
        end.connect(("::ffff:127.0.0.9", 9))
        end.send(b"x")
        loopback, far = (socket.inet_aton(ip) for ip in ("127.0.0.1", "127.0.0.9"))
        flow = FlowKey(UDP, loopback, end.getsockname()[1], far, 9)
        assert reader.departed(flow, cookie_of(end)) > 0


@pytest.mark.parametrize(("family", "near", "far"), FAMILIES)
def test_fragments(reader: Reader, family: int, near: str, far: str) -> None:
    """IPv4 tells the ports in the first; IPv6 has a header in between, which is not read."""
    subprocess.run(["ip", "link", "set", "lo", "mtu", "1500"], check=True)
    with socket.socket(family, socket.SOCK_DGRAM) as end:
        end.bind((near, 0))
        end.sendto(bytes(4000), (far, 9))
        flow = flow_from(end, near, (far, 9))
        whole = reader.departed(flow, cookie_of(end))
        assert (whole > 0, reader.departed_untold() > 0) == (
            family == socket.AF_INET,
            family == socket.AF_INET6,
        )


def test_a_packet_made_by_hand_is_another_sockets(reader: Reader) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as end,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        end.bind(("127.0.0.1", 0))
        flow = flow_from(end, "127.0.0.1", ("127.0.0.9", 9))
        ports = b"".join(port.to_bytes(2, "big") for port in (flow.local_port, 9, 9, 0))
        header = bytes((0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0)) + flow.local + flow.remote
        raw.sendto(header + ports + b"x", ("127.0.0.9", 0))
        assert reader.departed(flow, cookie_of(end)) == 0
        assert reader.departed(flow, cookie_of(raw)) > 0


def test_two_maps_on_one_device_and_nothing_left(cgroup: Path) -> None:
    with (
        OwnerMap(cgroup, interface=LO) as one,
        OwnerMap(cgroup, interface=LO) as two,
        socket.socket(type=socket.SOCK_DGRAM) as end,
    ):
        end.bind(("127.0.0.1", 0))
        end.sendto(b"x", ("127.0.0.9", 9))
        flow = flow_from(end, "127.0.0.1", ("127.0.0.9", 9))
        assert all(Reader(each).departed(flow, cookie_of(end)) for each in (one, two))
        assert listed().count("name leaves") == 2
        two.close()
        assert listed().count("name leaves") == 1
    assert "clsact" not in listed()


def listed() -> str:
    """Return what tc(8) says of the device."""
    commands = (
        ["tc", "qdisc", "show", "dev", "lo"],
        ["tc", "filter", "show", "dev", "lo", "egress"],
    )
    done = [subprocess.run(it, capture_output=True, text=True, check=False) for it in commands]
    return "".join(it.stdout for it in done)


@pytest.mark.parametrize("interface", [0, 4242])
def test_without_a_device_nothing_is_known(cgroup: Path, interface: int) -> None:
    with OwnerMap(cgroup, interface=interface) as owner_map:
        assert not Reader(owner_map).sees_departures
