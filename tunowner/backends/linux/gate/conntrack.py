"""Delete conntrack entries, by hand-packed ctnetlink messages because it lies on a flow's path.

NAT is bound once for each conntrack entry. A flow's first pass (into the TUN) makes an entry whose
binding is "none", so NAT would be skipped on the second pass: an outbound's packet would leave with
the wrong source, and a flow that somebody else redirects (kube-proxy, a transparent proxy) would miss
its target. Therefore that entry is deleted before the packet is sent again.

Messages: <linux/netfilter/nfnetlink.h>, <linux/netfilter/nfnetlink_conntrack.h>.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from tunowner.backends.linux.netlink import (
    AF_NETLINK,
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_REQUEST,
    error_number,
    iter_messages,
    message,
    pack_attribute,
)
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from tunowner.core.model import FlowKey

_DELETE = (1 << 8) | 2  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
_GENERIC = struct.Struct("!BBH")  # struct nfgenmsg: family, version, resource
_U16, _U32 = struct.Struct("!H"), struct.Struct("!I")
_TUPLE_ORIG, _MARK, _MARK_MASK = 1, 8, 21  # CTA_*
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_ADDRESSES = {4: (1, 2), 16: (3, 4)}  # CTA_IP_V4_SRC/DST, CTA_IP_V6_SRC/DST
_PROTO_NUMBER, _PROTO_SOURCE, _PROTO_DESTINATION = 1, 2, 3


class Conntrack:
    """A ctnetlink socket. Not thread safe."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
            self._socket.bind((0, 0))
        except OSError as error:
            raise BackendError(
                f"no netfilter netlink ({error.strerror})",
                where="conntrack",
                hint="The kernel needs CONFIG_NF_CT_NETLINK: modprobe nf_conntrack_netlink",
            ) from error
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def forget(self, flow: FlowKey) -> None:
        """Delete the flow's entry: its NAT binding and the verdict that the kernel remembers."""
        self._delete(_family(flow), _flow_tuple(flow))

    def flush(self, mark: int, mask: int) -> None:
        """Delete every entry of this network namespace with that mark under that mask."""
        select = pack_attribute(_MARK, _U32.pack(mark)) + pack_attribute(
            _MARK_MASK, _U32.pack(mask)
        )
        self._delete(socket.AF_UNSPEC, select)

    def _delete(self, family: int, body: bytes) -> None:
        """Delete what `body` selects; nothing to delete is fine. The answer is made inside send()."""
        self._sequence += 1
        flags = NLM_F_REQUEST | NLM_F_ACK
        request = message(_DELETE, flags, self._sequence, _GENERIC.pack(family, 0, 0) + body)
        self._socket.send(request)
        while True:
            buffer = self._socket.recv(8192)
            for reply in iter_messages(buffer):
                if reply.sequence == self._sequence:
                    return _check(error_number(buffer, reply))


def _check(code: int) -> None:
    if code not in (0, errno.ENOENT):
        raise BackendError(f"refused ({os.strerror(code)})", where="conntrack")


def _family(flow: FlowKey) -> int:
    return socket.AF_INET if len(flow.local) == 4 else socket.AF_INET6


def _flow_tuple(flow: FlowKey) -> bytes:
    source, destination = _ADDRESSES[len(flow.local)]
    addresses = pack_attribute(source, flow.local) + pack_attribute(destination, flow.remote)
    ports = (
        pack_attribute(_PROTO_NUMBER, bytes([flow.protocol]))
        + pack_attribute(_PROTO_SOURCE, _U16.pack(flow.local_port))
        + pack_attribute(_PROTO_DESTINATION, _U16.pack(flow.remote_port))
    )
    return pack_attribute(
        _TUPLE_ORIG | NLA_F_NESTED,
        pack_attribute(_TUPLE_IP | NLA_F_NESTED, addresses)
        + pack_attribute(_TUPLE_PROTO | NLA_F_NESTED, ports),
    )
