"""The whole table of sockets, read with as little work for each row as there can be.

The same questions and answers as in `sockdiag`, which reads single sockets with all their attributes.
"""

from __future__ import annotations

import struct
from functools import partial

from tunowner.backends.linux import netlink
from tunowner.backends.linux.sockdiag import (
    ANY4,
    LARGEST_BUFFER,
    MSG_DONTWAIT,
    MSG_TRUNC,
    SOCK_DIAG_BY_FAMILY,
    SockDiag,
    failure,
    make_request,
)

_TABLE_ROW = struct.Struct("=IHHI4xBB2xHH16s16s4xQ12xII")
"""A whole message, `struct nlmsghdr` and `struct inet_diag_msg`, without what no table shows."""

TableRow = tuple[int, int, int, int, int, int, int, int, bytes, bytes, int, int, int]
"""Length, kind, flags and sequence of the message; family, state, ports as they are on the wire,
addresses of 16 bytes, cookie (its halves swapped where bytes are big-endian), uid and inode."""


class TableDiag(SockDiag):
    """A SockDiag that lists everything."""

    def table(self, protocol: int, family: int, port: int = 0) -> list[TableRow]:
        """Return every socket of a family, of one local port if given. 1 us for each.

        A socket that changes its state meanwhile may be told of twice, by the same cookie.
        """
        flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
        request = partial(make_request, family, protocol, flags, (ANY4, port, ANY4, 0), 0)
        return self._put(request, self._receive_table)

    def _receive_table(self, sequence: int) -> list[TableRow] | None:
        """As `_receive` for a dump, with as little work for each row as there can be."""
        rows: list[TableRow] = []
        while True:
            length = self._socket.recv_into(self._buffer, 0, MSG_DONTWAIT | MSG_TRUNC)
            if length > len(self._buffer):
                self._buffer = bytearray(min(2 * length, LARGEST_BUFFER))
                return None
            at = _add_table_rows(rows, self._buffer, length, sequence)
            rest = memoryview(self._buffer)[at:length]
            for reply in netlink.iter_messages(rest):
                code = netlink.error_number(rest, reply)
                if code:
                    raise failure(code)
                done = reply.kind == netlink.NLMSG_DONE and reply.sequence == sequence
                return rows if done and not reply.flags & netlink.NLM_F_DUMP_INTR else None


def _add_table_rows(rows: list[TableRow], buffer: bytearray, length: int, sequence: int) -> int:
    """Append the plain rows at the start of a datagram and return where they end."""
    unpack, size = _TABLE_ROW.unpack_from, _TABLE_ROW.size
    plain = (SOCK_DIAG_BY_FAMILY, netlink.NLM_F_MULTI, sequence)
    at = 0
    while at + size <= length:
        row: TableRow = unpack(buffer, at)
        if row[1:4] != plain or not size <= row[0] <= length - at:
            return at
        rows.append(row)
        at += (row[0] + 3) & ~3
    return at
