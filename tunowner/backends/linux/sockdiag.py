"""Which sockets may have sent this flow? Asked of the kernel by NETLINK_SOCK_DIAG (sock_diag(7)).

One exact query costs about 5 us whatever the number of sockets; a dump by port 15 to 500 us. Layouts
are `struct inet_diag_req_v2`, `inet_diag_sockid` and `inet_diag_msg` of <linux/inet_diag.h>.

What the kernel does, and what this file does about it:
- UDP takes the two ends swapped (udp_dump_one() in net/ipv4/udp_diag.c); TCP takes them as they are.
- TCP falls back to a listener of the same port (inet_diag_find_one_icsk()), so a reply is compared
  with the request before it is believed.
- a socket bound to a device is found only when `idiag_if` names that device.
- a dump filters by family and local port, by nothing else; `IPv4` lists no v4-mapped socket.
- ENOENT means "no such socket" as well as "the module tcp_diag or udp_diag is missing", hence
  `self_check`.

The reply is made inside send(), so receiving never has to wait. Not thread-safe: one per thread.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tunowner.backends.linux import netlink
from tunowner.core.model import PROTOCOL_NAMES, TCP, UDP, FlowKey, unmapped
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

AF_INET = 2
AF_INET6 = 10
SOCK_DIAG_BY_FAMILY = 20
ESTABLISHED, SYN_RECV, CLOSE_WAIT, LISTEN = 1, 3, 8, 10
"""<net/tcp_states.h>; a connected UDP socket is ESTABLISHED, an unconnected one CLOSE (7)."""
SKV6ONLY, CGROUP_ID = 11, 21
"""INET_DIAG_SKV6ONLY and INET_DIAG_CGROUP_ID: attached without being asked for."""
ALL_STATES = 0xFFFFFFFF
NO_COOKIE = 0xFFFFFFFF
"""INET_DIAG_NOCOOKIE, twice: ask by address, not by cookie."""

MSG_TRUNC, MSG_DONTWAIT = 0x20, 0x40
ATTEMPTS = 4
"""A query that met ENOBUFS, a changed table or a short buffer is put again so often, then fails."""
STALE_REPLIES = 64
"""So many answers to earlier questions are skipped; a peer that sends more is not the kernel."""
LARGEST_BUFFER = 1 << 20

ANY4, ANY6 = bytes(4), bytes(16)
MAPPED = bytes(10) + b"\xff\xff"
"""The prefix ::ffff:0:0/96 of an IPv4 address held by an IPv6 socket (RFC 4291, 2.5.5.2)."""

_REQUEST = struct.Struct("=IHHIIBBBBI2s2s16s16sIII")
_ROW = struct.Struct("=BBBB2s2s16s16sIIIIIIII")


class SocketRow(NamedTuple):
    """One socket as the kernel describes it. `inode` is 0 when no file refers to it any more.

    The attributes are read when asked for: a plain look-up needs none of them.
    """

    family: int
    protocol: int
    state: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    interface: int
    inode: int
    uid: int
    cookie: int
    attributes: bytes = b""

    @property
    def cgroup_id(self) -> int:
        """The control group (v2) of the process that made the socket, 0 when unknown."""
        payload = self._attribute(CGROUP_ID)
        return int.from_bytes(payload, sys.byteorder) if len(payload) == 8 else 0

    @property
    def v6only(self) -> bool:
        """Whether an IPv6 socket refuses IPv4; told of unconnected sockets only."""
        return self._attribute(SKV6ONLY)[:1] == b"\x01"

    def _attribute(self, kind: int) -> bytes:
        data = self.attributes
        found = (value for key, value in netlink.iter_attributes(data, 0, len(data)) if key == kind)
        return next(found, b"")

    @property
    def connected(self) -> bool:
        return self.remote_port != 0


def parse_row(buffer: netlink.Buffer, start: int, end: int, protocol: int) -> SocketRow | None:
    """Read one `struct inet_diag_msg` with its attributes; None when it is cut short."""
    if end - start < _ROW.size or end > len(buffer):
        return None
    (
        family,
        state,
        _,
        _,
        sport,
        dport,
        source,
        target,
        interface,
        low,
        high,
        _,
        _,
        _,
        uid,
        inode,
    ) = _ROW.unpack_from(buffer, start)
    size = 4 if family == AF_INET else 16
    return SocketRow(
        family,
        protocol,
        state,
        source[:size],
        int.from_bytes(sport, "big"),
        target[:size],
        int.from_bytes(dport, "big"),
        interface,
        inode,
        uid,
        low | high << 32,
        bytes(buffer[start + _ROW.size : end]),
    )


def rank(row: SocketRow, flow: FlowKey, interface: int = 0) -> int | None:
    """How well a socket fits a flow that left this machine: 0 is best, None is not at all.

    0 both ends equal, 1 bound to the local address, 2 to the wildcard of the packet's family,
    3 to the IPv6 wildcard that sends IPv4 as well. Only a connected socket fits for TCP.
    """
    if row.state == LISTEN or row.local_port != flow.local_port:
        return None
    if row.protocol != flow.protocol or (interface and row.interface not in (0, interface)):
        return None
    local = _local_rank(row, flow.local)
    if not row.connected:
        return local if flow.protocol == UDP else None
    same_remote = row.remote_port == flow.remote_port and unmapped(row.remote) == flow.remote
    return 0 if same_remote and local == 1 else None


def _local_rank(row: SocketRow, local: bytes) -> int | None:
    bound = unmapped(row.local)
    if bound == local:
        return 1
    if bound == (ANY4 if len(local) == 4 else ANY6):
        return 2
    return 3 if bound == ANY6 and len(local) == 4 and not row.v6only else None


def senders(rows: Iterable[SocketRow], flow: FlowKey, interface: int = 0) -> list[SocketRow]:
    """Return the sockets that may have sent `flow`, best first, each once.

    A socket connected to the remote end rules out the others. Without one every unconnected
    socket of the port may be the sender: a wildcard socket sends from the address that routing
    chose, so "bound to the very address" does not rule it out.
    """
    ranked: dict[int, tuple[int, SocketRow]] = {}
    for row in rows:
        place = rank(row, flow, interface)
        if place is not None:
            ranked[row.cookie] = (place, row)
    best = sorted(ranked.values(), key=lambda item: item[0])
    if best and best[0][0] == 0:
        best = [item for item in best if item[0] == 0]
    return [row for _, row in best]


class SockDiag:
    """A NETLINK_SOCK_DIAG socket of the network namespace it was made in.

    Methods raise OSError when the kernel did not answer, never for what it answered.
    """

    def __init__(
        self, *, buffer_size: int = 32768, connect: Callable[[], socket.socket] | None = None
    ) -> None:
        self._connect = connect or _connect
        self._buffer = bytearray(buffer_size)
        self._sequence = 0
        self._socket = self._connect()

    def close(self) -> None:
        self._socket.close()

    def sockets(self, flow: FlowKey, interface: int = 0) -> list[SocketRow]:
        """Return the sockets that may have sent `flow`, best first; more than one is a tie.

        TCP sockets never tie. Two UDP sockets may be connected just alike (SO_REUSEADDR), and the
        exact query tells of one of them. `interface` is the index of the device that the packet left by, 0 when unknown; a socket
        bound to another device is then no candidate.
        """
        row = self.exact(flow, interface)
        if row is not None and flow.protocol == TCP:
            return [row]
        if row is None and flow.protocol == TCP and interface:
            return []  # the exact query looked everywhere that counts
        rows = self.dump(flow.protocol, flow.local_port, families(flow))
        return senders([*rows, row] if row else rows, flow, interface)

    def exact(self, flow: FlowKey, interface: int = 0) -> SocketRow | None:
        """Return the socket the kernel would hand a reply of this flow to, if it fits the flow."""
        row = self.lookup(flow, interface)
        return None if row is None or rank(row, flow, interface) is None else row

    def lookup(self, flow: FlowKey, interface: int = 0) -> SocketRow | None:
        """As `exact`, but whatever the kernel answers: also a listener, or another device's."""
        ends = (flow.local, flow.local_port, flow.remote, flow.remote_port)
        if flow.protocol == UDP:
            ends = (flow.remote, flow.remote_port, flow.local, flow.local_port)
        family = AF_INET if len(flow.local) == 4 else AF_INET6
        rows = self._ask(family, flow.protocol, netlink.NLM_F_REQUEST, ends, interface)
        return rows[0] if rows else None

    def dump(
        self, protocol: int, port: int, families: Iterable[int] = (AF_INET, AF_INET6)
    ) -> list[SocketRow]:
        """Return every socket that is bound to the local `port`, listeners included."""
        flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
        ends = (ANY4, port, ANY4, 0)
        return [row for family in families for row in self._ask(family, protocol, flags, ends, 0)]

    def _ask(
        self,
        family: int,
        protocol: int,
        flags: int,
        ends: tuple[bytes, int, bytes, int],
        interface: int,
    ) -> list[SocketRow]:
        request = partial(make_request, family, protocol, flags, ends, interface)
        dump = bool(flags & netlink.NLM_F_DUMP)
        return self._put(request, partial(self._receive, protocol, dump=dump))

    def _put(
        self, request: Callable[[int], bytes], receive: Callable[[int], list[T] | None]
    ) -> list[T]:
        """Put a question until the answer is whole; `receive` returns None when it has holes."""
        for _ in range(ATTEMPTS):
            sequence = self._next_sequence()
            try:
                self._socket.send(request(sequence))
                rows = receive(sequence)
            except NoSuchSocketError:
                return []
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                rows = None
            if rows is not None:
                return rows
            self._reopen()
        raise OSError(errno.EIO, "sock_diag gave no whole answer")

    def _receive(self, protocol: int, sequence: int, *, dump: bool) -> list[SocketRow] | None:
        """Collect one answer; None when it has holes and must be asked for again."""
        rows: list[SocketRow] = []
        for data, reply in self._replies(sequence):
            code = netlink.error_number(data, reply)
            if code:
                raise failure(code)
            if reply.flags & netlink.NLM_F_DUMP_INTR:
                return None
            if reply.kind == netlink.NLMSG_DONE:
                return rows
            row = parse_row(data, reply.start, reply.end, protocol)
            if reply.kind != SOCK_DIAG_BY_FAMILY or row is None:
                return None
            rows.append(row)
            if not dump:
                return rows
        return None

    def _replies(self, sequence: int) -> Iterator[tuple[memoryview, netlink.Message]]:
        """Yield the messages that answer `sequence`; end early when a datagram was cut."""
        view, stale = memoryview(self._buffer), 0
        while stale < STALE_REPLIES:
            length = self._socket.recv_into(view, 0, MSG_DONTWAIT | MSG_TRUNC)
            if length > len(view):
                self._buffer = bytearray(min(2 * length, LARGEST_BUFFER))
                return
            stale += 1
            for reply in netlink.iter_messages(view[:length]):
                if reply.sequence == sequence:
                    stale = 0
                    yield view[:length], reply

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return self._sequence

    def _reopen(self) -> None:
        """Start afresh: on the old socket the rest of an unfinished dump would still be queued."""
        self._socket.close()
        self._socket = self._connect()

    def self_check(self) -> None:
        """Look up sockets of our own; BackendError when the kernel does not know them."""
        for protocol in (TCP, UDP):
            name = PROTOCOL_NAMES[protocol]
            try:
                found = _knows_own_socket(self, protocol)
            except OSError as error:
                raise BackendError(
                    f"the kernel refused to look up a {name} socket: {error.strerror}",
                    where="sock_diag",
                    hint="NETLINK_SOCK_DIAG must be allowed (container or seccomp policy?)",
                ) from error
            if not found:
                raise BackendError(
                    f"the kernel cannot look up {name} sockets",
                    where="sock_diag",
                    hint=f"Run `modprobe {name}_diag` (CONFIG_INET_{name.upper()}_DIAG)",
                )


class NoSuchSocketError(Exception):
    """ENOENT, kept apart from the other errors."""


_PASSING = (errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.EBUSY)
"""Reasons to ask again: nothing queued, overrun, or the rest of an earlier dump in the way."""


def failure(code: int) -> Exception:
    return NoSuchSocketError() if code == errno.ENOENT else OSError(code, os.strerror(code))


def _connect() -> socket.socket:
    diag = socket.socket(netlink.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_SOCK_DIAG)
    diag.bind((0, 0))
    return diag


def families(flow: FlowKey) -> tuple[int, ...]:
    """Return which sockets may have sent a flow: those of IPv6 send IPv4 too."""
    return (AF_INET, AF_INET6) if len(flow.local) == 4 else (AF_INET6,)


def make_request(
    family: int,
    protocol: int,
    flags: int,
    ends: tuple[bytes, int, bytes, int],
    interface: int,
    sequence: int,
) -> bytes:
    source, sport, target, dport = ends
    return _REQUEST.pack(
        *(_REQUEST.size, SOCK_DIAG_BY_FAMILY, flags, sequence, 0),
        *(family, protocol, 0, 0, ALL_STATES),
        sport.to_bytes(2, "big"),
        dport.to_bytes(2, "big"),
        source,
        target,
        interface,
        NO_COOKIE,
        NO_COOKIE,
    )


def _knows_own_socket(diag: SockDiag, protocol: int) -> bool:
    kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as own:
        try:
            own.bind(("127.0.0.1", 0))
        except OSError:  # a namespace whose loopback is down
            own.bind(("", 0))
        if protocol == TCP:
            own.listen(1)
        loopback = b"\x7f\x00\x00\x01"
        row = diag.lookup(FlowKey(protocol, loopback, own.getsockname()[1], loopback, 9))
        return row is not None and row.inode == os.fstat(own.fileno()).st_ino
