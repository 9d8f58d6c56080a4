"""Sockets that sock_diag does not tell of: ping and raw sockets, from /proc/net (proc_pid_net(5)).

A ping socket (`SOCK_DGRAM`, `IPPROTO_ICMP`) owns the echo requests with its identifier, which takes
the place of the local port. A raw socket is bound to an IP protocol, or to none (`IPPROTO_RAW`), and
may send whatever it likes: also an echo request with a ping socket's identifier. ICMP that no
program has sent, errors and echo replies, is the kernel's.

Reading a table takes about 20 us.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunowner.backends.linux.sockdiag import AF_INET, AF_INET6, ANY4, ANY6, SocketRow
from tunowner.core.model import TCP, UDP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunowner.backends.linux.sockdiag import SockDiag
    from tunowner.core.model import FlowKey

ICMP, ICMPV6 = 1, 58
_ANYTHING = 255
"""IPPROTO_RAW: the program writes the IP header, and the protocol with it."""
_NO_COOKIE = 1 << 63
"""The table has no cookies: the inode serves, which differs as long as the socket lives."""
_TABLES = {ICMP: "icmp", ICMPV6: "icmp6"}


def sockets(diag: SockDiag, flow: FlowKey, interface: int) -> list[SocketRow]:
    """Return the sockets that may have sent `flow`, best first, of whatever protocol."""
    if flow.protocol in (TCP, UDP):
        return diag.sockets(flow, interface)
    family = AF_INET if len(flow.local) == 4 else AF_INET6
    return [row for row in listed(flow.protocol, family) if _fits(row, flow)]


def still(diag: SockDiag, row: SocketRow) -> list[SocketRow]:
    """Return the sockets that there are now on the port of a socket, or of its protocol."""
    if row.protocol in (TCP, UDP):
        return diag.dump(row.protocol, row.local_port)
    return listed(row.protocol, row.family)


def listed(protocol: int, family: int) -> list[SocketRow]:
    """Return the ping and raw sockets of this network namespace for an IP protocol.

    A raw socket has the port 0. Raises OSError when /proc does not tell.
    """
    raw = "raw" if family == AF_INET else "raw6"
    rows = [row for row in _rows(raw, family) if row.local_port in (protocol, _ANYTHING)]
    rows = [row._replace(protocol=protocol, local_port=0) for row in rows]
    ping = _TABLES.get(protocol)
    return [*_rows(ping, family, protocol), *rows] if ping else rows


def cookie(row: SocketRow) -> int | None:
    """Return the socket's cookie, None where it is not known."""
    return None if row.cookie & _NO_COOKIE else row.cookie


def may_be_the_kernels(row: SocketRow) -> bool:
    """Whether the kernel sends such packets itself, so that no socket can be said to have."""
    return row.protocol in _TABLES and row.local_port == 0


def _fits(row: SocketRow, flow: FlowKey) -> bool:
    anywhere = (ANY4, ANY6)
    if row.local_port and row.local_port != flow.local_port:
        return False
    return row.local in (flow.local, *anywhere) and row.remote in (flow.remote, *anywhere)


def _rows(table: str, family: int, protocol: int = 0) -> Iterator[SocketRow]:
    try:
        text = Path(f"/proc/thread-self/net/{table}").read_bytes()
    except FileNotFoundError:  # IPv6 is off
        return
    for line in text.splitlines()[1:]:
        fields = line.split()
        (local, port), (remote, _) = (field.split(b":") for field in fields[1:3])
        inode = int(fields[9])
        ends = _address(local), int(port, 16), _address(remote), 0
        state, uid = int(fields[3], 16), int(fields[7])
        yield SocketRow(family, protocol, state, *ends, 0, inode, uid, _NO_COOKIE | inode)


def _address(words: bytes) -> bytes:
    """Read an address as the kernel prints it: words of 32 bits, as the machine has them."""
    numbers = (int(words[at : at + 8], 16) for at in range(0, len(words), 8))
    return b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)
