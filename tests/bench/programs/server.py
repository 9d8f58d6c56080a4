"""The other end of a measurement, as cheap as Python can: `server.py HOST ECHO_PORT SINK_PORT`.

ECHO_PORT answers one byte over TCP and each datagram over UDP; SINK_PORT accepts and closes.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 65535
RECEIVE_BUFFER = 64 << 20
SO_RCVBUFFORCE = 33


def stay_apart() -> None:
    """Keep this thread on the last processor; see client.py."""
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})


def echo_streams(listener: socket.socket) -> None:
    stay_apart()
    while True:
        sock, _ = listener.accept()
        with sock, suppress(OSError):
            sock.send(sock.recv(1))


def echo_datagrams(receiver: socket.socket) -> None:
    stay_apart()
    while True:
        with suppress(OSError):  # the peer's port has closed: its ICMP is told to us
            receiver.sendto(*receiver.recvfrom(2048))


def accept_only(listener: socket.socket) -> None:
    while True:
        listener.accept()[0].close()


def bound(host: str, port: int, kind: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    made.bind((host, port))
    if kind == socket.SOCK_STREAM:
        made.listen(BACKLOG)
    return made


def main() -> None:
    host, echo, sink = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    roles: list[tuple[Callable[[socket.socket], None], socket.socket]] = [
        (echo_streams, bound(host, echo, socket.SOCK_STREAM)),
        (echo_datagrams, bound(host, echo, socket.SOCK_DGRAM)),
        (accept_only, bound(host, sink, socket.SOCK_STREAM)),
    ]
    threads = [threading.Thread(target=role, args=[sock]) for role, sock in roles]
    for thread in threads:
        thread.start()
    print("ready", flush=True)


if __name__ == "__main__":
    main()
