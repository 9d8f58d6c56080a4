"""Flows that are neither TCP nor UDP, or come from neither: ping and raw sockets, MPTCP."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.accuracy.model import Must, Scenarios, Unavailable
from tests.accuracy.stage import ask, command
from tests.backends.linux.children import packed
from tunowner.backends.linux.bpf.loader import cgroup_root
from tunowner.core.model import TCP, UDP, FlowKey, Grade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.model import Question
    from tests.accuracy.stage import Stage

scenario = Scenarios()

ICMP, ICMPV6 = socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6
AMBIGUOUS = frozenset({Grade.AMBIGUOUS})
HERE, FAR = packed("127.0.0.1"), packed("127.0.0.9")


@scenario("ICMP: ping socket", root=True)
def _(on: Stage) -> Iterator[Question]:
    command("sysctl", "-q", "-w", "net.ipv4.ping_group_range=0 0")
    code = """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)
s.sendto(bytes((8, 0, 0, 0, 0, 0, 0, 1)), ('127.0.0.9', 0)); tell(id=s.getsockname()[1]); wait()"""
    pinger = on.start(code)
    flow = FlowKey(ICMP, HERE, pinger.said["id"], FAR, 0)
    yield ask(flow, pinger)
    on.start("s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); tell(); wait()")
    yield ask(flow, pinger, must=Must.NOBODY, grades=AMBIGUOUS)  # that one could have sent it


@scenario("ICMPv6: ping socket", root=True)
def _(on: Stage) -> Iterator[Question]:
    command("sysctl", "-q", "-w", "net.ipv4.ping_group_range=0 0")
    code = """
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, 58)
s.sendto(bytes((128, 0, 0, 0, 0, 0, 0, 1)), ('::1', 0)); tell(id=s.getsockname()[1]); wait()"""
    pinger = on.start(code)
    on.start(code, program=on.other())
    yield ask(FlowKey(ICMPV6, packed("::1"), pinger.said["id"], packed("::1"), 0), pinger)
    yield ask(FlowKey(ICMPV6, packed("::1"), 0, packed("::1"), 0))


@scenario("ICMP: ping by a raw socket", root=True)
def _(on: Stage) -> Iterator[Question]:
    """The identifier is in the packet only, so any raw socket may have sent it, or the kernel."""
    code = """
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
s.sendto(bytes((8, 0, 0xf7, 0xcb, 0, 77, 0, 1)), ('127.0.0.9', 0)); tell(); wait()"""
    pinger = on.start(code)
    yield ask(FlowKey(ICMP, HERE, 77, FAR, 0), pinger, must=Must.NOBODY, grades=AMBIGUOUS)


@scenario("ICMP: the kernel's own errors", root=True)
def _(on: Stage) -> Iterator[Question]:
    """Nobody sends "port unreachable", though a program listens to ICMP."""
    on.start("s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); tell(); wait()")
    on.start("s = udp(); send(s, ['127.0.0.9', 9]); tell(s); wait()")
    yield ask(FlowKey(ICMP, FAR, 0, HERE, 0), must=Must.NOBODY)


@scenario("raw socket: its own protocol", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = """
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253); s.sendto(b'x', ('127.0.0.9', 0))
tell(); wait()"""
    sender = on.start(code)
    yield ask(FlowKey(253, HERE, 0, FAR, 0), sender)
    on.start("s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255); tell(); wait()")
    yield ask(FlowKey(253, HERE, 0, FAR, 0), sender, must=Must.NOBODY, grades=AMBIGUOUS)


@scenario("raw socket over IPv6", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = """
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 253); s.sendto(b'x', ('::1', 0))
tell(); wait()"""
    sender = on.start(code)
    yield ask(FlowKey(253, packed("::1"), 0, packed("::1"), 0), sender)
    yield ask(FlowKey(253, HERE, 0, FAR, 0))


@scenario("raw socket: a UDP datagram made by hand", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = """
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255); h, p = SINK; port = 777
udp_part = port.to_bytes(2, 'big') + p.to_bytes(2, 'big') + bytes((0, 9, 0, 0)) + b'x'
ip = bytes((0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0)) + socket.inet_aton('127.0.0.1')
s.sendto(ip + socket.inet_aton(h) + udp_part, (h, 0)); tell(port=port); wait()"""
    sender = on.start(code)
    flow = FlowKey(UDP, HERE, sender.said["port"], packed(on.sink[0]), on.sink[1])
    yield ask(flow, sender, must=Must.NOBODY)


@scenario("MPTCP")
def _(on: Stage) -> Iterator[Question]:
    code = """
a, = arguments()
try: s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
except OSError as e: tell(unavailable=e.strerror); wait(); sys.exit()
s.connect(tuple(a)); tell(local=s.getsockname()); wait()"""
    remote = on.server()
    client = on.start(code, remote)
    if "unavailable" in client.said:
        raise Unavailable(f"MPTCP: {client.said['unavailable']}")
    local = client.said["local"]
    flow = FlowKey(TCP, packed(local[0]), local[1], packed(remote[0]), remote[1])
    yield ask(flow, client)


@scenario("the kernel's own socket (VXLAN)", root=True)
def _(on: Stage) -> Iterator[Question]:
    """Nobody has it open."""
    add = ("ip", "link", "add", "tuo-acc-x0", "type", "vxlan", "id", "7", "dev", "lo")
    try:
        command(*add, "dstport", "4789")
    except AssertionError as error:
        raise Unavailable(str(error)) from error
    on.defer(command, "ip", "link", "del", "tuo-acc-x0")
    command("ip", "link", "set", "tuo-acc-x0", "up")
    must = Must.ALL if _all_can_be_read() else Must.NOBODY  # one of them may have it
    yield ask(FlowKey(UDP, HERE, 4789, FAR, 4789), must=must)


def _all_can_be_read() -> bool:
    """Whether we may see the descriptors of all processes. Some have capabilities that we lack."""
    try:
        for table in Path("/proc").glob("[0-9]*/fd"):
            with suppress(FileNotFoundError, ProcessLookupError):
                for link in table.iterdir():
                    link.readlink()
    except PermissionError:
        return False
    return True


@scenario("made before the hooks were there", root=True)
def _(on: Stage) -> Iterator[Question]:
    """The sockets of another cgroup are not seen by our hooks, as those older than the hooks."""
    code = """
a, = arguments(); tell(); wait(); s = tcp(a); u = udp(); send(u); c = udp(None, SINK)
tell(s, u, c); wait()"""
    actor = on.start(code, on.server())
    (cgroup_root() / "cgroup.procs").write_text(str(actor.child.pid))
    actor.go()
    for truth in actor.sockets:
        yield on.asks(truth, actor)


@scenario("multicast sender bound to its group")
def _(on: Stage) -> Iterator[Question]:
    """Such a socket sends from the address that routing chooses, not from the group."""
    code = """
s = udp(['239.255.7.7', 0]); s.setsockopt(0, 32, socket.inet_aton('127.0.0.1'))
send(s); tell(s); wait()"""
    sender = on.start(code)
    flow = sender.sockets[0].flow("127.0.0.1", on.sink)
    yield ask(flow, sender, must=Must.EBPF)
