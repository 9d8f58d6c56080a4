"""TCP: families, states, listeners, tuples that differ in one end only."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.accuracy.model import Must, Question, Scenarios
from tests.accuracy.stage import ask, until
from tests.backends.linux.children import packed
from tunowner.core.model import TCP, FlowKey, Grade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.stage import Stage

scenario = Scenarios()

CLIENT = "a, = arguments(); s = tcp(a); tell(s); wait()"
FROM = "l, a = arguments(); s = tcp(a, local=l, reuse=REUSE[:1]); tell(s); wait()"
CLOSES = "a, = arguments(); s = tcp(a); tell(s); wait(); s.close(); tell(); wait()"
CLOSED = frozenset({Grade.CLOSED})
NOWHERE = bytes((192, 0, 2, 1))


@scenario("TCP")
def _(on: Stage) -> Iterator[Question]:
    client = on.start(CLIENT, on.server())
    yield on.asks(client.sockets[0], client)


@scenario("TCP over IPv6")
def _(on: Stage) -> Iterator[Question]:
    client = on.start(CLIENT, on.server("::1"))
    yield on.asks(client.sockets[0], client)


@scenario("TCP v4-mapped")
def _(on: Stage) -> Iterator[Question]:
    client = on.start(CLIENT, ("::ffff:127.0.0.1", on.server()[1]))
    yield on.asks(client.sockets[0], client)


@scenario("TCP, SYN sent")
def _(on: Stage) -> Iterator[Question]:
    full = on.listener(backlog=0)
    on.start(CLIENT, full.getsockname())
    code = """
a, = arguments(); s = socket.socket(); s.setblocking(False); s.connect_ex(tuple(a))
tell(s, state=s.getsockopt(6, 11, 1)[0]); wait()"""
    client = on.start(code, full.getsockname())
    assert client.said["state"] == 2, "not TCP_SYN_SENT"
    yield on.asks(client.sockets[0], client, remote=full.getsockname())


@scenario("TCP, both ends of a loopback connection")
def _(on: Stage) -> Iterator[Question]:
    listener = on.start(
        "s = socket.create_server(('127.0.0.1', 0)); tell(s); c, _ = s.accept(); tell(c); wait()"
    )
    client = on.start(CLIENT, listener.sockets[0].local, program=on.other())
    accepted = listener.hear()
    yield on.asks(client.sockets[0], client)
    yield on.asks(accepted, listener)


@scenario("TCP, accepted and not yet taken")
def _(on: Stage) -> Iterator[Question]:
    """The listening process may be named, though it does not have that socket yet."""
    listener = on.start("s = socket.create_server(('127.0.0.1', 0)); tell(s); wait()")
    client = on.start(CLIENT, listener.sockets[0].local, program=on.other())
    flow = client.sockets[0].flow()
    other_end = FlowKey(TCP, flow.remote, flow.remote_port, flow.local, flow.local_port)
    yield ask(other_end, listener, or_nobody=True)


@scenario("TCP, the listener of the port is no client")
def _(on: Stage) -> Iterator[Question]:
    listener = on.start("s = socket.create_server(('127.0.0.1', 0)); tell(s); wait()")
    flow = FlowKey(TCP, packed("127.0.0.1"), listener.sockets[0].local[1], NOWHERE, 9)
    for interface in (0, socket.if_nametoindex("lo")):
        yield ask(flow, interface=interface)


@scenario("TCP, client beside a listener of its port")
def _(on: Stage) -> Iterator[Question]:
    listener = on.start(
        "s = socket.socket(); s.setsockopt(1, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.2', 0));"
        "s.listen(); tell(s); wait()"
    )
    port = listener.sockets[0].local[1]
    client = on.start(FROM, ("127.0.0.1", port), on.server(), program=on.other())
    yield on.asks(client.sockets[0], client)


@scenario("TCP, one source and two remotes")
def _(on: Stage) -> Iterator[Question]:
    one = on.start(FROM, ("127.0.0.1", 0), on.server())
    two = on.start(FROM, one.sockets[0].local, on.server(), program=on.other())
    for client in (one, two):
        yield on.asks(client.sockets[0], client)


@scenario("TCP, one port and two addresses")
def _(on: Stage) -> Iterator[Question]:
    one = on.start(FROM, ("127.0.0.2", 0), on.server())
    port = one.sockets[0].local[1]
    two = on.start(FROM, ("127.0.0.3", port), on.server(), program=on.other())
    for client in (one, two):
        yield on.asks(client.sockets[0], client)
    yield ask(one.sockets[0].flow("127.0.0.4"))


@scenario("TCP, one port in both families")
def _(on: Stage) -> Iterator[Question]:
    one = on.start(FROM, ("127.0.0.1", 0), on.server())
    address = ("::1", one.sockets[0].local[1])
    two = on.start(FROM, address, on.server("::1"), program=on.other())
    for client in (one, two):
        yield on.asks(client.sockets[0], client)


@scenario("TCP beside UDP on one port")
def _(on: Stage) -> Iterator[Question]:
    one = on.start(FROM, ("127.0.0.1", 0), on.server())
    code = "l, = arguments(); s = udp(l); send(s); tell(s); wait()"
    two = on.start(code, one.sockets[0].local, program=on.other())
    for actor in (one, two):
        yield on.asks(actor.sockets[0], actor)


@scenario("TCP, FIN_WAIT2 (inode 0)")
def _(on: Stage) -> Iterator[Question]:
    client = on.start(CLOSES, on.server())
    flow, program = client.sockets[0].flow(), client.program
    client.go()
    yield ask(flow, program, must=Must.EBPF, grades=CLOSED)


@scenario("TCP, TIME_WAIT (inode 0)")
def _(on: Stage) -> Iterator[Question]:
    listener = on.listener()
    client = on.start(CLOSES, listener.getsockname())
    flow, program = client.sockets[0].flow(), client.program
    accepted = listener.accept()[0]
    client.go()
    accepted.close()
    until(lambda: _in_state(flow, b"06"), "TIME_WAIT")
    yield ask(flow, program, must=Must.EBPF, grades=CLOSED)


def _in_state(flow: FlowKey, state: bytes) -> bool:
    """Read the fourth column of /proc/net/tcp."""
    ends = b":%04X " % flow.local_port, b":%04X " % flow.remote_port
    with open("/proc/net/tcp", "rb") as table:  # noqa: PTH123 - a special file, read at once
        return any(all(end in line for end in ends) and line.split()[3] == state for line in table)


@scenario("TCP, closed while data waits")
def _(on: Stage) -> Iterator[Question]:
    """FIN_WAIT1: the kernel still sends for a program that let go of the socket."""
    listener = on.listener()
    code = """
a, = arguments(); s = socket.socket(); s.connect(tuple(a)); s.setblocking(False)
try:
    while s.send(bytes(1 << 16)): pass
except BlockingIOError: pass
tell(s); wait(); s.close(); tell(); wait()"""
    client = on.start(code, listener.getsockname())
    flow, program = client.sockets[0].flow(), client.program
    client.go()
    yield ask(flow, program, must=Must.EBPF, grades=CLOSED)


@scenario("TCP, sent with MSG_FASTOPEN")
def _(on: Stage) -> Iterator[Question]:
    code = """
a, = arguments(); s = socket.socket(); s.sendto(b'x', 0x20000000, tuple(a)); tell(s); wait()"""
    client = on.start(code, on.server())
    yield on.asks(client.sockets[0], client)


@scenario("TCP, connected to itself")
def _(on: Stage) -> Iterator[Question]:
    code = "s = tcp(['127.0.0.1', 29999], local=['127.0.0.1', 29999]); tell(s); wait()"
    client = on.start(code)
    yield on.asks(client.sockets[0], client)


@scenario("TCP, connected anew after a refusal")
def _(on: Stage) -> Iterator[Question]:
    closed = on.listener()
    refused = closed.getsockname()
    closed.close()
    code = """
r, a = arguments(); s = socket.socket()
assert s.connect_ex(tuple(r)); s.connect(tuple(a)); tell(s); wait()"""
    client = on.start(code, refused, on.server())
    yield on.asks(client.sockets[0], client)


@scenario("TCP, 200 processes of two programs at once")
def _(on: Stage) -> Iterator[Question]:
    code = """
a, n = arguments()
for _ in range(n):
    r, w = os.pipe()
    if fork() == 0: s = tcp(a); tell(s); os.write(w, b'x'); hold(); os._exit(0)
    os.read(r, 1); os.close(r); os.close(w)
wait()"""
    each, address = 100, on.server()
    for actor in [on.start(code, address, each, program=path) for path in (None, on.other())]:
        for number in range(each):
            if number:
                actor.hear()
            if number % 20 == 0:
                yield on.asks(actor.sockets[0], actor)


@scenario("a burst of 50 processes that exit at once", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = """
a, n = arguments(); r, w = os.pipe(); children = []
for i in range(n):
    children.append(fork())
    if children[-1] == 0:
        os.read(r, 1); s = tcp(a); u = udp(); send(u, ['127.0.0.8', 1000 + i])
        tell(s, u, port=1000 + i, **me()); os._exit(0)
os.write(w, bytes(n))
for pid in children: os.waitpid(pid, 0)
tell(); wait()"""
    actor = on.start(code, on.server(), 50, program=on.other())
    sent = []
    while actor.sockets:
        sent.append((on.told(actor), actor.said["port"], *actor.sockets))
        actor.hear()
    for program, port, connection, datagram in sent[::5]:
        yield on.asks(connection, program, must=Must.EBPF)
        yield on.asks(datagram, program, remote=("127.0.0.8", port), must=Must.EBPF)
