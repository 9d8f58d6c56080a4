"""The flow engine: packets and owners go in, actions come out. Pure: no I/O, no threads, no clock.

A flow is *new* when its first packet is read. Unless it can be decided at once it becomes
*pending*: its packets are held and one `Lookup` is asked for. When the owner is known
(`owner_resolved`), or the wait has been too long (`tick`), the rules decide once, the held packets
are carried, and the flow is *recent*: what was already on its way when the decision fell follows it
without a second look-up.

Rules of this file:
1. A flow is decided once. A TCP SYN with another sequence number is another flow, even on the same
   5-tuple; with the same number it is a retransmission. A UDP flow that comes back later than
   `RECENT_UDP_S` is asked for again, since its port may have changed hands.
2. A UDP decision ends with the socket it was made for (`socket_closed`): see `lifetimes`. TCP needs
   no such end, since the kernel asks again for every SYN of a new connection.
3. Nothing grows without bound: every limit below has a name, a reason and a counter.
4. A packet that names no flow is carried as the kernel would have, and counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tunowner.core.ageing import Ageing
from tunowner.core.lifetimes import Lifetimes
from tunowner.core.model import DIRECT, UDP, Decision, FlowKey, Grade, Owner
from tunowner.core.packet import FragmentKey, Segment, Unreadable, destination, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    Quick = Callable[[FlowKey], Decision | None]
    """Decides at once or not at all."""

MAX_HELD_PER_FLOW = 8
"""A SYN and its retransmissions, or the first burst of a UDP sender; Linux queues 3 for ARP."""
MAX_PENDING = 16_384
"""Flows waiting for their owner: above the largest burst we promise (10,000)."""
MAX_HELD_BYTES = 32 * 1024 * 1024
"""All held packets together. Mostly 60-byte SYNs; this caps 64 KiB datagrams."""
LOOKUP_TIMEOUT_S = 3.0
"""Then `when_unknown` applies. Below the 5 s after which resolvers give up (resolv.conf(5))."""
RECENT_TCP_S = 130.0
"""Linux sends a SYN again for 127 s at the default tcp_syn_retries = 6 (tcp(7))."""
RECENT_UDP_S = 1.0
"""Longer than a datagram waits in the TUN's queue, shorter than a port takes to be reused."""
MAX_RECENT = 16_384
"""When full the oldest goes: its retransmission costs a second look-up, nothing else."""
FRAGMENT_S = 30.0
"""Linux keeps an incomplete datagram this long (net.ipv4.ipfrag_time)."""
MAX_FRAGMENTED = 1_024
"""Datagrams whose later fragments may still come."""


_OVER = float("-inf")


def never(_: FlowKey) -> None:
    """Decide nothing at once."""


class Lookup(NamedTuple):
    """Find the owner of `flow` and report it with this `ticket`."""

    flow: FlowKey
    ticket: int


class Carry(NamedTuple):
    """Let `packet` go the way of `action`. `flow` is None when the packet names none.

    `first`: it is the flow's first since the decision, so the kernel remembers no verdict yet.
    """

    packet: bytes
    flow: FlowKey | None
    action: str
    first: bool = False


class Announce(NamedTuple):
    """Tell whoever listens that `flow` was decided."""

    flow: FlowKey
    decision: Decision


class Forget(NamedTuple):
    """Let the kernel forget the verdict of `flow`, so that its 5-tuple is asked for again."""

    flow: FlowKey


Action = Lookup | Carry | Announce | Forget


@dataclass(slots=True)
class Statistics:
    """Counters since start.

    `followers` are packets of a flow already decided, `retransmissions` SYNs of a pending one,
    `superseded` packets held for a connection that gave way to a newer one on the same ports.
    `dropped_*` packets were lost to a limit; TCP sends them again.
    """

    packets: int = 0
    flows: int = 0
    followers: int = 0
    retransmissions: int = 0
    superseded: int = 0
    lookup_timeouts: int = 0
    malformed: int = 0
    other_protocol: int = 0
    stray_fragments: int = 0
    dropped_flow_full: int = 0
    dropped_table_full: int = 0


@dataclass(slots=True)
class _Pending:
    ticket: int
    sequence: int
    deadline: float
    packets: list[bytes] = field(default_factory=list)


class _Recent(NamedTuple):
    sequence: int
    decided_at: float
    action: str


class Engine:
    """See the module's docstring. `now` is monotonic seconds and must never go back.

    `decide` is called once for each flow. With `dry_run` everything is decided and announced, and
    every packet is carried direct.
    """

    def __init__(
        self, decide: Callable[[FlowKey, Owner], Decision], *, dry_run: bool = False
    ) -> None:
        self._decide = decide
        self._dry_run = dry_run
        self._now = 0.0
        self._tickets = 0
        self._held_bytes = 0
        self._pending: dict[FlowKey, _Pending] = {}
        self._flow_of_ticket: dict[int, FlowKey] = {}
        self._recent: Ageing[FlowKey, _Recent] = Ageing(MAX_RECENT, RECENT_TCP_S)
        self._fragments: Ageing[FragmentKey, FlowKey] = Ageing(MAX_FRAGMENTED, FRAGMENT_S)
        self._lifetimes = Lifetimes()
        self._statistics = Statistics()

    def __repr__(self) -> str:
        return f"<Engine: {len(self._pending)} pending, {len(self._recent)} recent>"

    def statistics(self) -> dict[str, int]:
        """Return a snapshot of the counters, and how many flows are `pending` now."""
        return {**asdict(self._statistics), "pending": len(self._pending)}

    def packet_read(self, packet: bytes, now: float, quick: Quick = never) -> list[Action]:
        """Take one packet as read from the device.

        A new flow is put to `quick` first.
        """
        self._now = now
        self._statistics.packets += 1
        parsed = parse(packet)
        if isinstance(parsed, Segment):
            return self._segment_read(parsed, packet, quick)
        if isinstance(parsed, FragmentKey):
            return self._later_fragment_read(parsed, packet)
        return self._unreadable_read(parsed, packet)

    def owner_resolved(self, ticket: int, owner: Owner, now: float) -> list[Action]:
        """Take the answer to a `Lookup`. Late answers, after a timeout, change nothing."""
        self._now = now
        flow = self._flow_of_ticket.get(ticket)
        return [] if flow is None else self._settle(flow, owner)

    def socket_closed(self, cookie: int) -> list[Action]:
        """Take note that the kernel has closed the socket with this cookie."""
        return self._forget_all(self._lifetimes.closed(cookie))

    def sockets_lost(self) -> list[Action]:
        """Take note that sockets have closed and we were not told which."""
        return self._forget_all(self._lifetimes.lost_track())

    def tick(self, now: float) -> list[Action]:
        """Decide what has waited for too long. Call when `next_deadline` has passed."""
        self._now = now
        actions: list[Action] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            flow = next(iter(self._pending))
            self._statistics.lookup_timeouts += 1
            owner = Owner(Grade.ABSENT, resolved_at=now, detail="the look-up took too long")
            actions += self._settle(flow, owner)
        return actions

    def next_deadline(self) -> float | None:
        """Return when `tick` is due (seconds, same clock as `now`), or None."""
        # Pending flows are in order of arrival and wait equally long: the first is due first.
        return next((entry.deadline for entry in self._pending.values()), None)

    def release(self) -> list[Action]:
        """Give up all held packets to the kernel, undecided: interception has ended."""
        held = [packet for entry in self._pending.values() for packet in entry.packets]
        self._pending.clear()
        self._flow_of_ticket.clear()
        self._held_bytes = 0
        return [Carry(packet, None, DIRECT) for packet in held]

    def packet_left(self, packet: bytes) -> list[Action]:
        """Take a packet that still waited in the device when interception ended.

        It goes on undecided as well, unless its flow was decided to go another way: that way is
        closed now, so the packet ends here.
        """
        parsed = parse(packet)
        recent = self._recent.get(parsed.flow, self._now) if isinstance(parsed, Segment) else None
        if recent is not None and recent.action != DIRECT and not self._dry_run:
            return []
        return [Carry(packet, None, DIRECT)]

    def _segment_read(self, segment: Segment, packet: bytes, quick: Quick) -> list[Action]:
        flow = segment.flow
        if segment.fragment is not None:
            self._fragments.put(segment.fragment, flow, self._now)
        pending = self._pending.get(flow)
        if pending is not None:
            return self._pending_read(pending, segment, packet, quick)
        recent = self._recent.get(flow, self._now)
        if recent is not None and self._continues(recent, segment):
            return [self._follow(packet, flow, recent)]
        return self._open(segment, packet, quick)

    def _pending_read(
        self, pending: _Pending, segment: Segment, packet: bytes, quick: Quick
    ) -> list[Action]:
        if segment.flow.protocol == UDP or not segment.opens:
            return self._hold(pending, packet)
        if segment.sequence == pending.sequence:
            if not pending.packets:  # a limit took the first one
                return self._hold(pending, packet)
            self._statistics.retransmissions += 1  # the SYN that is held will do
            return []
        self._statistics.superseded += len(self._forget(segment.flow).packets)
        return self._open(segment, packet, quick)

    def _continues(self, recent: _Recent, segment: Segment) -> bool:
        if segment.flow.protocol == UDP:
            return self._now - recent.decided_at <= RECENT_UDP_S
        return not segment.opens or segment.sequence == recent.sequence

    def _later_fragment_read(self, key: FragmentKey, packet: bytes) -> list[Action]:
        flow = self._fragments.get(key, self._now)
        if flow is not None and (pending := self._pending.get(flow)):
            return self._hold(pending, packet)
        if flow is not None and (recent := self._recent.get(flow, self._now)):
            return [self._follow(packet, flow, recent)]
        self._statistics.stray_fragments += 1
        return []

    def _unreadable_read(self, reason: Unreadable, packet: bytes) -> list[Action]:
        if reason is Unreadable.MALFORMED:
            self._statistics.malformed += 1
        else:
            self._statistics.other_protocol += 1
        return [Carry(packet, None, DIRECT)] if destination(packet) else []

    def _open(self, segment: Segment, packet: bytes, quick: Quick) -> list[Action]:
        decision = quick(segment.flow)
        if decision is not None:
            self._statistics.flows += 1
            return self._decided(segment.flow, segment.sequence, [packet], decision)
        if len(self._pending) >= MAX_PENDING:
            self._statistics.dropped_table_full += 1
            return []
        self._tickets += 1
        self._statistics.flows += 1
        entry = _Pending(self._tickets, segment.sequence, self._now + LOOKUP_TIMEOUT_S)
        self._pending[segment.flow] = entry
        self._flow_of_ticket[entry.ticket] = segment.flow
        self._hold(entry, packet)
        return [Lookup(segment.flow, entry.ticket)]

    def _hold(self, entry: _Pending, packet: bytes) -> list[Action]:
        """Keep `packet` until the flow is decided; when full the newest packet is dropped."""
        if len(entry.packets) >= MAX_HELD_PER_FLOW:
            self._statistics.dropped_flow_full += 1
        elif self._held_bytes + len(packet) > MAX_HELD_BYTES:
            self._statistics.dropped_table_full += 1
        else:
            entry.packets.append(packet)
            self._held_bytes += len(packet)
        return []

    def _forget(self, flow: FlowKey) -> _Pending:
        entry = self._pending.pop(flow)
        del self._flow_of_ticket[entry.ticket]
        self._held_bytes -= sum(map(len, entry.packets))
        return entry

    def _settle(self, flow: FlowKey, owner: Owner) -> list[Action]:
        entry = self._forget(flow)
        return self._decided(flow, entry.sequence, entry.packets, self._decide(flow, owner))

    def _decided(
        self, flow: FlowKey, sequence: int, packets: list[bytes], decision: Decision
    ) -> list[Action]:
        self._recent.put(flow, _Recent(sequence, self._now, decision.action), self._now)
        way = self._way(decision.action)
        carried = [Carry(packet, flow, way, not at) for at, packet in enumerate(packets)]
        return [*carried, Announce(flow, decision), *self._watch(flow, decision)]

    def _watch(self, flow: FlowKey, decision: Decision) -> list[Action]:
        if flow.protocol != UDP:
            return []
        return self._forget_all(self._lifetimes.decided(flow, decision.owner.cookie))

    def _forget_all(self, flows: list[FlowKey]) -> list[Action]:
        for flow in flows:
            recent = self._recent.get(flow, self._now)
            if recent is not None:  # still the answer for later fragments, which have no other
                self._recent.put(flow, recent._replace(sequence=-1, decided_at=_OVER), self._now)
        return [Forget(flow) for flow in flows]

    def _follow(self, packet: bytes, flow: FlowKey, recent: _Recent) -> Carry:
        self._statistics.followers += 1
        return Carry(packet, flow, self._way(recent.action))

    def _way(self, action: str) -> str:
        return DIRECT if self._dry_run else action
