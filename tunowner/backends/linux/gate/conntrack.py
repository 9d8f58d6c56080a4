"""Delete conntrack entries, by hand-packed ctnetlink messages because it lies on a flow's path.

NAT is bound once for each conntrack entry. A UDP flow's first pass (into the TUN) makes an entry whose
binding is "none", so NAT would be skipped on the second pass: an outbound's packet would leave with
the wrong source, and a flow that somebody else redirects (kube-proxy, a transparent proxy) would miss
its target. Therefore that entry is deleted before the packet is sent again.

A verdict that has ended is another matter: were the entry deleted, an answer still on its way would
make one the other way round, and all that any program then sends would pass as answers of a server
of ours. So the entry stays and its mark says "ask again", unless NAT is bound to it.

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
    ATTRIBUTE,
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_REQUEST,
    error_number,
    iter_attributes,
    iter_messages,
    message,
)
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from tunowner.backends.linux.netlink import Message
    from tunowner.core.model import FlowKey

_SET, _GET, _DELETE = (1 << 8) | 0, (1 << 8) | 1, (1 << 8) | 2
"""NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW, _GET, _DELETE; NEW changes what is there."""
_GENERIC = struct.Struct("!BBH")  # struct nfgenmsg: family, version, resource
_PORTS = struct.Struct("!HH")
_MARKED = struct.Struct("=2H4s 2H4s")
"""Two attributes: a mark and its mask."""
_TUPLE_ORIG, _STATUS, _MARK, _MARK_MASK = 1, 3, 8, 21  # CTA_*
_NAT = 0x30
"""IPS_SRC_NAT | IPS_DST_NAT of <linux/netfilter/nf_conntrack_common.h>."""
_TUPLE_IP, _TUPLE_PROTO = 1, 2
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
        self._ask(_DELETE, *_select(flow))

    def ask_again(self, flow: FlowKey, mark: int, mask: int) -> None:
        """Replace the flow's verdict by `mark`, under `mask`; where NAT is bound, delete the entry."""
        family, entry = _select(flow)
        marking = self._request(_SET, 0, family, entry + _mark(mark, mask))
        buffer, reply = self._exchange(marking + self._request(_GET, 0, family, entry))
        if _status(buffer, reply) & _NAT:
            self._ask(_DELETE, family, entry)

    def flush(self, mark: int, mask: int) -> None:
        """Delete every entry of this network namespace with that mark under that mask."""
        self._ask(_DELETE, socket.AF_UNSPEC, _mark(mark, mask))

    def _ask(self, kind: int, family: int, body: bytes) -> None:
        self._exchange(self._request(kind, NLM_F_ACK, family, body))

    def _request(self, kind: int, flags: int, family: int, body: bytes) -> bytes:
        self._sequence += 1
        head = _GENERIC.pack(family, 0, 0)
        return message(kind, NLM_F_REQUEST | flags, self._sequence, head + body)

    def _exchange(self, requests: bytes) -> tuple[bytes, Message]:
        """Return the answer to the last one, which is made inside send(); ENOENT is one, too."""
        self._socket.send(requests)
        while True:
            buffer = self._socket.recv(8192)
            for reply in iter_messages(buffer):
                _check(error_number(buffer, reply))
                if reply.sequence == self._sequence:
                    return buffer, reply


def _status(buffer: bytes, reply: Message) -> int:
    """Return IPS_* of the entry that was asked for, 0 where there is none."""
    attributes = iter_attributes(buffer, reply.start + _GENERIC.size, reply.end)
    found = (value for kind, value in attributes if kind == _STATUS)
    return int.from_bytes(next(found, b""), "big") if reply.kind == _SET else 0


def _check(code: int) -> None:
    if code not in (0, errno.ENOENT):
        raise BackendError(f"refused ({os.strerror(code)})", where="conntrack")


class _TupleLayout:
    """CTA_TUPLE_ORIG with addresses of `size` bytes, so that it is packed in one go."""

    def __init__(self, size: int, source: int, destination: int) -> None:
        header = ATTRIBUTE.size
        address, ports = header + size, header + 3 * 8
        addresses = header + 2 * address
        whole = (header + addresses + ports, _TUPLE_ORIG | NLA_F_NESTED)
        self._layout = struct.Struct(f"=4H 2H{size}s 2H{size}s 2H 2HB3x 2H2s2x 2H2s2x")
        self._nests = (*whole, addresses, _TUPLE_IP | NLA_F_NESTED)
        self._from, self._to = (address, source), (address, destination)
        self._numbers = (ports, _TUPLE_PROTO | NLA_F_NESTED, header + 1, _PROTO_NUMBER)
        self._sport, self._dport = (header + 2, _PROTO_SOURCE), (header + 2, _PROTO_DESTINATION)

    def pack(self, flow: FlowKey) -> bytes:
        ends = _PORTS.pack(flow.local_port, flow.remote_port)
        return self._layout.pack(
            *self._nests, *self._from, flow.local, *self._to, flow.remote,
            *self._numbers, flow.protocol, *self._sport, ends[:2], *self._dport, ends[2:],
        )  # fmt: skip


_FAMILIES = {
    4: (socket.AF_INET, _TupleLayout(4, 1, 2)),  # CTA_IP_V4_SRC, CTA_IP_V4_DST
    16: (socket.AF_INET6, _TupleLayout(16, 3, 4)),  # CTA_IP_V6_SRC, CTA_IP_V6_DST
}


def _select(flow: FlowKey) -> tuple[int, bytes]:
    """Return the family of a flow, and the attribute that names it."""
    family, layout = _FAMILIES[len(flow.local)]
    return family, layout.pack(flow)


def _mark(mark: int, mask: int) -> bytes:
    bits, under = mark.to_bytes(4, "big"), mask.to_bytes(4, "big")
    return _MARKED.pack(_MARKED.size // 2, _MARK, bits, _MARKED.size // 2, _MARK_MASK, under)
