"""Send a packet again, with a verdict's mark, on the kernel's normal way out.

A raw socket with IP_HDRINCL (raw(7), ipv6(7)) takes the packet as it stands; the kernel fills in
nothing but what is zero. SO_MARK (socket(7)) needs CAP_NET_ADMIN or, since Linux 5.17, CAP_NET_RAW.
Unlike writing to the TUN this needs no forwarding, no rp_filter change, and costs no hop.
"""

from __future__ import annotations

import errno
import socket
import struct
from enum import Enum, auto
from typing import TYPE_CHECKING

from tunowner.core.model import UDP
from tunowner.core.packet import Segment, parse
from tunowner.errors import PrivilegeError

if TYPE_CHECKING:
    from tunowner.core.model import FlowKey

_SO_MARK = 36
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50
_U32 = struct.Struct("=I")
_IN_PKTINFO = struct.Struct("=i4s4s")  # interface, source, unused
_IN6_PKTINFO = struct.Struct("=16si")
_SEND_BUFFER = 4 * 1024 * 1024
"""Room for a burst: what does not fit is lost and counted, the loop never waits for it."""


class Sent(Enum):
    """What became of a packet."""

    YES = auto()
    REFUSED = auto()
    """A firewall rule said no; after a refusing verdict that is what was asked for."""
    NO_ROUTE = auto()
    LOST = auto()
    """Queues full, or a packet that the kernel does not accept."""


_OUTCOMES = {
    errno.EPERM: Sent.REFUSED,
    errno.EACCES: Sent.REFUSED,
    errno.ECONNREFUSED: Sent.REFUSED,
    errno.ENETUNREACH: Sent.NO_ROUTE,
    errno.EHOSTUNREACH: Sent.NO_ROUTE,
    errno.ENETDOWN: Sent.NO_ROUTE,
    errno.ENODEV: Sent.NO_ROUTE,
    errno.EADDRNOTAVAIL: Sent.NO_ROUTE,
}


class Sender:
    """One raw socket for each (IP version, mark), opened when first used.

    Raises PrivilegeError when raw sockets may not be opened.
    """

    def __init__(self) -> None:
        self._sockets: dict[tuple[int, int], socket.socket] = {}
        try:
            _marked_socket(socket.AF_INET, socket.IPPROTO_RAW, 0).close()
        except PermissionError as error:
            raise PrivilegeError(
                "cannot open a raw socket: CAP_NET_RAW is missing",
                where="sender",
                hint="Run with sudo, or give the service AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW",
            ) from error

    def close(self) -> None:
        while self._sockets:
            self._sockets.popitem()[1].close()

    def send(self, packet: bytes, destination: bytes, mark: int, flow: FlowKey | None) -> Sent:
        """Send `packet` to the packed `destination`."""
        family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
        raw = self._sockets.get((family, mark)) or self._open(family, mark)
        target = (socket.inet_ntop(family, destination), 0)
        try:
            raw.sendto(packet, target)
        except OSError as error:
            if error.errno == errno.EMSGSIZE and flow is not None and flow.protocol == UDP:
                return _send_in_fragments(packet, flow, family, mark)
            return _OUTCOMES.get(error.errno or 0, Sent.LOST)
        return Sent.YES

    def _open(self, family: int, mark: int) -> socket.socket:
        raw = _marked_socket(family, socket.IPPROTO_RAW, mark)
        self._sockets[family, mark] = raw
        return raw


def _marked_socket(family: int, protocol: int, mark: int) -> socket.socket:
    raw = socket.socket(family, socket.SOCK_RAW, protocol)
    raw.setblocking(False)
    raw.setsockopt(socket.SOL_SOCKET, _SO_MARK, _U32.pack(mark))  # a plain int is signed
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return raw


def _send_in_fragments(packet: bytes, flow: FlowKey, family: int, mark: int) -> Sent:
    """Send a datagram larger than the MTU of its way: here the kernel must write the IP header.

    IP_HDRINCL forbids that the kernel fragments (raw(7), EMSGSIZE), so the UDP part goes out on a
    raw UDP socket. IP options and the identification are lost, which no receiver can tell from a
    datagram that the program's own socket sent.
    """
    segment = parse(packet)
    if not isinstance(segment, Segment):
        return Sent.LOST
    datagram = memoryview(packet)[segment.offset :]
    if family == socket.AF_INET:
        info = (socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, flow.local, bytes(4)))
    else:
        info = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, _IN6_PKTINFO.pack(flow.local, 0))
    target = (socket.inet_ntop(family, flow.remote), 0)
    # A raw UDP socket is given a copy of all datagrams that arrive, so it lives for one call only.
    with _marked_socket(family, socket.IPPROTO_UDP, mark) as raw:
        try:
            raw.sendmsg([datagram], [info], 0, target)
        except OSError as error:
            return _OUTCOMES.get(error.errno or 0, Sent.LOST)
    return Sent.YES
