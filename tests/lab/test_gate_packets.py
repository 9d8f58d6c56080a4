"""Odd traffic: what is ours arrives whole, and what is none of our business is left alone."""

from __future__ import annotations

import random
import re
import socket
import struct
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.lab.topology import (
    BY_ETH,
    BY_VPN,
    CLIENT4,
    CLIENT6,
    ETH,
    SERVICE4,
    SERVICE6,
    VPN,
)
from tests.lab.wait import wait_until
from tests.lab.world import ECHO_PORT, OTHER_ECHO_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.world import World

pytestmark = pytest.mark.root

RULES = f"""
version: 1
outbounds: {{ vpn: {{ type: interface, name: vpn0 }} }}
rules: [ {{ name: by-vpn, match: {{ port: {OTHER_ECHO_PORT} }}, action: vpn }} ]
"""
BLOCK_ALL = """
version: 1
rules: [ { name: all, match: any, action: block } ]
"""
TARGETS = [SERVICE4, SERVICE6]
PORTS = {"direct": ECHO_PORT, "via": OTHER_ECHO_PORT}
families = pytest.mark.parametrize("target", TARGETS)
ways = pytest.mark.parametrize("way", list(PORTS))

SO_MARK, SOL_UDP, UDP_SEGMENT, MSG_FASTOPEN = 36, 17, 103, 0x20000000
IPV6_HOPOPTS, IPV6_DSTOPTS = 54, 59
NOTHING_BUT_PADDING = bytes([0, 0, 1, 4, 0, 0, 0, 0])
"""A hop-by-hop or destination options header with one PadN option (RFC 8200, 4.2)."""
GATE_MARK = 0x01000000
Option = tuple[int, int, int | bytes]


def family(target: str) -> int:
    return socket.AF_INET6 if ":" in target else socket.AF_INET


def open_socket(kind: int, target: str, *options: Option) -> socket.socket:
    it = socket.socket(family(target), kind)
    it.settimeout(3)
    for level, name, value in options:
        it.setsockopt(level, name, value)
    return it


def receive_all(it: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := it.recv(1 << 16)):
        data += more
    return bytes(data)


def udp_echo(target: str, port: int, payload: bytes, *options: Option, messages: int = 1) -> str:
    """Send and receive datagrams on one flow; return the address that the server saw."""
    with open_socket(socket.SOCK_DGRAM, target, *options) as it:
        it.connect((target, port))
        for _ in range(messages):
            it.send(payload)
            peer, _, echoed = it.recv(65535).partition(b"\n")
            assert echoed == payload
    return peer.split()[0].decode()


def tcp_echo(target: str, port: int, payload: bytes, *options: Option) -> str:
    with open_socket(socket.SOCK_STREAM, target, *options) as it:
        it.connect((target, port))
        peer = it.makefile("rb", buffering=0).readline()
        it.sendall(payload)
        assert receive_all(it, len(payload)) == payload
    return peer.split()[0].decode()


VPN_ROUTES = """
ip route replace 198.51.100.0/24 via 10.255.0.2 {mtu}
ip -6 route replace 2001:db8:2::/64 via fd00:255::2 {mtu}
ip route flush cache
ip -6 route flush cache
"""


@contextmanager
def small_vpn(world: World, mtu: int = 1280) -> Iterator[None]:
    """Give the VPN's link a small MTU at both ends, and let the servers know of it.

    Their answers would else be lost until an ICMP error has told them.
    """
    ends = ((world.client, VPN), (world.vpn, "from-client"))
    for namespace, device in ends:
        namespace.sh(f"ip link set {device} mtu {mtu}")
    world.internet.sh(VPN_ROUTES.format(mtu=f"mtu {mtu}"))
    try:
        yield
    finally:
        world.internet.sh(VPN_ROUTES.format(mtu=""))
        for namespace, device in ends:
            namespace.sh(f"ip link set {device} mtu 1500")


def came_by(world: World, way: str) -> None:
    """The flows to this way's port came by its link and by no other."""
    link, other = (BY_ETH, BY_VPN) if way == "direct" else (BY_VPN, BY_ETH)
    assert world.arrivals.packets(link=link, port=PORTS[way])
    world.arrivals.assert_none(link=other, port=PORTS[way])


@ways
@families
@pytest.mark.parametrize("mtu", [1500, 1280])
def test_large_first_datagram(world: World, target: str, way: str, mtu: int) -> None:
    with small_vpn(world, mtu):
        engine = world.engine(RULES)
        sizes = (1400, 2000, 9000, 60_000)
        for size in sizes:
            payload = random.Random(size).randbytes(size)
            world.client.call(udp_echo, target, PORTS[way], payload)
        assert [seen.to for seen in world.seen(proto="udp")] == [target] * len(sizes)
        came_by(world, way)
        assert world.client.tun_packets() == len(sizes)
        assert engine.stop() == 0


@ways
@families
def test_large_datagrams_of_a_known_flow(world: World, target: str, way: str) -> None:
    """With the small MTU the program's own route allows more than the outbound carries."""
    with small_vpn(world, 1280):
        world.engine(RULES)
        world.client.call(lambda: udp_echo(target, PORTS[way], bytes(1400), messages=3))
        came_by(world, way)


@families
def test_jumbo_frames(world: World, target: str) -> None:
    ends = ((world.client, ETH), (world.internet, BY_ETH))
    for namespace, device in ends:
        namespace.sh(f"ip link set {device} mtu 9000")
    try:
        engine = world.engine(RULES)
        for size in (2000, 8900, 9000, 60_000):
            world.client.call(udp_echo, target, ECHO_PORT, bytes(size))
        world.client.call(tcp_echo, target, ECHO_PORT, bytes(1 << 20))
        assert world.client.tun_packets() == 5
        assert engine.stop() == 0
    finally:
        for namespace, device in ends:
            namespace.sh(f"ip link set {device} mtu 1500")


@ways
@pytest.mark.parametrize("echo", [udp_echo, tcp_echo])
def test_ipv4_options(world: World, way: str, echo: Callable[..., str]) -> None:
    world.engine(RULES)
    record_route = bytes([1, 7, 7, 4, 0, 0, 0, 0])  # no-operation, RFC 791 record route
    option = (socket.IPPROTO_IP, socket.IP_OPTIONS, record_route)
    world.client.call(echo, SERVICE4, PORTS[way], b"x" * 100, option)
    came_by(world, way)
    assert world.client.tun_packets() == 1


@ways
@pytest.mark.parametrize("header", [IPV6_HOPOPTS, IPV6_DSTOPTS])
@pytest.mark.parametrize("echo", [udp_echo, tcp_echo])
def test_ipv6_extension_headers(
    world: World, way: str, header: int, echo: Callable[..., str]
) -> None:
    world.engine(RULES)
    option = (socket.IPPROTO_IPV6, header, NOTHING_BUT_PADDING)
    world.client.call(echo, SERVICE6, PORTS[way], b"x" * 100, option)
    came_by(world, way)
    assert world.client.tun_packets() == 1


@pytest.fixture
def fast_open(world: World) -> Iterator[None]:
    """Let clients put data into a SYN without a cookie (tcp_fastopen, ip-sysctl.rst)."""
    before = world.client.sysctl("net.ipv4.tcp_fastopen", 5)
    yield
    world.client.sysctl("net.ipv4.tcp_fastopen", before)


def fast_open_echo(target: str, port: int) -> None:
    with open_socket(socket.SOCK_STREAM, target) as it:
        it.sendto(b"early", MSG_FASTOPEN, (target, port))
        assert b"\n" in it.makefile("rb", buffering=0).readline()
        assert receive_all(it, 5) == b"early"


@ways
@families
def test_data_in_a_syn(world: World, fast_open: None, target: str, way: str) -> None:
    world.engine(RULES)
    world.client.call(fast_open_echo, target, PORTS[way])
    came_by(world, way)
    assert world.client.tun_packets() == 1
    # With five bytes of data in it a SYN has no length that is a multiple of four.
    assert world.client.link_stats("tunowner0")["tx"]["bytes"] % 4 == 1


def gso_echo(target: str, port: int) -> list[bytes]:
    with open_socket(socket.SOCK_DGRAM, target, (SOL_UDP, UDP_SEGMENT, 1000)) as it:
        it.connect((target, port))
        it.send(b"a" * 1000 + b"b" * 1000 + b"c" * 500)
        return sorted(it.recv(65535).partition(b"\n")[2] for _ in range(3))


@ways
@families
def test_segments_by_gso(world: World, target: str, way: str) -> None:
    engine = world.engine(RULES)
    echoed = world.client.call(gso_echo, target, PORTS[way])
    assert echoed == [b"a" * 1000, b"b" * 1000, b"c" * 500]
    came_by(world, way)
    assert engine.stop() == 0
    assert len(engine.matching(event="open")) == 1


def fragments(target: str, port: int, source_port: int) -> list[bytes]:
    """A datagram of 3,000 bytes as an application with a raw socket would cut it."""
    from scapy.layers.inet import IP, UDP, fragment
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
    from scapy.packet import Raw

    datagram = UDP(sport=source_port, dport=port) / Raw(bytes(3000))
    if ":" in target:
        whole = IPv6(src=CLIENT6, dst=target) / IPv6ExtHdrFragment(id=source_port) / datagram
        parts = fragment6(whole, 1400)
    else:
        parts = fragment(IP(src=CLIENT4, dst=target, id=source_port) / datagram, 1400)
    return [bytes(part) for part in parts]


def send_raw(packets: list[bytes], target: str, *options: Option) -> int:
    """Send packets as they stand; return how many the kernel took."""
    taken = 0
    with socket.socket(family(target), socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for level, name, value in options:
            raw.setsockopt(level, name, value)
        for packet in packets:
            try:
                raw.sendto(packet, (target, 0))
                taken += 1
            except OSError:
                pass
    return taken


def send_fragments(target: str, port: int, source_port: int, step: int) -> None:
    parts = fragments(target, port, source_port)[::step]
    assert len(parts) == 3
    assert send_raw(parts, target) == 3


@families
@pytest.mark.parametrize("step", [1, -1])
@ways
def test_fragments_of_a_raw_socket(world: World, target: str, step: int, way: str) -> None:
    engine = world.engine(RULES)
    source_port = 30_001 + 10 * step + (way == "via")  # also the datagram's number

    def bound() -> socket.socket:
        it = open_socket(socket.SOCK_DGRAM, target)
        it.bind(("", source_port))
        return it

    with world.client.call(bound):
        world.client.call(send_fragments, target, PORTS[way], source_port, step)
        wait_until(lambda: world.seen(proto="udp", peer_port=source_port), "the datagram", 3)
        came_by(world, way)
    assert engine.stop() == 0
    assert len(engine.matching(event="open")) == 1


def sent_to(world: World, protocol: int, target: str, payload: bytes) -> bytes:
    """Send an IP packet of any protocol; return what the internet got of it."""

    def listening() -> socket.socket:
        it = socket.socket(family(target), socket.SOCK_RAW, protocol)
        it.settimeout(3)
        return it

    def send() -> None:
        with socket.socket(family(target), socket.SOCK_RAW, protocol) as it:
            it.sendto(payload, (target, 0))

    with world.internet.call(listening) as receiver:
        world.client.call(send)
        return receiver.recv(1000)


@families
@pytest.mark.parametrize("protocol", [47, 132, 253])
def test_other_protocols_are_not_touched(world: World, target: str, protocol: int) -> None:
    world.engine(BLOCK_ALL)
    payload = bytes(40) if protocol != 132 else struct.pack("!HHII", 1, 2, 0, 0) + bytes(20)
    assert sent_to(world, protocol, target, payload).endswith(payload)
    assert world.client.tun_packets() == 0


@families
def test_ping_is_not_touched(world: World, target: str) -> None:
    world.engine(BLOCK_ALL)
    is_v6 = ":" in target
    kind = 128 if is_v6 else 8
    protocol = socket.IPPROTO_ICMPV6 if is_v6 else socket.IPPROTO_ICMP
    head = struct.pack("!BBHHH", kind, 0, 0, 7, 7)
    checksum = 0xFFFF - sum(struct.unpack("!4H", head))
    request = struct.pack("!BBHHH", kind, 0, checksum, 7, 7)

    def ping() -> bytes:
        with socket.socket(family(target), socket.SOCK_RAW, protocol) as it:
            it.settimeout(3)
            it.sendto(request, (target, 0))
            while True:
                reply = it.recv(1000)[0 if is_v6 else 20 :]
                if reply[0] == (129 if is_v6 else 0):
                    return reply

    assert world.client.call(ping)[4:8] == request[4:8]
    assert world.client.tun_packets() == 0


def garbage(dice: random.Random) -> Iterator[tuple[bytes, str]]:
    """Packets with a sound beginning, since the kernel checks that, and nonsense after it."""
    while True:
        protocol, size = dice.choice([6, 17, 17, 6, 1, 250]), dice.randrange(60)
        body = dice.randbytes(size)
        if dice.random() < 0.5:
            length, offset = 20 + size, dice.choice([0, 0, 0, 0x2000, 0x0010])
            address = socket.inet_aton(CLIENT4) + socket.inet_aton(SERVICE4)
            head = struct.pack("!BBHHHBBH", 0x45, 0, length, 7, offset, 64, protocol, 0)
            yield head + address + body, SERVICE4
        else:
            header = dice.choice([protocol, protocol, 0, 43, 44, 51, 60, 135])
            ends = (CLIENT6, SERVICE6)
            address = b"".join(socket.inet_pton(socket.AF_INET6, end) for end in ends)
            length = dice.choice([size, size, size + 9, 0, 65535])
            yield struct.pack("!IHBB", 0x60000000, length, header, 64) + address + body, SERVICE6


def test_garbage_in_the_device(world: World) -> None:
    engine = world.engine(RULES)
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    source = garbage(random.Random(seed))
    mark = (socket.SOL_SOCKET, SO_MARK, GATE_MARK)
    for _ in range(400):
        packet, target = next(source)
        world.client.call(send_raw, [packet], target, mark)
    world.client.call(udp_echo, SERVICE4, ECHO_PORT, b"still there")
    assert engine.process.poll() is None
    read = world.client.tun_packets()
    assert engine.stop() == 0
    assert engine.stderr == ""
    counters = engine.stopped["statistics"]
    assert counters["packets"] == read
    assert min(counters[it] for it in ("malformed", "other_protocol", "stray_fragments")) > 0


def local_traffic(link_local: str, index: int) -> None:
    v4 = [("127.0.0.1", 7101), ("169.254.9.9", 7102), ("224.0.0.251", 7103)]
    v4 += [("255.255.255.255", 7104), ("192.0.2.255", 7105), (CLIENT4, 7106)]
    v6 = [("::1", 7111, 0, 0), (link_local, 7112, 0, index), ("ff02::fb", 7113, 0, index)]
    v6 += [(CLIENT6, 7114, 0, 0)]
    with closing(open_socket(socket.SOCK_DGRAM, SERVICE4)) as it:
        it.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for address in v4:
            it.sendto(b"x", address)
    with closing(open_socket(socket.SOCK_DGRAM, SERVICE6)) as it:
        for address6 in v6:
            it.sendto(b"x", address6)
    for host in ("127.0.0.1", "::1", CLIENT4, CLIENT6):
        with open_socket(socket.SOCK_STREAM, host) as it, open_socket(1, host) as listener:
            listener.bind((host, 0))
            listener.listen()
            it.connect((host, listener.getsockname()[1]))


def link_local_of(world: World) -> str:
    """The address of the other end of eth0 that IPv6 gives every link."""
    listed = world.internet.json("ip", "-j", "-6", "addr", "show", BY_ETH, "scope", "link")
    return str(next(it["local"] for it in listed[0]["addr_info"] if it))


def test_local_traffic_is_not_touched(world: World) -> None:
    world.engine(BLOCK_ALL)
    world.client.sh(f"ip route add 169.254.0.0/16 dev {ETH}")
    world.client.sh(f"ip neigh add 169.254.9.9 lladdr 02:00:00:00:00:09 dev {ETH}")
    try:
        index = world.client.json("ip", "-j", "link", "show", ETH)[0]["ifindex"]
        world.client.call(local_traffic, link_local_of(world), index)
        wait_until(lambda: world.arrivals.packets(port=7113), "the last to arrive")
        for port in (7103, 7104, 7105, 7112):
            assert world.arrivals.packets(link=BY_ETH, port=port) == 1, port
        assert world.client.tun_packets() == 0
    finally:
        world.client.sh(f"ip route del 169.254.0.0/16 dev {ETH}; ip neigh flush dev {ETH}")


@families
def test_servers_in_the_client_answer(world: World, target: str) -> None:
    """Connections from outside are not ours, under any rule."""
    world.engine(BLOCK_ALL)
    address = CLIENT6 if ":" in target else CLIENT4

    def listening() -> tuple[socket.socket, socket.socket]:
        tcp = open_socket(socket.SOCK_STREAM, address)
        tcp.bind((address, 7200))
        tcp.listen()
        udp = open_socket(socket.SOCK_DGRAM, address)
        udp.bind((address, 7200))
        return tcp, udp

    def connected() -> tuple[socket.socket, socket.socket]:
        tcp = open_socket(socket.SOCK_STREAM, address)
        tcp.connect((address, 7200))
        udp = open_socket(socket.SOCK_DGRAM, address)
        udp.connect((address, 7200))
        udp.send(b"question")
        return tcp, udp

    with ExitStack() as stack:
        tcp, udp = (stack.enter_context(it) for it in world.client.call(listening))
        far_tcp, far_udp = (stack.enter_context(it) for it in world.internet.call(connected))
        near = stack.enter_context(tcp.accept()[0])
        near.settimeout(3)
        near.sendall(b"x" * 100_000)
        assert receive_all(far_tcp, 100_000) == b"x" * 100_000
        question, peer = udp.recvfrom(100)
        udp.sendto(question, peer)
        assert far_udp.recv(100) == b"question"
        assert world.client.tun_packets() == 0


@families
def test_connections_older_than_the_engine_go_on(world: World, target: str) -> None:
    def connected() -> socket.socket:
        it = open_socket(socket.SOCK_STREAM, target)
        it.connect((target, ECHO_PORT))
        return it

    with world.client.call(connected) as it:
        assert it.recv(100)
        world.engine(BLOCK_ALL)
        for _ in range(3):
            it.sendall(b"x" * 10_000)
            assert receive_all(it, 10_000) == b"x" * 10_000
        assert world.client.tun_packets() == 0


@families
@pytest.mark.parametrize("echo", [udp_echo, tcp_echo])
def test_foreign_marks_are_not_touched(world: World, target: str, echo: Callable[..., str]) -> None:
    """wg-quick gives its own packets this mark, so that they do not go into the tunnel."""
    world.engine(BLOCK_ALL)
    mark = (socket.SOL_SOCKET, SO_MARK, 0xCA6C)
    world.client.call(echo, target, ECHO_PORT, b"x" * 100, mark)
    assert world.client.tun_packets() == 0


def server_mss(world: World, port: int) -> int:
    """The size of the segments that the server sends on its one connection to this port."""
    listed = world.internet.sh(f"ss -Htin state established '( sport = :{port} )'")
    (size,) = re.findall(r"\bmss:(\d+)", listed)
    return int(size)


@contextmanager
def black_hole(world: World) -> Iterator[None]:
    """Lose the ICMP errors that tell of a packet too big, as many networks do."""
    rules = """
    table inet hole { chain out { type filter hook output priority 0
      icmp type destination-unreachable drop
      icmpv6 type packet-too-big drop
    }; }
    """
    world.vpn.run(["nft", "-f", "-"], stdin=rules)
    try:
        yield
    finally:
        world.vpn.sh("nft delete table inet hole")


def transfer(target: str, port: int) -> tuple[socket.socket, int]:
    """Send 1 MiB there and back; return the connection and the size of its segments."""
    sent = random.Random(1).randbytes(1 << 20)
    it = open_socket(socket.SOCK_STREAM, target)
    it.connect((target, port))
    assert it.makefile("rb", buffering=0).readline()
    size = it.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    for start in range(0, len(sent), 1 << 16):
        chunk = sent[start : start + (1 << 16)]
        it.sendall(chunk)
        assert receive_all(it, len(chunk)) == chunk
    return it, size


@families
@pytest.mark.parametrize("mtu", [1500, 1280])
def test_segments_fit_the_outbound(world: World, target: str, mtu: int) -> None:
    headers = (60 if ":" in target else 40) + 12  # IP, TCP, its timestamps
    with small_vpn(world, mtu), black_hole(world):
        world.internet.sh(VPN_ROUTES.format(mtu=""))  # what it knows, it knows from the SYN
        world.engine(RULES)
        connection, client_mss = world.client.call(transfer, target, OTHER_ECHO_PORT)
        with connection:
            assert server_mss(world, OTHER_ECHO_PORT) == mtu - headers
            assert client_mss == mtu - headers
        world.arrivals.assert_none(link=BY_ETH)
