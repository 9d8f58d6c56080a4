"""Where a scenario is played: it starts programs, and all of it is gone when it ends."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tests.accuracy.model import Program, Question
from tests.backends.linux.children import Child, Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tunowner.core.model import FlowKey

Address = tuple[str, int]

COMMON = "otherprogram"
"""This copy of the interpreter serves all scenarios."""
FAR4, FAR6 = "127.0.0.9", "::1"
PROGRAM = """
SINK, SINK6 = {sinks}
REUSE = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
def print(line, flush=True): os.write(1, (line + '\\n').encode())  # whole, whoever else writes
def arguments(): return json.loads(sys.argv[1])
def fork():
    pid = os.fork()
    if pid == 0: libc.prctl(1, 9)  # PR_SET_PDEATHSIG: goes with its parent
    return pid
def me():
    with open('/proc/self/stat') as stat: start = stat.read().rpartition(')')[2].split()[19]
    return dict(start=int(start), exe=os.readlink('/proc/self/exe'))
def send(s, to=None): s.sendto(b'x', tuple(to or SINK))
def hold(): os.read(0, 1)
def check(result):
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""
"""What the programs of all scenarios have at hand, besides children.PRELUDE."""


class Actor:
    """A program that was started, and what it said of its sockets."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.sockets: list[Truth] = []
        self.hear()

    @property
    def said(self) -> dict[str, Any]:
        return self.child.said

    @property
    def program(self) -> Program:
        return Program.of(self.child.pid)

    def hear(self) -> Truth | None:
        """Wait for its next word."""
        self.sockets = self.child.hear()
        return self.sockets[0] if self.sockets else None

    def go(self, word: object = "") -> Truth | None:
        """Let it go on to its next word."""
        self.child.say(json.dumps(word) if word else "")
        return self.hear()

    def end(self) -> None:
        """Kill it and wait until its pid is free."""
        self.child.process.kill()
        self.child.process.wait()


class Stage:
    """One for each scenario. `asks` makes a question of what an actor said."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._undo = ExitStack()
        self.sink = self._receiver(FAR4)
        self.sink6 = self._receiver(FAR6)

    def close(self) -> None:
        self._undo.close()

    def defer(self, action: Callable[..., object], *arguments: object) -> None:
        self._undo.callback(action, *arguments)

    def _receiver(self, ip: str) -> Address:
        """Bind a socket that takes datagrams and answers none."""
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        sink = self._undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sink.bind((ip, 0))
        ip, port, *_ = sink.getsockname()
        return ip, port

    def start(self, code: str, *arguments: object, program: str | None = None) -> Actor:
        """Start a program and hear its first word."""
        prelude = PROGRAM.format(sinks=(self.sink, self.sink6))
        child = Child(prelude + code, *arguments, executable=program or sys.executable)
        return Actor(self._undo.enter_context(child))

    def keep(self, sock: socket.socket) -> None:
        """Keep a socket open until the end."""
        self._undo.enter_context(sock)

    def told(self, actor: Actor) -> Program:
        """Return the program of an actor that is gone, as it said itself by `tell(**me())`."""
        return Program(actor.child.pid, actor.said["start"], actor.said["exe"])

    def listener(self, ip: str = "127.0.0.1", backlog: int = 1024) -> socket.socket:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        listener = self._undo.enter_context(socket.socket(family))
        listener.bind((ip, 0))
        listener.listen(backlog)
        return listener

    def server(self, ip: str = "127.0.0.1") -> Address:
        """Listen; the kernel makes the connections, nobody accepts them."""
        ip, port, *_ = self.listener(ip).getsockname()
        return ip, port

    def other(self, name: str = COMMON) -> str:
        """Return another executable: a copy of the interpreter."""
        path = self._folder / name
        if not path.exists():
            shutil.copy(os.path.realpath(sys.executable), path)
            if name != COMMON:
                self.path(name)
        return str(path)

    def path(self, name: str) -> str:
        """Return a path for the scenario's own use; what is there goes with it."""
        path = self._folder / name
        self.defer(path.unlink, True)
        return str(path)

    def asks(
        self,
        socket_: Truth | None,
        *holders: Actor | Program,
        local: str | None = None,
        remote: Address | None = None,
        **options: Any,
    ) -> Question:
        """Ask for the flow of a socket; a datagram without a remote end went to the sink."""
        assert socket_ is not None
        far = remote or socket_.remote or (self.sink6 if is_v6(local) else self.sink)
        near = local or plain(socket_.local[0], far)
        return ask(socket_.flow(near, far), *holders, **options)


def ask(flow: FlowKey, *holders: Actor | Program, **options: Any) -> Question:
    programs = (holder.program if isinstance(holder, Actor) else holder for holder in holders)
    return Question(flow, tuple(programs), **options)


def is_v6(ip: str | None) -> bool:
    return ip is not None and ":" in ip and not ip.startswith("::ffff:")


def plain(ip: str, far: Address) -> str:
    """Return the address that a wildcard socket sends from; all here is loopback."""
    if ip not in ("0.0.0.0", "::"):
        return ip
    return "::1" if is_v6(far[0]) else "127.0.0.1"


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what the kernel does by itself and tells nobody of."""
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not seen in 20 s: {what}")
        time.sleep(0)


def command(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    made = Stage(folder)
    try:
        yield made
    finally:
        made.close()


__all__ = ["Actor", "Stage", "ask", "command", "stage", "until"]
