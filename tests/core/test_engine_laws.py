"""What holds for the engine whatever comes in: no packet is lost unseen, nothing grows, none raises."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.core import packets as p
from tunowner.core.engine import (
    LOOKUP_TIMEOUT_S,
    MAX_HELD_BYTES,
    MAX_HELD_PER_FLOW,
    Action,
    Announce,
    Carry,
    Engine,
    Forget,
    Lookup,
)
from tunowner.core.model import (
    BLOCK,
    DIRECT,
    TCP,
    UDP,
    Decision,
    FlowKey,
    Grade,
    Owner,
    Process,
)
from tunowner.core.packet import FragmentKey, Segment, destination, parse

if TYPE_CHECKING:
    from collections.abc import Callable

OWNERS = [
    Owner(Grade.EXACT, (Process(812, 1, "/usr/bin/curl"),), cookie=5),
    Owner(Grade.AMBIGUOUS, (Process(1, 1), Process(2, 2))),
    Owner(Grade.ABSENT),
]
LOST = (
    "retransmissions",
    "superseded",
    "stray_fragments",
    "dropped_flow_full",
    "dropped_table_full",
)
"""Counters of packets that go nowhere."""

ports = st.integers(1, 3)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Packets of few flows, so that they meet: whole, in fragments, of other kinds, and broken."""
    makes: list[Callable[[bytes, int], bytes]] = [p.ipv4, p.ipv6]
    make = draw(st.sampled_from(makes))
    flags = draw(st.sampled_from([p.SYN, p.SYN, p.ACK, p.SYN | p.ACK]))
    syn = p.tcp(draw(ports), 80, draw(st.integers(1, 2)), flags)
    datagram = p.udp(draw(ports), 53, bytes(draw(st.integers(0, 9))))
    ident = draw(st.integers(1, 2))
    kinds: list[bytes] = [
        make(syn, TCP),
        make(datagram, UDP),
        p.ipv4(datagram, UDP, more=True, ident=ident),
        p.ipv4(b"12345678", UDP, frag=1, ident=ident),
        p.ipv6(p.fragment(TCP, more=True, ident=ident) + syn, p.FRAGMENT),
        p.ipv6(p.fragment(TCP, frag=1, ident=ident) + b"12345678", p.FRAGMENT),
        make(bytes(8), p.ICMP6),
        make(syn, TCP)[: draw(st.integers(0, 50))],
    ]
    return draw(st.sampled_from(kinds))


class EngineMachine(RuleBasedStateMachine):
    """Packets, answers (wrong and late ones too) and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(self.decide)
        self.now = 100.0
        self.read: Counter[bytes] = Counter()
        self.carried: Counter[bytes] = Counter()
        self.nowhere = 0
        self.asked: dict[int, FlowKey] = {}
        self.decided: list[FlowKey] = []
        self.announced: list[FlowKey] = []

    def decide(self, flow: FlowKey, owner: Owner) -> Decision:
        self.decided.append(flow)
        return Decision(DIRECT if owner.process else BLOCK, owner)

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Carry(packet, flow, verdict):
                    self.carried[packet] += 1
                    assert flow is not None or verdict == DIRECT
                    assert self.agrees(packet, flow)
                case Lookup(flow, ticket):
                    assert ticket not in self.asked
                    self.asked[ticket] = flow
                case Announce(flow, _):
                    self.announced.append(flow)
                case Forget(flow):
                    recent = self.engine._recent.get(flow, self.now)
                    assert recent is None or recent.decided_at < 0

    @staticmethod
    def agrees(packet: bytes, flow: FlowKey | None) -> bool:
        """Whether a packet was carried as one of its own flow."""
        parsed = parse(packet)
        if isinstance(parsed, FragmentKey):
            return flow is None or (flow.local, flow.remote) == (parsed.source, parsed.destination)
        return flow is None or (isinstance(parsed, Segment) and flow == parsed.flow)

    @rule(packet=packets(), known=st.sampled_from([None, None, *OWNERS]))
    def packet_read(self, packet: bytes, known: Owner | None) -> None:
        """The owner is `known` at once, or not."""

        def quick(flow: FlowKey) -> Decision | None:
            return None if known is None else self.decide(flow, known)

        self.read[packet] += 1
        self.nowhere += destination(packet) is None
        actions = self.engine.packet_read(packet, self.now, quick)
        assert known is None or not any(isinstance(action, Lookup) for action in actions)
        self.perform(actions)

    @rule(packet=st.binary(max_size=100))
    def junk_read(self, packet: bytes) -> None:
        self.packet_read(packet, None)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS))
    def owner_resolved(self, data: st.DataObject, owner: Owner) -> None:
        """The ticket may have been answered before, be late, or be given up."""
        ticket = data.draw(st.sampled_from(sorted(self.asked)))
        before = len(self.decided)
        self.perform(self.engine.owner_resolved(ticket, owner, self.now))
        if len(self.decided) > before:
            assert self.decided[before:] == [self.asked[ticket]]
            again = self.engine.owner_resolved(ticket, owner, self.now)
            assert again == [], "a ticket is answered once"

    @rule(ticket=st.integers())
    def a_ticket_that_nobody_gave_out(self, ticket: int) -> None:
        if ticket not in self.asked:
            assert self.engine.owner_resolved(ticket, OWNERS[0], self.now) == []

    @rule(seconds=st.sampled_from([0.0, 0.4, 1.0, 1.1, 3.0, 40.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.engine.tick(self.now))
        due = self.engine.next_deadline()
        assert due is None or self.now < due <= self.now + LOOKUP_TIMEOUT_S

    @rule(cookie=st.sampled_from([5, 6]))
    def socket_closed(self, cookie: int) -> None:
        self.perform(self.engine.socket_closed(cookie))

    @rule()
    def sockets_lost(self) -> None:
        self.perform(self.engine.sockets_lost())

    @rule()
    def release(self) -> None:
        self.perform(self.engine.release())
        assert self.engine.statistics()["pending"] == 0

    @invariant()
    def no_packet_is_lost_unseen(self) -> None:
        counts = self.engine.statistics()
        lost = self.nowhere + sum(counts[name] for name in LOST)
        held = sum(len(entry.packets) for entry in self.engine._pending.values())
        assert counts["packets"] == self.read.total()
        assert self.read.total() == self.carried.total() + held + lost

    @invariant()
    def no_packet_is_carried_twice(self) -> None:
        assert self.carried <= self.read

    @invariant()
    def held_bytes_are_those_of_the_held_packets(self) -> None:
        held = [entry.packets for entry in self.engine._pending.values()]
        size = sum(len(packet) for packets in held for packet in packets)
        assert self.engine._held_bytes == size <= MAX_HELD_BYTES
        assert all(len(packets) <= MAX_HELD_PER_FLOW for packets in held)

    @invariant()
    def each_decision_is_announced(self) -> None:
        assert self.announced == self.decided

    @invariant()
    def every_pending_flow_has_one_ticket(self) -> None:
        tickets = {entry.ticket: flow for flow, entry in self.engine._pending.items()}
        assert tickets == self.engine._flow_of_ticket

    def teardown(self) -> None:
        self.perform(self.engine.tick(self.now + LOOKUP_TIMEOUT_S))
        assert self.engine.statistics()["pending"] == 0
        assert self.engine.next_deadline() is None
        self.no_packet_is_lost_unseen()


TestEngineLaws = EngineMachine.TestCase
TestEngineLaws.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
