"""Hear of every UDP socket that closes: the multicast groups of SOCK_DIAG.

The kernel tells after the fact, from a work queue (sock_diag_broadcast_destroy() in
net/core/sock_diag.c), by a message with the socket's cookie. Any process may listen. eBPF tells in
close(2), before the port is free, and may lose some: where it is there, both are read.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from typing import TYPE_CHECKING

from tunowner.backends.linux import netlink
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from tunowner.backends.linux.bpf.closings import Closings

_UDP_GROUPS = (2, 4)
"""SKNLGRP_INET_UDP_DESTROY, SKNLGRP_INET6_UDP_DESTROY in <linux/sock_diag.h>."""
_COOKIE = struct.Struct("=Q")
_COOKIE_OFFSET = 44
"""In `struct inet_diag_msg`, <linux/inet_diag.h>: family to retrans, ports, addresses, interface."""
_ADD_MEMBERSHIP = 1
_RECEIVE_BUFFER = 4 * 1024 * 1024
"""About 10,000 messages: a program that ends with as many sockets is told of in full."""
_SO_RCVBUFFORCE = 33
_MOST_MESSAGES = 1_024
"""Read in one go, so that packets are not kept waiting by a burst of closings."""


class Deaths:
    """A SocketDeaths of UDP sockets.

    Raises BackendError when the kernel has no such groups (Linux < 4.1).
    """

    def __init__(self) -> None:
        self._socket = socket.socket(netlink.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_SOCK_DIAG)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, 0))
            self._grow()
            for group in _UDP_GROUPS:
                self._socket.setsockopt(netlink.SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise BackendError(
                f"the kernel does not tell of closed sockets ({error.strerror})",
                where="sock_diag",
                hint="modprobe inet_diag tcp_diag udp_diag",
            ) from error

    def _grow(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[int] | None:
        """See SocketDeaths.read. Some were lost when the socket's buffer overflowed (ENOBUFS)."""
        cookies: list[int] = []
        for _ in range(_MOST_MESSAGES):
            try:
                buffer = self._socket.recv(8192)
            except OSError as error:
                return None if error.errno == errno.ENOBUFS else cookies
            cookies += _cookies(buffer)
        return cookies

    def close(self) -> None:
        self._socket.close()


class DeathsAtOnce:
    """Deaths that eBPF tells of in close(2), and again `surely`, by the kernel's own messages."""

    def __init__(self, early: Closings, surely: Deaths) -> None:
        self._early, self._surely = early, surely
        self._early_fd, self._surely_fd = early.fileno(), surely.fileno()
        self._both = select.epoll()
        self._both.register(self._early_fd, select.EPOLLIN)
        self._both.register(self._surely_fd, select.EPOLLIN)

    def fileno(self) -> int:
        return self._both.fileno()

    def read(self) -> list[int] | None:
        """See SocketDeaths.read."""
        ready = [fd for fd, _ in self._both.poll(0)]
        early = self._early.read() if self._early_fd in ready else []
        late = self._surely.read() if self._surely_fd in ready else []
        return None if late is None else early + late

    def close(self) -> None:
        self._both.close()
        self._early.close()
        self._surely.close()


def _cookies(buffer: bytes) -> list[int]:
    return [
        _COOKIE.unpack_from(buffer, message.start + _COOKIE_OFFSET)[0]
        for message in netlink.iter_messages(buffer)
        if message.end - message.start >= _COOKIE_OFFSET + _COOKIE.size
    ]
