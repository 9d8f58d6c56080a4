"""Containers: processes in network, pid and mount namespaces of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.accuracy.model import Must, Program, Scenarios
from tests.accuracy.stage import command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.model import Question
    from tests.accuracy.stage import Actor, Stage

scenario = Scenarios()

OUTSIDE, INSIDE = "10.231.77.1", "10.231.77.2"
OUTSIDE6, INSIDE6 = "fd77:231::1", "fd77:231::2"
CONTAINER = """
import subprocess
check(libc.unshare(0x40000000 | 0x20000000 | 0x00020000))  # network, pid, mount
child = fork()
if child:
    tell(child=child); os.waitpid(child, 0); os._exit(0)
subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
check(libc.mount(b'proc', b'/proc', b'none', 0x44000, None)); check(libc.mount(b'proc', b'/proc', b'proc', 0, None))
wait()
"""


def _container(on: Stage, code: str, *arguments: object) -> tuple[Actor, Program]:
    """Start `code` in a container that is linked to here; it sees itself as process 1."""
    actor = on.start(CONTAINER + code, *arguments, program=on.other())
    pid = actor.said["child"]
    command(
        "ip", "link", "add", "tuo-acc-v0", "type", "veth", "peer", "tuo-acc-v1", "netns", str(pid)
    )
    on.defer(command, "ip", "link", "del", "tuo-acc-v0")
    add = ("ip", "addr", "add")
    command(*add, f"{OUTSIDE}/24", "dev", "tuo-acc-v0")
    command(*add, f"{OUTSIDE6}/64", "dev", "tuo-acc-v0", "nodad")
    command("ip", "link", "set", "tuo-acc-v0", "up")
    enter = ("nsenter", f"--net=/proc/{pid}/ns/net")
    command(*enter, *add, f"{INSIDE}/24", "dev", "tuo-acc-v1")
    command(*enter, *add, f"{INSIDE6}/64", "dev", "tuo-acc-v1", "nodad")
    command(*enter, "ip", "link", "set", "tuo-acc-v1", "up")
    return actor, Program.of(pid)


@scenario("container: TCP and UDP that leave it", root=True)
def _(on: Stage) -> Iterator[Question]:
    listener = on.listener("")
    port = listener.getsockname()[1]
    code = "a, = arguments(); s = tcp(a); u = udp(); send(u, a); tell(s, u); wait()"
    actor, program = _container(on, code, (OUTSIDE, port))
    actor.go()
    connection, datagrams = actor.sockets
    yield on.asks(connection, program)
    yield on.asks(datagrams, program, local=INSIDE, remote=(OUTSIDE, port))


@scenario("container: TCP and UDP over IPv6 that leave it", root=True)
def _(on: Stage) -> Iterator[Question]:
    listener = on.listener("::")
    port = listener.getsockname()[1]
    code = """
a, = arguments(); s = tcp(a); u = udp(None, None, socket.AF_INET6); send(u, a)
tell(s, u); wait()"""
    actor, program = _container(on, code, (OUTSIDE6, port))
    actor.go()
    connection, datagrams = actor.sockets
    yield on.asks(connection, program)
    yield on.asks(datagrams, program, local=INSIDE6, remote=(OUTSIDE6, port))


@scenario("container: its loopback is not ours", root=True)
def _(on: Stage) -> Iterator[Question]:
    """The same tuple in both: what the container sends must not be taken for ours."""
    code = "l, = arguments(); s = udp(l); tell(s); wait(); send(s); tell(s); wait()"
    outside = on.start(code, ("127.0.0.1", 0))
    inside, _ = _container(on, code, outside.sockets[0].local)
    sent = outside.go()
    inside.go()
    inside.go()
    program = outside.program
    yield on.asks(sent, program)
    outside.end()
    yield on.asks(sent, program, must=Must.EBPF)


@scenario("container: only the container uses the port", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = "s = udp(['127.0.0.1', 0]); send(s); tell(s); wait()"
    inside, _ = _container(on, code)
    yield on.asks(inside.go())


@scenario("process in another network namespace, socket of ours", root=True)
def _(on: Stage) -> Iterator[Question]:
    """A socket stays in the namespace it was made in, wherever its process goes."""
    code = """
a, = arguments(); s = tcp(a); u = udp(['127.0.0.1', 0])
check(libc.unshare(0x40000000)); send(u); tell(s, u); wait()"""
    actor = on.start(code, on.server())
    for truth in actor.sockets:
        yield on.asks(truth, actor)


@scenario("pid namespace only", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = """
a, = arguments(); check(libc.unshare(0x20000000)); child = fork()
if child: tell(child=child); os.waitpid(child, 0); os._exit(0)
wait(); s = tcp(a); u = udp(); send(u); tell(s, u); wait()"""
    actor = on.start(code, on.server())
    program = Program.of(actor.said["child"])
    actor.go()
    for truth in actor.sockets:
        yield on.asks(truth, program)
