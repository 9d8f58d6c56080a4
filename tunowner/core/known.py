"""Flows that were decided, and the shortest way from a packet's bytes to what was decided. Pure.

Nearly every packet belongs to a flow that is known, and looks like the one before it. So a flow is
found by the fixed bytes of its headers, taken out by one `struct` call; whatever has IPv4 options,
IPv6 extension headers, a fragment or a SYN is not found that way, and takes the long one (`find`).
Both give the same answer; `tests/core/test_known.py` holds one against the other.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError  # noqa: N812 - struct.error says nothing in an `except`
from typing import TYPE_CHECKING, NamedTuple

from tunowner.core.model import TCP, Decision, FlowKey, Grade, Owner

if TYPE_CHECKING:
    from tunowner.core.packet import Segment

_V4 = Struct("!B5xHxB2x12s")  # version+ihl, flags+offset, protocol, addresses and ports
_V6 = Struct("!6xBx36s")  # next header, addresses and ports
_V4_PLAIN = 0x45
"""IPv4 without options: its ports are 20 bytes in, TCP's flags 33."""
_V4_HEADER, _V6_HEADER = 20, 40
_TCP_HEADER, _UDP_HEADER = 20, 8
_TCP_FLAGS = 13
_SYN = 0x02

MAX_KNOWN = 65_536
"""Flows; about 40 MB. Beyond it the oldest is forgotten, and looked up again if it goes on."""
TCP_IDLE_S = 300.0
"""A connection that was silent for longer is looked up again; its socket tells the same as before.
While it speaks it keeps its owner: its last packets come when nobody holds the socket any more."""
UDP_IDLE_S = 30.0
"""The same for a connected UDP socket whose end would be told; conntrack's nf_conntrack_udp_timeout."""
UDP_S = 1.0
"""Any other UDP port may change hands unnoticed, so its flows are looked up once a second."""
DOUBTFUL_S = 0.075
"""Where nobody could be named: a burst costs one look-up, and the next packet may know more."""


class Lifetime(NamedTuple):
    """How long a decision holds, in seconds; `idle`: counted anew from each packet."""

    seconds: float
    idle: bool


def lifetime(flow: FlowKey, owner: Owner, *, end_is_told: bool) -> Lifetime:
    """Return how long what was decided may be repeated.

    `end_is_told`: the flow will be forgotten as soon as its socket is closed.
    """
    if owner.process is None:
        return Lifetime(DOUBTFUL_S, idle=False)
    if flow.protocol == TCP:
        return Lifetime(TCP_IDLE_S, idle=True)
    if end_is_told and owner.grade is Grade.EXACT:
        return Lifetime(UDP_IDLE_S, idle=True)
    return Lifetime(UDP_S, idle=False)


def syn_sequence(packet: bytes | memoryview, segment: Segment) -> int | None:
    """Return the sequence number of a SYN, with ACK or without; None for any other packet.

    A SYN with another number than the last one is another connection on the same ports.
    """
    if segment.flow.protocol == TCP and packet[segment.offset + _TCP_FLAGS] & _SYN:
        return segment.sequence
    return None


_Header = tuple[object, ...]


class _Known:
    """A flow and its decision. `least` is the length of its shortest sound packet."""

    __slots__ = ("decision", "flow", "headers", "idle", "is_tcp", "least", "sequence", "until")

    def __init__(self, flow: FlowKey, decision: Decision, sequence: int | None) -> None:
        self.flow = flow
        self.decision = decision
        self.sequence = sequence
        self.is_tcp = flow.protocol == TCP
        self.headers: list[_Header] = []
        self.until = self.idle = 0.0
        network = _V4_HEADER if len(flow.local) == 4 else _V6_HEADER
        self.least = network + (_TCP_HEADER if self.is_tcp else _UDP_HEADER)


class KnownFlows:
    """At most `limit` flows. `now` (seconds) may not go back by much."""

    def __init__(self, limit: int = MAX_KNOWN) -> None:
        self._limit = limit
        self._flows: dict[FlowKey, _Known] = {}
        self._by_header: dict[_Header, _Known] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def follow(self, packet: bytes | memoryview, now: float) -> Decision | None:
        """Return the decision on the flow of a plain packet; None says no more than: ask `find`.

        Safe to call while another thread changes the flows.
        """
        try:
            if packet[0] == _V4_PLAIN:
                known = self._by_header[_V4.unpack_from(packet)]
                length, flags = packet[2] << 8 | packet[3], _V4_HEADER + _TCP_FLAGS
            elif packet[0] >> 4 == 6:
                known = self._by_header[_V6.unpack_from(packet)]
                length = _V6_HEADER + (packet[4] << 8 | packet[5])
                flags = _V6_HEADER + _TCP_FLAGS
            else:
                return None
        except (KeyError, IndexError, StructError):
            return None
        if now >= known.until or not known.least <= length <= len(packet):
            return None
        if known.is_tcp and packet[flags] & _SYN:
            return None
        if known.idle:
            known.until = now + known.idle
        return known.decision

    def find(self, packet: bytes | memoryview, segment: Segment, now: float) -> Decision | None:
        """Return the decision on the flow of `packet`, which was read as `segment`."""
        known = self._flows.get(segment.flow)
        if known is None or now >= known.until:
            return None
        sequence = syn_sequence(packet, segment)
        if sequence is not None and sequence != known.sequence:
            return None
        if known.idle:
            known.until = now + known.idle
        self._note_header(known, packet, segment)
        return known.decision

    def put(
        self, flow: FlowKey, decision: Decision, sequence: int | None, life: Lifetime, now: float
    ) -> None:
        """Know a flow from now on, in place of what was known of it. `sequence`: of its SYN.

        Of two answers that overtook each other the one that was found later counts.
        """
        before = self._flows.get(flow)
        if before and before.decision.owner.resolved_at > decision.owner.resolved_at:
            return
        self.forget(flow)
        self._make_room(now)
        known = self._flows[flow] = _Known(flow, decision, sequence)
        known.until = now + life.seconds
        known.idle = life.seconds if life.idle else 0.0

    def forget(self, flow: FlowKey) -> None:
        """Know a flow no more; one that is not known is no mistake."""
        known = self._flows.pop(flow, None)
        for header in known.headers if known else ():
            self._by_header.pop(header, None)

    def clear(self) -> None:
        self._by_header.clear()
        self._flows.clear()

    def _note_header(self, known: _Known, packet: bytes | memoryview, segment: Segment) -> None:
        header = _plain_header(packet, segment)
        if header is not None and header not in self._by_header:
            known.headers.append(header)
            self._by_header[header] = known

    def _make_room(self, now: float) -> None:
        """Look at the two oldest: those over go, those alive go to the end of the queue."""
        for _ in range(min(2, len(self._flows))):
            oldest = next(iter(self._flows.values()))
            if now >= oldest.until:
                self.forget(oldest.flow)
            elif oldest.idle:
                self._flows[oldest.flow] = self._flows.pop(oldest.flow)
        while len(self._flows) >= self._limit:
            self.forget(next(iter(self._flows)))


def _plain_header(packet: bytes | memoryview, segment: Segment) -> _Header | None:
    """Return what `follow` would look for, None for a packet that it leaves alone."""
    if segment.fragment is not None:
        return None
    if packet[0] == _V4_PLAIN:
        return _V4.unpack_from(packet)
    plain = packet[0] >> 4 == 6 and segment.offset == _V6_HEADER
    return _V6.unpack_from(packet) if plain else None
