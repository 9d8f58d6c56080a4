"""The framing that all netlink families share: messages, attributes, errors. Pure, no sockets.

A datagram holds messages; a message is a header (`struct nlmsghdr`) and a body; a body ends in
attributes (`struct nlattr`). All of them are padded to 4 bytes and in the byte order of the host
(netlink(7), <linux/netlink.h>, kernel Documentation/userspace-api/netlink/intro.rst).

Rule of this file: what came from a socket never raises. Walking stops at the first header that
does not fit, as the kernel's own nlmsg_ok() and nla_ok() do.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

Buffer = bytes | bytearray | memoryview

AF_NETLINK = 16
"""<linux/socket.h>; a number here, because `socket.AF_NETLINK` exists on Linux only."""

NETLINK_SOCK_DIAG = 4
NETLINK_NETFILTER = 12
SOL_NETLINK = 270

NLM_F_REQUEST = 0x1
NLM_F_MULTI = 0x2
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
"""Set on a part of a dump: the table changed meanwhile, the dump may have holes."""
NLM_F_DUMP = 0x300

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
"""An attribute's kind without its flags NLA_F_NESTED and NLA_F_NET_BYTEORDER."""

HEADER = struct.Struct("=IHHII")
"""`struct nlmsghdr`: length, kind, flags, sequence, port id."""
ATTRIBUTE = struct.Struct("=HH")
"""`struct nlattr`: length (itself included, padding not), kind."""
ERRNO = struct.Struct("=i")
"""The first field of `struct nlmsgerr`: 0 or a negative errno."""


class Message(NamedTuple):
    """One message of a datagram; its body is `buffer[start:end]`."""

    kind: int
    flags: int
    sequence: int
    start: int
    end: int


def align(length: int) -> int:
    """Round up to 4: NLMSG_ALIGN() and NLA_ALIGN() in <linux/netlink.h>."""
    return (length + 3) & ~3


def pack_attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded. For a nest, `kind | NLA_F_NESTED` and packed attributes."""
    length = ATTRIBUTE.size + len(payload)
    return ATTRIBUTE.pack(length, kind) + payload + bytes(align(length) - length)


def iter_attributes(buffer: Buffer, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (kind without flags, payload) for each whole attribute in `buffer[start:end]`."""
    end = min(end, len(buffer))
    while start + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(buffer, start)
        if length < ATTRIBUTE.size or start + length > end:
            return
        yield kind & NLA_TYPE_MASK, bytes(buffer[start + ATTRIBUTE.size : start + length])
        start += align(length)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return one whole message. The kernel fills in the sender's port id."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def iter_messages(buffer: Buffer) -> Iterator[Message]:
    """Yield each whole message of a datagram."""
    start, total = 0, len(buffer)
    while start + HEADER.size <= total:
        length, kind, flags, sequence, _port = HEADER.unpack_from(buffer, start)
        if length < HEADER.size or start + length > total:
            return
        yield Message(kind, flags, sequence, start + HEADER.size, start + length)
        start += align(length)


def error_number(buffer: Buffer, reply: Message) -> int:
    """Return the positive errno that a message carries, 0 for none or an acknowledgement.

    NLMSG_DONE ends a dump and may carry -errno as well (netlink_dump() in
    net/netlink/af_netlink.c), so a failed dump can look like a short one.
    """
    if reply.kind not in (NLMSG_ERROR, NLMSG_DONE) or reply.end - reply.start < ERRNO.size:
        return 0
    code: int = ERRNO.unpack_from(buffer, reply.start)[0]
    return -code if code < 0 else 0
