"""Child processes that open sockets and tell the truth about them over a pipe."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from tunowner.core.model import TCP, UDP, FlowKey, unmapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

PRELUDE = """
import array, ctypes, json, os, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def tell(*socks, **more):
    def truth(s):
        try: peer = s.getpeername()[:2]
        except OSError: peer = None
        kind = 6 if s.type == socket.SOCK_STREAM else 17
        cookie = int.from_bytes(s.getsockopt(1, 57, 8), sys.byteorder)
        return dict(protocol=kind, cookie=cookie, local=s.getsockname()[:2], remote=peer)
    print(json.dumps(dict(pid=os.getpid(), sockets=[truth(s) for s in socks], **more)), flush=True)
def wait(): return sys.stdin.readline().strip()
def tcp(address, **options):
    return connected(socket.socket(socket.AF_INET6 if ':' in address[0] else socket.AF_INET), address, **options)
def udp(local=None, remote=None, family=socket.AF_INET, **options):
    s = socket.socket(family, socket.SOCK_DGRAM)
    return connected(s, remote, local, **options)
def connected(s, remote=None, local=None, reuse=(), v6only=None):
    for option in reuse: s.setsockopt(socket.SOL_SOCKET, option, 1)
    if v6only is not None: s.setsockopt(41, 26, v6only)
    if local: s.bind(tuple(local))
    if remote: s.connect(tuple(remote))
    return s
"""


class Truth(NamedTuple):
    """What a child says of one socket. `remote` is None for an unconnected one."""

    protocol: int
    cookie: int
    local: tuple[str, int]
    remote: tuple[str, int] | None

    def flow(self, local: str | None = None, remote: tuple[str, int] | None = None) -> FlowKey:
        """Return the flow that a packet of this socket shows."""
        target = remote or self.remote
        assert target is not None
        return FlowKey(
            self.protocol,
            packed(local or self.local[0]),
            self.local[1],
            packed(target[0]),
            target[1],
        )


def packed(ip: str) -> bytes:
    return unmapped(ip_address(ip).packed)


class Child:
    """A process that runs `code` after PRELUDE. `say` lets it go on from `wait()`."""

    def __init__(
        self,
        code: str,
        *arguments: object,
        executable: str = sys.executable,
        inherit: tuple[int, ...] = (),
    ) -> None:
        self.process = subprocess.Popen(
            [executable, "-c", PRELUDE + code, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=inherit,
            env={**os.environ, "PYTHONHOME": sys.base_prefix},
        )
        self.said: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    @property
    def pid(self) -> int:
        return int(self.said["pid"])

    def hear(self) -> list[Truth]:
        """Wait for the child's next word and return what it says of its sockets."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the child died"
        self.said = json.loads(line)
        return [_truth(entry) for entry in self.said["sockets"]]

    def say(self, word: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()


def _truth(entry: dict[str, Any]) -> Truth:
    remote = entry["remote"]
    return Truth(
        entry["protocol"],
        entry["cookie"],
        (entry["local"][0], entry["local"][1]),
        None if remote is None else (remote[0], remote[1]),
    )


def server(address: str = "127.0.0.1", *, backlog: int = 1024) -> Iterator[tuple[str, int]]:
    """Listen; connections are made by the kernel, nobody accepts them."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, 0))
        listener.listen(backlog)
        yield listener.getsockname()[:2]


__all__ = ["TCP", "UDP", "Child", "Truth", "packed", "server"]
