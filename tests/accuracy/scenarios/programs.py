"""Executables and processes: exec, deleted files, users, pids that are given again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.accuracy.model import Must, Program, Question, Scenarios, View
from tunowner.core.model import Grade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.stage import Stage

scenario = Scenarios()

CLIENT = "a, = arguments(); s = tcp(a); tell(s); wait()"
HERE = ("127.0.0.1", 0)
SAYS = r"""print("{\"pid\": 0, \"sockets\": []}", flush=True); input()"""


@scenario("exec keeps the socket")
def _(on: Stage) -> Iterator[Question]:
    code = """
a, exe, says = arguments(); s = tcp(a); s.set_inheritable(True); tell(s); wait()
os.execv(exe, ['x', '-c', says])"""
    actor = on.start(code, on.server(), on.other(), SAYS)
    truth, pid = actor.sockets[0], actor.child.pid
    yield on.asks(truth, actor)
    actor.go()
    yield on.asks(truth, Program.of(pid))


@scenario("exec by another thread")
def _(on: Stage) -> Iterator[Question]:
    """The process keeps its pid, and all other threads end."""
    code = """
a, exe, says = arguments(); s = tcp(a); s.set_inheritable(True); go = threading.Event()
def work(): go.wait(); os.execv(exe, ['x', '-c', says])
threading.Thread(target=work, daemon=True).start(); tell(s); wait(); go.set(); signal.pause()"""
    actor = on.start(code, on.server(), on.other(), SAYS)
    truth, pid = actor.sockets[0], actor.child.pid
    yield on.asks(truth, actor)
    actor.go()
    yield on.asks(truth, Program.of(pid))


@scenario("exec closes the socket")
def _(on: Stage) -> Iterator[Question]:
    code = """
exe, says = arguments(); s = udp(['127.0.0.1', 0]); send(s); tell(s); wait()
os.execv(exe, ['x', '-c', says])"""
    actor = on.start(code, on.other(), SAYS)
    truth, before = actor.sockets[0], actor.program
    yield on.asks(truth, before)
    actor.go()
    yield on.asks(truth, before, must=Must.NOBODY)


@scenario("executable deleted")
def _(on: Stage) -> Iterator[Question]:
    path = on.other("to-be-deleted")
    actor = on.start(CLIENT, on.server(), program=path)
    Path(path).unlink()
    yield on.asks(actor.sockets[0], actor)


@scenario("executable replaced by another of that name")
def _(on: Stage) -> Iterator[Question]:
    path = on.other("to-be-replaced")
    actor = on.start(CLIENT, on.server(), program=path)
    Path(path).unlink()
    newer = on.start(CLIENT, on.server(), program=on.other("to-be-replaced"))
    for one in (actor, newer):
        yield on.asks(one.sockets[0], one)


@scenario("executable that never was a file (memfd)")
def _(on: Stage) -> Iterator[Question]:
    code = """
a, exe, says = arguments(); s = tcp(a); s.set_inheritable(True); tell(s); wait()
m = os.memfd_create('payload'); os.write(m, open(exe, 'rb').read())
os.execv(f'/proc/self/fd/{m}', ['x', '-c', says])"""
    actor = on.start(code, on.server(), on.other(), SAYS)
    truth, pid = actor.sockets[0], actor.child.pid
    actor.go()
    yield on.asks(truth, Program.of(pid))


@scenario('executable called "x (deleted)"')
def _(on: Stage) -> Iterator[Question]:
    path = on.other("x (deleted)")
    actor = on.start(CLIENT, on.server(), program=path)
    yield on.asks(actor.sockets[0], actor.program._replace(path=path))


@scenario("process calls itself something else")
def _(on: Stage) -> Iterator[Question]:
    code = "a, = arguments(); libc.prctl(15, b'firefox', 0, 0, 0); s = tcp(a); tell(s); wait()"
    actor = on.start(code, on.server())
    yield on.asks(actor.sockets[0], actor)


@scenario("socket made as root by a process that then is nobody", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = "a, = arguments(); s = tcp(a); os.setuid(65534); tell(s); wait()"
    actor = on.start(code, on.server())
    yield on.asks(actor.sockets[0], actor)


@scenario("not dumpable", root=True)
def _(on: Stage) -> Iterator[Question]:
    """Its /proc belongs to root, its socket to another user."""
    code = """
os.setgid(65534); os.setuid(65534); check(libc.prctl(4, 0, 0, 0, 0))
s = udp(['127.0.0.1', 0]); send(s); tell(s); wait()"""
    actor = on.start(code)
    yield on.asks(actor.sockets[0], actor)


@scenario("user namespace", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = """
a, = arguments(); os.setgid(65534); os.setuid(65534); check(libc.unshare(0x10000000))
s = tcp(a); u = udp(); send(u); tell(s, u); wait()"""
    actor = on.start(code, on.server())
    for truth in actor.sockets:
        yield on.asks(truth, actor)


@scenario("asked by a user without privilege", root=True)
def _(on: Stage) -> Iterator[Question]:
    yield from _refused(on, View.NOBODY)


@scenario("asked by a user without privilege, hidepid=2", root=True)
def _(on: Stage) -> Iterator[Question]:
    yield from _refused(on, View.HIDDEN)


def _refused(on: Stage, view: View) -> Iterator[Question]:
    denied = frozenset({Grade.DENIED})
    actor = on.start(CLIENT, on.server())
    yield on.asks(actor.sockets[0], actor, must=Must.NOBODY, grades=denied, view=view)
    own = on.start("a, = arguments(); os.setuid(65534); s = tcp(a); tell(s); wait()", on.server())
    yield on.asks(own.sockets[0], own, must=Must.NOBODY, grades=denied, view=view)


REUSED = """
pid, l = arguments()
for _ in range(2000):
    with open('/proc/sys/kernel/ns_last_pid', 'w') as last: last.write(str(pid - 1))
    child = os.fork()
    if child == pid or child == 0: break
    os.kill(child, 9); os.waitpid(child, 0)
if child == 0:
    if os.getpid() != pid: signal.pause()
    libc.prctl(1, 9); s = udp(l); send(s); tell(s); hold(); os._exit(0)
if child != pid: tell(child=0); hold()
os.waitpid(child, 0)"""


@scenario("pid given again to another program", root=True)
def _(on: Stage) -> Iterator[Question]:
    """First with a socket of its own, then with the very address of the process before."""
    code = "l, = arguments(); s = udp(l); send(s); tell(s); wait()"
    for local in (HERE, None):
        one = on.start(code, HERE)
        (truth,), before = one.sockets, one.program
        yield on.asks(truth, before)
        one.end()
        reused = on.start(REUSED, before.pid, local or truth.local, program=on.other())
        assert reused.said["pid"] == before.pid, "the pid could not be had again"
        after = Program.of(before.pid)
        must = Must.PLAIN if local is None else Must.ALL
        yield on.asks(reused.sockets[0], after, must=must)
        if local:
            yield on.asks(truth, before, must=Must.NOBODY)


@scenario("exited: sendto() at once", root=True)
def _(on: Stage) -> Iterator[Question]:
    yield from _exits(on, "s = udp(); send(s); tell(s); os._exit(0)")


@scenario("exited: connect(), one byte", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = f"s = tcp({on.server()}); s.send(b'x'); tell(s, path=os.readlink('/proc/self/exe'))"
    yield from _exits(on, code)


@scenario("exited: sendto() over IPv6 at once", root=True)
def _(on: Stage) -> Iterator[Question]:
    ending = "s = udp(['::1', 0], None, socket.AF_INET6); send(s, SINK6); tell(s); os._exit(0)"
    yield from _exits(on, ending, local="::1")


@scenario("exited: connected UDP", root=True)
def _(on: Stage) -> Iterator[Question]:
    yield from _exits(on, "s = udp(None, SINK); s.send(b'x'); tell(s); os._exit(0)")
    ending = "s = udp(None, SINK6, socket.AF_INET6); s.send(b'x'); tell(s); os._exit(0)"
    yield from _exits(on, ending)


@scenario("exited: connect() over IPv6, one byte", root=True)
def _(on: Stage) -> Iterator[Question]:
    yield from _exits(on, f"s = tcp({on.server('::1')}); s.send(b'x'); tell(s); os._exit(0)")


def _exits(on: Stage, ending: str, local: str | None = None) -> Iterator[Question]:
    actor = on.start(f"tell(); wait(); {ending}", program=on.other())
    program = actor.program
    truth = actor.go()
    actor.child.process.wait()
    assert not os.path.exists(f"/proc/{program.pid}")  # noqa: PTH110
    assert truth is not None
    yield on.asks(truth, program, local=local, must=Must.EBPF)
