"""Sockets that several processes hold, or that one made and another uses."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from tests.accuracy.model import Must, Program, Scenarios
from tests.accuracy.stage import ask, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.model import Question
    from tests.accuracy.stage import Stage

scenario = Scenarios()

FORKS = """
a, = arguments(); s = tcp(a); r, w = os.pipe(); child = os.fork()
if child == 0:
    os.close(w); os.read(r, 1); tell(s); os.read(0, 1); os._exit(0)
tell(s, child=child); wait(); os.write(w, b'x'); os._exit(0)"""

GIVES = """
path, make, keep = arguments()
s = eval(make); u = socket.socket(socket.AF_UNIX); u.connect(path)
socket.send_fds(u, [b'x'], [s.fileno()]); tell(s); keep or s.close(); tell(); wait()"""
TAKES = """
path, use = arguments(); l = socket.socket(socket.AF_UNIX); l.bind(path); l.listen(); tell()
u, _ = l.accept(); fds = socket.recv_fds(u, 1, 1)[1]; wait()
s = socket.socket(fileno=fds[0]); exec(use); tell(s); wait()"""


@scenario("shared after fork, the parent then exits")
def _(on: Stage) -> Iterator[Question]:
    parent = on.start(FORKS, on.server())
    child = Program.of(parent.said["child"])
    flow = parent.sockets[0].flow()
    yield ask(flow, parent, child)
    parent.go()
    parent.child.process.wait()
    yield ask(flow, child)


@scenario("shared after fork, each sends")
def _(on: Stage) -> Iterator[Question]:
    """With eBPF only who sent is right; a datagram looks the same whoever of the two sent it."""
    code = """
s = udp(['127.0.0.1', 0]); r, w = os.pipe(); child = fork()
if child == 0:
    os.close(w); os.read(r, 1); send(s, ['127.0.0.8', 9]); tell(s); os.read(0, 1); os._exit(0)
send(s); tell(s, child=child); wait(); os.write(w, b'x'); hold()"""
    actor = on.start(code)
    parent, child = actor.program, Program.of(actor.said["child"])
    yield on.asks(actor.sockets[0], parent, child, sender=parent)
    yield on.asks(actor.go(), parent, child, sender=child, remote=("127.0.0.8", 9))


@scenario("made, then fork and exec, connected by the other program")
def _(on: Stage) -> Iterator[Question]:
    code = """
exe, a = arguments(); s = socket.socket(); s.set_inheritable(True); child = fork()
if child == 0:
    rest = 'import socket,sys,os; s=socket.socket(fileno=int(sys.argv[1]));'
    rest += 's.connect(eval(sys.argv[2])); os.read(0, 1)'
    os.execv(exe, [exe, '-c', rest, str(s.fileno()), repr(tuple(a))])
while True:
    try: s.getpeername(); break
    except OSError: os.sched_yield()
tell(s, child=child); signal.pause()"""
    parent = on.start(code, on.other(), on.server())
    child = Program.of(parent.said["child"])
    yield on.asks(parent.sockets[0], parent, child)


@scenario("passed on by SCM_RIGHTS, the giver closes it")
def _(on: Stage) -> Iterator[Question]:
    taker = on.start(TAKES, on.path("give"), "send(s)", program=on.other())
    giver = on.start(GIVES, on.path("give"), "udp(['127.0.0.1', 0])", False)
    giver.hear()
    yield on.asks(taker.go(), taker)


@scenario("passed on by SCM_RIGHTS, connected by the giver")
def _(on: Stage) -> Iterator[Question]:
    taker = on.start(TAKES, on.path("give"), "pass", program=on.other())
    giver = on.start(GIVES, on.path("give"), f"tcp({on.server()})", False)
    (truth,) = giver.sockets
    giver.hear()
    yield on.asks(truth, taker)
    taker.go()
    yield on.asks(truth, taker)


@scenario("passed on by SCM_RIGHTS, both keep it")
def _(on: Stage) -> Iterator[Question]:
    taker = on.start(TAKES, on.path("give"), "send(s)", program=on.other())
    giver = on.start(GIVES, on.path("give"), "udp(['127.0.0.1', 0])", True)
    giver.hear()
    yield on.asks(taker.go(), taker, giver, sender=taker.program)


@scenario("passed on by SCM_RIGHTS, in flight")
def _(on: Stage) -> Iterator[Question]:
    code = """
a, = arguments(); s = tcp(a); u, v = socket.socketpair()
socket.send_fds(u, [b'x'], [s.fileno()]); tell(s); s.close(); tell(); wait()"""
    actor = on.start(code, on.server())
    truth, program = actor.sockets[0], actor.program
    actor.hear()
    # No table has it: that looks as if the search had missed the holder, so nobody is named.
    yield on.asks(truth, program, must=Must.NOBODY)


@scenario("socket activation: root binds, a service sends", root=True)
def _(on: Stage) -> Iterator[Question]:
    code = """
exe, = arguments(); s = udp(['127.0.0.1', 0]); s.set_inheritable(True); child = fork()
if child == 0:
    rest = 'import socket,sys,os; os.read(0, 1); os.setuid(65534); s=socket.socket(fileno=int(sys.argv[1]));'
    rest += 's.sendto(b"x", eval(sys.argv[2])); print("{\\\\"pid\\\\": 0, \\\\"sockets\\\\": []}", flush=True); os.read(0, 1)'
    os.execv(exe, [exe, '-c', rest, str(s.fileno()), repr(tuple(SINK))])
tell(s, child=child); signal.pause()"""
    launcher = on.start(code, on.other("service"), program=on.other("inetd"))
    (truth,), service = launcher.sockets, launcher.said["child"]
    launcher.go()
    yield on.asks(truth, Program.of(service))


@scenario("taken by pidfd_getfd", root=True)
def _(on: Stage) -> Iterator[Question]:
    maker = on.start("a, = arguments(); s = tcp(a); tell(s, fd=s.fileno()); wait()", on.server())
    code = """
pid, fd = arguments(); p = os.pidfd_open(pid)
s = socket.socket(fileno=check(libc.syscall(438, p, fd, 0))); tell(s); wait()"""
    thief = on.start(code, maker.child.pid, maker.said["fd"], program=on.other())
    yield on.asks(maker.sockets[0], maker, thief)
    maker.end()
    yield on.asks(thief.sockets[0], thief)


@scenario("a worker takes an accepted connection")
def _(on: Stage) -> Iterator[Question]:
    code = """
l = socket.create_server(('127.0.0.1', 0)); tell(l); s, _ = l.accept(); child = fork()
if child == 0: hold(); os._exit(0)
tell(s, child=child); s.close(); tell(); signal.pause()"""
    server = on.start(code)
    address = server.sockets[0].local
    on.start("a, = arguments(); s = tcp(a); tell(s); wait()", address, program=on.other())
    accepted = server.hear()
    worker = Program.of(server.said["child"])
    server.hear()
    yield on.asks(accepted, worker)


@scenario("duplicated within a process, the first closed")
def _(on: Stage) -> Iterator[Question]:
    code = """
a, = arguments(); s = tcp(a); t = socket.socket(fileno=os.dup2(s.fileno(), 77)); s.close()
tell(t); wait()"""
    actor = on.start(code, on.server())
    yield on.asks(actor.sockets[0], actor)


@scenario("port reused: the next holder is asked about")
def _(on: Stage) -> Iterator[Question]:
    code = "l, = arguments(); s = udp(l); send(s); tell(s); wait()"
    one = on.start(code, ("127.0.0.1", 0))
    yield on.asks(one.sockets[0], one)
    one.end()
    before = time.monotonic()
    two = on.start(code, one.sockets[0].local, program=on.other())
    until(lambda: not os.path.exists(f"/proc/{one.child.pid}"), "its end")  # noqa: PTH110
    yield on.asks(two.sockets[0], two, must=Must.PLAIN)
    yield on.asks(two.sockets[0], two, since=before)


@scenario("port reused: the earlier sender is asked about late")
def _(on: Stage) -> Iterator[Question]:
    """The next program has bound the port and sent nothing. Without notes that cannot be seen."""
    one = on.start("s = udp(['127.0.0.1', 0]); send(s); tell(s); wait()")
    (truth,), program = one.sockets, one.program
    one.end()
    on.start("l, = arguments(); s = udp(l); tell(s); wait()", truth.local, program=on.other())
    yield on.asks(truth, program, must=Must.NOBODY, only_noted=True)
