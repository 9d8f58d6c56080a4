"""The kernel tells of closed sockets: real sockets on loopback, no root needed."""

from __future__ import annotations

import select
import socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tunowner.backends.linux.deaths import Deaths, _cookies

if TYPE_CHECKING:
    from tunowner.backends.base import SocketDeaths

SO_COOKIE = 57
FAMILIES = (socket.AF_INET, socket.AF_INET6)


def cookie_of(end: socket.socket) -> int:
    return int.from_bytes(end.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)


def closed_soon(deaths: SocketDeaths, cookie: int) -> bool:
    """Read until the cookie comes, 5 s at most between two messages."""
    while select.select([deaths], [], [], 5.0)[0]:
        if cookie in (deaths.read() or []):
            return True
    return False


@pytest.mark.parametrize("family", FAMILIES)
def test_a_closed_socket_is_told_by_its_cookie(family: int) -> None:
    with closing(Deaths()) as deaths:
        end = socket.socket(family, socket.SOCK_DGRAM)
        end.bind(("", 0))
        cookie = cookie_of(end)
        end.close()
        assert closed_soon(deaths, cookie)


def test_tcp_is_not_told_of() -> None:
    with closing(Deaths()) as deaths, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        tcp = cookie_of(listener)
        listener.close()
        with socket.socket(type=socket.SOCK_DGRAM) as later:
            later.bind(("127.0.0.1", 0))
            udp = cookie_of(later)
        told: list[int] = []
        while udp not in told and select.select([deaths], [], [], 5.0)[0]:
            told += deaths.read() or []
        assert udp in told
        assert tcp not in told


def test_lost_messages_are_told_as_none() -> None:
    with closing(Deaths()) as roomy, closing(Deaths()) as small:
        small._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least
        for _ in range(200):
            with socket.socket(type=socket.SOCK_DGRAM) as end:
                end.bind(("127.0.0.1", 0))
                cookie = cookie_of(end)
        assert closed_soon(roomy, cookie)  # by now the kernel has told of all of them
        answers = []
        while select.select([small], [], [], 0.5)[0]:
            answers.append(small.read())
        assert None in answers


@pytest.mark.parametrize("size", range(0, 76, 5))
def test_cut_short_messages_name_no_socket(size: int) -> None:
    whole = (76).to_bytes(4, sys.byteorder) + bytes(72)
    assert _cookies(whole) == [0]
    assert _cookies(whole[:size]) == []
