"""UDP: bound, connected, to any address, sharing a port. Every datagram asked about was sent."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from tests.accuracy.model import Must, Scenarios
from tests.accuracy.stage import ask, command
from tunowner.core.model import Grade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.model import Question
    from tests.accuracy.stage import Actor, Stage

scenario = Scenarios()

SENDS = "l, = arguments(); s = udp(l); send(s); tell(s); wait()"
CONNECTS = "l, r = arguments(); s = udp(l, r, reuse=REUSE); s.send(b'x'); tell(s); wait()"
SHARES = """
l, = arguments(); s = udp(l, reuse=REUSE); tell(s)
to = json.loads(wait()); send(s, to); tell(s); wait()"""
SIX = "socket.AF_INET6"
AMBIGUOUS = frozenset({Grade.AMBIGUOUS})
ANY = ("", 0)
HERE = ("127.0.0.1", 0)


@scenario("UDP bound to an address")
def _(on: Stage) -> Iterator[Question]:
    sender = on.start(SENDS, HERE)
    yield on.asks(sender.sockets[0], sender)


@scenario("UDP bound to the wildcard")
def _(on: Stage) -> Iterator[Question]:
    sender = on.start(SENDS, ANY)
    yield on.asks(sender.sockets[0], sender)


@scenario("UDP never bound")
def _(on: Stage) -> Iterator[Question]:
    sender = on.start(SENDS, None)
    yield on.asks(sender.sockets[0], sender)


@scenario("UDP connected")
def _(on: Stage) -> Iterator[Question]:
    sender = on.start(CONNECTS, None, on.sink)
    yield on.asks(sender.sockets[0], sender)


@scenario("UDP over IPv6")
def _(on: Stage) -> Iterator[Question]:
    for local in (["::1", 0], ["::", 0]):
        code = f"l, = arguments(); s = udp(l, None, {SIX}); send(s, SINK6); tell(s); wait()"
        sender = on.start(code, local)
        yield on.asks(sender.sockets[0], sender, local="::1")


@scenario("UDP over IPv6, connected")
def _(on: Stage) -> Iterator[Question]:
    code = f"s = udp(None, SINK6, {SIX}); s.send(b'x'); tell(s); wait()"
    sender = on.start(code)
    yield on.asks(sender.sockets[0], sender)


@scenario("UDP v4-mapped, connected")
def _(on: Stage) -> Iterator[Question]:
    code = f"s = udp(None, ['::ffff:' + SINK[0], SINK[1]], {SIX}); s.send(b'x'); tell(s); wait()"
    sender = on.start(code)
    yield on.asks(sender.sockets[0], sender)


@scenario("UDP dual-stack, sends IPv4")
def _(on: Stage) -> Iterator[Question]:
    code = f"""
s = udp(['::', 0], None, {SIX}, v6only=0); send(s, ['::ffff:' + SINK[0], SINK[1]])
tell(s); wait()"""
    sender = on.start(code)
    yield on.asks(sender.sockets[0], sender, local="127.0.0.1")


@scenario("UDP v6only beside IPv4 on one port")
def _(on: Stage) -> Iterator[Question]:
    code = f"s = udp(['::', 0], None, {SIX}, v6only=1); send(s, SINK6); tell(s); wait()"
    six = on.start(code)
    port = six.sockets[0].local[1]
    yield ask(six.sockets[0].flow("127.0.0.1", on.sink))
    four = on.start(SENDS, ("0.0.0.0", port), program=on.other())
    yield on.asks(four.sockets[0], four)
    yield on.asks(six.sockets[0], six, local="::1")


@scenario("UDP, one port and two addresses")
def _(on: Stage) -> Iterator[Question]:
    one = on.start(SENDS, ("127.0.0.2", 0))
    two = on.start(SENDS, ("127.0.0.3", one.sockets[0].local[1]), program=on.other())
    for sender in (one, two):
        yield on.asks(sender.sockets[0], sender)
    yield on.asks(two.sockets[0], local="127.0.0.4")


@scenario("UDP connected and unconnected on one port")
def _(on: Stage) -> Iterator[Question]:
    plain = on.start(SHARES, HERE)
    others = [
        on.start(CONNECTS, plain.sockets[0].local, ("127.0.0.9", port), program=on.other())
        for port in (7, 8)
    ]
    for sender in others:
        yield on.asks(sender.sockets[0], sender)
    yield on.asks(plain.go(on.sink), plain)


@scenario("UDP, one source and two remotes")
def _(on: Stage) -> Iterator[Question]:
    one = on.start(CONNECTS, HERE, on.sink)
    two = on.start(CONNECTS, one.sockets[0].local, ("127.0.0.8", 9), program=on.other())
    for sender in (one, two):
        yield on.asks(sender.sockets[0], sender)


@scenario("UDP connected alike, two programs")
def _(on: Stage) -> Iterator[Question]:
    """The kernel's exact answer is one of the two, whichever sent the datagram."""
    one = on.start(CONNECTS, HERE, on.sink)
    two = on.start(CONNECTS, one.sockets[0].local, on.sink, program=on.other())
    yield on.asks(two.sockets[0], one, two, must=Must.NOBODY, grades=AMBIGUOUS)
    one.end()
    yield on.asks(two.sockets[0], two, must=Must.PLAIN)


@scenario("UDP connected alike, each sends")
def _(on: Stage) -> Iterator[Question]:
    code = CONNECTS.replace(
        "s.send(b'x'); tell(s); wait()", "tell(s)\nwhile wait(): s.send(b'x'); tell(s)"
    )
    one = on.start(code, HERE, on.sink)
    two = on.start(code, one.sockets[0].local, on.sink, program=on.other())
    for sender in (one, two, one):
        before = time.monotonic()
        yield on.asks(sender.go("x"), sender, must=Must.EBPF, grades=AMBIGUOUS, since=before)


@scenario("UDP connected alike, one program twice")
def _(on: Stage) -> Iterator[Question]:
    code = """
r, = arguments(); s = udp(['127.0.0.1', 0], r, reuse=REUSE); t = udp(s.getsockname(), r, reuse=REUSE)
s.send(b'x'); tell(s); wait()"""
    sender = on.start(code, on.sink)
    yield on.asks(sender.sockets[0], sender)


@scenario("UDP SO_REUSEPORT, two programs")
def _(on: Stage) -> Iterator[Question]:
    one = on.start(SHARES, HERE)
    two = on.start(SHARES, one.sockets[0].local, program=on.other())
    yield from _each_sends(on, two, one)


@scenario("UDP SO_REUSEPORT, one program twice")
def _(on: Stage) -> Iterator[Question]:
    """One executable, user and command line: either process stands for the program."""
    port = on.start(SHARES, HERE).sockets[0].local[1]
    two = [on.start(SHARES, ("127.0.0.2", port)) for _ in range(2)]
    two[0].go(on.sink)
    yield on.asks(two[0].sockets[0], *two)


@scenario("UDP wildcard beside a bound socket")
def _(on: Stage) -> Iterator[Question]:
    bound = on.start(SHARES, HERE)
    wild = on.start(SHARES, ("", bound.sockets[0].local[1]), program=on.other())
    yield from _each_sends(on, wild, bound)


@scenario("UDP dual-stack beside IPv4, both to any")
def _(on: Stage) -> Iterator[Question]:
    four = on.start(SHARES, ANY)
    code = f"""
l, = arguments(); s = udp(l, None, {SIX}, v6only=0, reuse=REUSE); tell(s)
host, port = json.loads(wait()); send(s, ['::ffff:' + host, port]); tell(s); wait()"""
    six = on.start(code, ("::", four.sockets[0].local[1]), program=on.other())
    yield from _each_sends(on, six, four)


def _each_sends(on: Stage, *senders: Actor) -> Iterator[Question]:
    """Only who noted the datagram can tell; without a note it must be called ambiguous.

    Each sends to an address of its own, or else an earlier one might have sent that as well.
    """
    for sender, remote in zip(senders, (on.sink, ("127.0.0.8", 9)), strict=True):
        sent = sender.go(remote)
        yield on.asks(
            sent, sender, local="127.0.0.1", remote=remote, must=Must.EBPF, grades=AMBIGUOUS
        )


@scenario("UDP, source chosen by IP_PKTINFO")
def _(on: Stage) -> Iterator[Question]:
    code = """
s = udp(['', 0]); info = bytes(4) + socket.inet_aton('127.0.0.5') + bytes(4)
s.sendmsg([b'x'], [(0, 8, info)], 0, tuple(SINK)); tell(s); wait()"""
    sender = on.start(code)
    yield on.asks(sender.sockets[0], sender, local="127.0.0.5")


@scenario("UDP connected, let go, sends elsewhere")
def _(on: Stage) -> Iterator[Question]:
    code = """
s = udp(['127.0.0.1', 0], ['127.0.0.8', 9])
check(libc.connect(s.fileno(), bytes(16), 16)); send(s); tell(s); wait()"""
    sender = on.start(code)
    yield on.asks(sender.sockets[0], sender)


@scenario("UDP connected, sends to another by address")
def _(on: Stage) -> Iterator[Question]:
    code = "s = udp(['127.0.0.1', 0], ['127.0.0.8', 9]); send(s); tell(s); wait()"
    sender = on.start(code)
    yield on.asks(sender.sockets[0], sender, remote=on.sink, must=Must.EBPF)


@scenario("UDP bound to a device", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = """
l, r, d = arguments(); s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(1, 25, d.encode()); s.bind(tuple(l)); r and send(s, r); tell(s); wait()"""
    command("ip", "link", "add", "tuo-acc-d0", "type", "veth", "peer", "tuo-acc-d1")
    on.defer(command, "ip", "link", "del", "tuo-acc-d0")
    command("ip", "addr", "add", "10.231.78.1/24", "dev", "tuo-acc-d0")
    command("ip", "link", "set", "tuo-acc-d0", "up")
    lo, device = (socket.if_nametoindex(name) for name in ("lo", "tuo-acc-d0"))
    here = on.start(code, ("", 0), on.sink, "lo")
    far = ("10.231.78.2", 9)
    there = on.start(code, here.sockets[0].local, far, "tuo-acc-d0", program=on.other())
    yield on.asks(here.sockets[0], here, interface=lo)
    local = "10.231.78.1"
    yield on.asks(there.sockets[0], there, local=local, remote=far, interface=device)
    silent = on.start(code, ("", 0), None, "tuo-acc-d0", program=on.other())
    yield on.asks(silent.sockets[0], interface=lo)


@scenario("TCP bound to a device", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = """
a, = arguments(); s = socket.socket(); s.setsockopt(1, 25, b'lo'); s.connect(tuple(a))
tell(s); wait()"""
    client = on.start(code, on.server())
    for interface in (0, socket.if_nametoindex("lo")):
        yield on.asks(client.sockets[0], client, interface=interface)
