"""By which interface would a flow leave? Asked of the kernel, as `ip route get` does.

A request is `struct rtmsg` and attributes, the answer the route that the kernel would take for a
packet without a mark (rtnetlink(7), RTM_GETROUTE). It costs about 20 us.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from tunowner.backends.linux import netlink

if TYPE_CHECKING:
    from tunowner.core.model import FlowKey

_NETLINK_ROUTE = 0
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTMSG = struct.Struct("=BBBBBBBBI")
"""`struct rtmsg`: family, lengths of destination and source, tos, table, protocol, scope, type,
flags."""
_RTA_DST, _RTA_SRC, _RTA_OIF = 1, 2, 4
_INDEX = struct.Struct("=I")


def interface_of(flow: FlowKey) -> str | None:
    """Return the name of the interface, None where no route leads there."""
    bits = 8 * len(flow.remote)
    family = socket.AF_INET if bits == 32 else socket.AF_INET6
    known = any(flow.local)
    body = _RTMSG.pack(family, bits, bits if known else 0, 0, 0, 0, 0, 0, 0)
    body += netlink.pack_attribute(_RTA_DST, flow.remote)
    if known:
        body += netlink.pack_attribute(_RTA_SRC, flow.local)
    request = netlink.message(_RTM_GETROUTE, netlink.NLM_F_REQUEST, 1, body)
    with (
        suppress(OSError),
        socket.socket(netlink.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as it,
    ):
        it.settimeout(1.0)
        it.send(request)
        return _interface(it.recv(8192))
    return None


def _interface(reply: bytes) -> str | None:
    for message in netlink.iter_messages(reply):
        if message.kind == _RTM_NEWROUTE:
            start = message.start + _RTMSG.size
            for kind, payload in netlink.iter_attributes(reply, start, message.end):
                if kind == _RTA_OIF and len(payload) == _INDEX.size:
                    return socket.if_indextoname(_INDEX.unpack(payload)[0])
    return None
