"""The flow engine as transcripts: packets, answers and time go in, actions come out."""

from __future__ import annotations

import pytest

from tests.core import packets as p
from tunowner.core import engine as limits
from tunowner.core.engine import Action, Announce, Carry, Engine, Forget, Lookup
from tunowner.core.model import (
    BLOCK,
    DIRECT,
    DROP,
    TCP,
    UDP,
    Decision,
    FlowKey,
    Grade,
    Owner,
    Process,
)

CURL = Owner(Grade.EXACT, (Process(812, 1, "/usr/bin/curl"),), cookie=77)
TCP4, UDP4 = p.flow(TCP), p.flow(UDP)


def unmarked(actions: list[Action]) -> list[Action]:
    """Check that of the packets of a decision just the first one says so; then leave that out."""
    carried = [action for action in actions if isinstance(action, Carry)]
    assert [carry.first for carry in carried] == [True, *[False] * (len(carried) - 1)][
        : len(carried)
    ]
    return [it._replace(first=False) if isinstance(it, Carry) else it for it in actions]


class Desk:
    """An engine whose rules send every flow the same way, and what those rules were asked."""

    def __init__(self, action: str = "vpn", *, dry_run: bool = False) -> None:
        self.action = action
        self.asked: list[tuple[FlowKey, Owner]] = []
        self.engine = Engine(self.decide, dry_run=dry_run)

    def decide(self, flow: FlowKey, owner: Owner) -> Decision:
        self.asked.append((flow, owner))
        return Decision(self.action, owner, rule="the rule")

    def read(self, packet: bytes, at: float = 0.0) -> list[Action]:
        return self.engine.packet_read(packet, at)

    def answer(self, ticket: int, owner: Owner = CURL, at: float = 0.0) -> list[Action]:
        return unmarked(self.engine.owner_resolved(ticket, owner, at))

    def decided(self, packet: bytes, at: float = 0.0) -> None:
        """Let the flow of `packet` be decided."""
        (lookup,) = self.read(packet, at)
        assert isinstance(lookup, Lookup)
        self.answer(lookup.ticket, at=at)

    def count(self, name: str) -> int:
        return self.engine.statistics()[name]

    def announce(self, flow: FlowKey, owner: Owner = CURL) -> Announce:
        return Announce(flow, Decision(self.action, owner, rule="the rule"))


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize(
    ("packet", "flow"),
    [
        (p.SYN4, p.flow(TCP)),
        (p.SYN6, p.flow(TCP, ipv6=True)),
        (p.UDP4, p.flow(UDP)),
        (p.UDP6, p.flow(UDP, ipv6=True)),
    ],
)
def test_a_new_flow_is_looked_up_decided_carried_and_announced(
    desk: Desk, packet: bytes, flow: FlowKey
) -> None:
    assert desk.read(packet) == [Lookup(flow, 1)]
    assert desk.asked == []
    assert desk.answer(1) == [Carry(packet, flow, "vpn"), desk.announce(flow)]
    assert desk.asked == [(flow, CURL)]
    assert (desk.count("packets"), desk.count("flows"), desk.count("pending")) == (1, 1, 0)


def test_a_flow_that_is_decided_at_once_is_never_pending(desk: Desk) -> None:
    quick = {TCP4: desk.announce(TCP4).decision}.get
    actions = desk.engine.packet_read(p.SYN4, 0.0, quick)
    assert actions == [Carry(p.SYN4, TCP4, "vpn", first=True), desk.announce(TCP4)]
    assert desk.engine.packet_read(p.UDP4, 0.0, quick) == [Lookup(UDP4, 1)]
    assert (desk.count("flows"), desk.count("pending")) == (2, 1)
    again = desk.engine.packet_read(p.SYN4, 1.0, quick)
    assert again == [Carry(p.SYN4, TCP4, "vpn")], "a retransmission"
    assert desk.asked == []


def test_the_next_connection_on_a_pending_flows_ports_may_be_decided_at_once(desk: Desk) -> None:
    assert desk.read(p.SYN4) == [Lookup(TCP4, 1)]
    newer, decision = p.ipv4(p.tcp(seq=8)), desk.announce(TCP4).decision
    (carried, _) = desk.engine.packet_read(newer, 0.0, lambda _: decision)
    assert carried == Carry(newer, TCP4, "vpn", first=True)
    assert desk.answer(1) == []
    assert (desk.count("superseded"), desk.count("pending")) == (1, 0)


def test_flows_of_one_moment_have_tickets_of_their_own_and_any_order_of_answers(desk: Desk) -> None:
    other = p.ipv4(p.tcp(sport=40001))
    assert desk.read(p.SYN4) == [Lookup(TCP4, 1)]
    assert desk.read(other) == [Lookup(p.flow(sport=40001), 2)]
    assert desk.answer(2)[0] == Carry(other, p.flow(sport=40001), "vpn")
    assert desk.answer(1)[0] == Carry(p.SYN4, TCP4, "vpn")


def test_an_answer_counts_once_and_an_unknown_ticket_for_nothing(desk: Desk) -> None:
    desk.decided(p.SYN4)
    assert desk.answer(1) == []
    assert desk.answer(99) == []
    assert len(desk.asked) == 1


def test_held_packets_are_carried_in_their_order(desk: Desk) -> None:
    burst = [p.ipv4(p.udp(data=bytes([number])), UDP) for number in range(5)]
    assert desk.read(burst[0]) == [Lookup(UDP4, 1)]
    assert [desk.read(packet) for packet in burst[1:]] == [[]] * 4
    carried = [Carry(packet, UDP4, "vpn") for packet in burst]
    assert desk.answer(1) == [*carried, desk.announce(UDP4)]


class TestTcp:
    def test_a_retransmitted_syn_of_a_pending_flow_is_not_held_again(self, desk: Desk) -> None:
        desk.read(p.SYN4)
        assert desk.read(p.SYN4, at=1.0) == []
        assert desk.count("retransmissions") == 1
        assert desk.answer(1, at=1.1) == [Carry(p.SYN4, TCP4, "vpn"), desk.announce(TCP4)]

    def test_a_retransmitted_syn_of_a_decided_flow_follows_it(self, desk: Desk) -> None:
        desk.decided(p.SYN4)
        for at in (1.0, 3.0, 7.0, 127.0):
            assert desk.read(p.SYN4, at) == [Carry(p.SYN4, TCP4, "vpn")]
        assert len(desk.asked) == 1
        assert desk.count("followers") == 4

    def test_a_retransmission_after_everything_was_forgotten_is_a_new_flow(
        self, desk: Desk
    ) -> None:
        desk.decided(p.SYN4)
        later = limits.RECENT_TCP_S + 0.1
        assert desk.read(p.SYN4, later) == [Lookup(TCP4, 2)]

    def test_a_syn_with_another_sequence_takes_the_place_of_a_pending_one(self, desk: Desk) -> None:
        again = p.ipv4(p.tcp(seq=8))
        desk.read(p.SYN4)
        assert desk.read(again) == [Lookup(TCP4, 2)]
        assert desk.answer(1) == [], "the answer is about a socket that has gone"
        assert desk.asked == []
        assert desk.answer(2) == [Carry(again, TCP4, "vpn"), desk.announce(TCP4)]
        assert (desk.count("superseded"), desk.count("flows")) == (1, 2)

    def test_a_syn_with_another_sequence_waits_its_full_time(self, desk: Desk) -> None:
        desk.read(p.SYN4, at=0.0)
        desk.read(p.ipv4(p.tcp(seq=8)), at=2.0)
        assert desk.engine.next_deadline() == 2.0 + limits.LOOKUP_TIMEOUT_S

    def test_a_syn_with_another_sequence_after_the_decision_is_another_flow(
        self, desk: Desk
    ) -> None:
        again = p.ipv4(p.tcp(seq=8))
        desk.decided(p.SYN4)
        desk.action = BLOCK
        assert desk.read(again) == [Lookup(TCP4, 2)]
        assert desk.answer(2) == [Carry(again, TCP4, BLOCK), desk.announce(TCP4)]
        assert desk.read(again) == [Carry(again, TCP4, BLOCK)]

    def test_what_is_no_syn_is_held_while_pending_and_follows_later(self, desk: Desk) -> None:
        ack = p.ipv4(p.tcp(seq=8, flags=p.ACK))
        desk.read(p.SYN4)
        assert desk.read(ack) == []
        carried = [Carry(packet, TCP4, "vpn") for packet in (p.SYN4, ack)]
        assert desk.answer(1) == [*carried, desk.announce(TCP4)]
        assert desk.read(ack) == [Carry(ack, TCP4, "vpn")]

    def test_what_is_no_syn_of_an_unknown_flow_is_looked_up_as_well(self, desk: Desk) -> None:
        ack = p.ipv4(p.tcp(flags=p.ACK))
        assert desk.read(ack) == [Lookup(TCP4, 1)]
        assert desk.answer(1) == [Carry(ack, TCP4, "vpn"), desk.announce(TCP4)]


class TestUdp:
    def test_datagrams_soon_after_the_decision_follow_it(self, desk: Desk) -> None:
        desk.decided(p.UDP4, at=5.0)
        at = 5.0 + limits.RECENT_UDP_S
        assert desk.read(p.UDP4, at) == [Carry(p.UDP4, UDP4, "vpn")]

    def test_following_does_not_prolong(self, desk: Desk) -> None:
        desk.decided(p.UDP4, at=5.0)
        desk.read(p.UDP4, 5.0 + limits.RECENT_UDP_S)
        assert desk.read(p.UDP4, 5.1 + limits.RECENT_UDP_S) == [Lookup(UDP4, 2)]

    def test_a_datagram_that_comes_later_may_be_another_programs(self, desk: Desk) -> None:
        desk.decided(p.UDP4, at=5.0)
        desk.action = BLOCK
        at = 5.1 + limits.RECENT_UDP_S
        assert desk.read(p.UDP4, at) == [Lookup(UDP4, 2)]
        assert desk.answer(2, at=at) == [Carry(p.UDP4, UDP4, BLOCK), desk.announce(UDP4)]

    def test_a_flow_is_the_whole_of_its_addresses_and_ports(self, desk: Desk) -> None:
        desk.decided(p.UDP4)
        for packet in (
            p.ipv4(p.udp(dport=54), UDP),
            p.ipv4(p.udp(sport=40001), UDP),
            p.ipv4(p.tcp(dport=53)),
            p.UDP6,
        ):
            assert isinstance(desk.read(packet)[0], Lookup)


class TestTimeouts:
    def test_the_rules_decide_without_an_owner_when_the_look_up_takes_too_long(
        self, desk: Desk
    ) -> None:
        desk.read(p.SYN4, at=10.0)
        due = desk.engine.next_deadline()
        assert due == 10.0 + limits.LOOKUP_TIMEOUT_S
        assert desk.engine.tick(due - 0.001) == []
        carry, announce = desk.engine.tick(due)
        assert carry == Carry(p.SYN4, TCP4, "vpn", first=True)
        assert isinstance(announce, Announce)
        ((flow, owner),) = desk.asked
        assert (flow, owner.grade, owner.process, owner.resolved_at) == (
            TCP4,
            Grade.ABSENT,
            None,
            due,
        )
        assert "too long" in owner.detail
        assert desk.count("lookup_timeouts") == 1

    def test_a_late_answer_changes_nothing(self, desk: Desk) -> None:
        desk.read(p.SYN4)
        desk.engine.tick(limits.LOOKUP_TIMEOUT_S)
        assert desk.answer(1, at=4.0) == []
        assert len(desk.asked) == 1
        assert desk.read(p.SYN4, 4.0) == [Carry(p.SYN4, TCP4, "vpn")]

    def test_only_what_is_due_is_decided(self, desk: Desk) -> None:
        for number, at in enumerate((0.0, 1.0, 2.0)):
            desk.read(p.ipv4(p.tcp(sport=number)), at)
        desk.engine.tick(limits.LOOKUP_TIMEOUT_S + 1.0)
        assert [flow.local_port for flow, _ in desk.asked] == [0, 1]
        assert desk.engine.next_deadline() == limits.LOOKUP_TIMEOUT_S + 2.0

    def test_nothing_pending_nothing_due(self, desk: Desk) -> None:
        assert desk.engine.next_deadline() is None
        assert desk.engine.tick(1e9) == []
        desk.decided(p.SYN4)
        assert desk.engine.next_deadline() is None


class TestSocketsThatClose:
    """A verdict ends with its socket: the next to get the port is asked for again."""

    NEXT = p.ipv4(p.udp(data=b"by another"), UDP)

    def test_a_flow_is_forgotten_with_its_socket(self, desk: Desk) -> None:
        desk.decided(p.UDP4)
        assert desk.engine.socket_closed(77) == [Forget(UDP4)]
        assert desk.read(self.NEXT) == [Lookup(UDP4, 2)]

    def test_all_flows_of_a_socket_are(self, desk: Desk) -> None:
        flows = [p.flow(UDP, dport=port) for port in (1, 2, 3)]
        for flow in flows:
            desk.decided(p.ipv4(p.udp(dport=flow.remote_port), UDP))
        assert sorted(desk.engine.socket_closed(77)) == [Forget(flow) for flow in flows]
        assert desk.engine.socket_closed(77) == []

    def test_a_socket_that_closes_before_its_flow_is_decided(self, desk: Desk) -> None:
        desk.read(p.UDP4)
        assert desk.engine.socket_closed(77) == []
        expected = [Carry(p.UDP4, UDP4, "vpn"), desk.announce(UDP4), Forget(UDP4)]
        assert desk.answer(1) == expected
        assert desk.read(self.NEXT) == [Lookup(UDP4, 2)]

    def test_a_socket_that_closes_with_one_flow_decided_and_one_pending(self, desk: Desk) -> None:
        waiting = p.ipv4(p.udp(dport=54), UDP)
        desk.decided(p.UDP4)
        desk.read(waiting)
        assert desk.engine.socket_closed(77) == [Forget(UDP4)]
        assert desk.answer(2)[-1] == Forget(p.flow(UDP, dport=54))

    def test_a_flow_whose_socket_is_not_known_is_over_at_once(self, desk: Desk) -> None:
        nobody = Owner(Grade.ABSENT)
        desk.read(p.UDP4)
        assert desk.answer(1, nobody) == [
            Carry(p.UDP4, UDP4, "vpn"),
            desk.announce(UDP4, nobody),
            Forget(UDP4),
        ]
        assert desk.read(self.NEXT) == [Lookup(UDP4, 2)]

    def test_when_closings_were_lost_any_socket_may_have_closed(self, desk: Desk) -> None:
        desk.decided(p.UDP4)
        assert desk.engine.sockets_lost() == [Forget(UDP4)]
        assert desk.engine.sockets_lost() == []
        assert desk.read(self.NEXT) == [Lookup(UDP4, 2)]

    def test_other_sockets_change_nothing(self, desk: Desk) -> None:
        desk.decided(p.UDP4)
        assert desk.engine.socket_closed(78) == []
        assert desk.read(self.NEXT) == [Carry(self.NEXT, UDP4, "vpn")]

    @pytest.mark.parametrize("action", ["vpn", DROP])
    def test_a_tcp_flow_ends_by_its_own_packets(self, action: str) -> None:
        desk = Desk(action)
        desk.decided(p.SYN4)
        assert desk.engine.socket_closed(77) == []


class TestFragments:
    FIRST = p.ipv4(p.udp(), UDP, more=True)
    SECOND = p.ipv4(b"a rest..", UDP, frag=1, more=True)
    THIRD = p.ipv4(b"the last", UDP, frag=2)

    def test_later_fragments_wait_with_the_first(self, desk: Desk) -> None:
        assert desk.read(self.FIRST) == [Lookup(UDP4, 1)]
        assert desk.read(self.SECOND) == []
        carried = [Carry(packet, UDP4, "vpn") for packet in (self.FIRST, self.SECOND)]
        assert desk.answer(1) == [*carried, desk.announce(UDP4)]
        assert desk.read(self.THIRD) == [Carry(self.THIRD, UDP4, "vpn")]

    def test_later_fragments_of_a_decided_datagram_follow_until_it_is_given_up(
        self, desk: Desk
    ) -> None:
        desk.decided(self.FIRST)
        within = limits.FRAGMENT_S - 1.0
        assert desk.read(self.SECOND, within) == [Carry(self.SECOND, UDP4, "vpn")]
        assert desk.read(self.THIRD, limits.FRAGMENT_S + 1.0) == []
        assert desk.count("stray_fragments") == 1

    def test_they_follow_also_when_no_socket_sent_the_datagram(self, desk: Desk) -> None:
        desk.read(self.FIRST)
        nobody = Owner(Grade.ABSENT)
        assert desk.answer(1, nobody)[-1] == Forget(UDP4)
        assert desk.read(self.SECOND) == [Carry(self.SECOND, UDP4, "vpn")]
        assert desk.read(p.UDP4) == [Lookup(UDP4, 2)]  # a datagram of its own is asked for again

    def test_fragments_over_ipv6(self, desk: Desk) -> None:
        first = p.ipv6(p.fragment(UDP, more=True) + p.udp(), p.FRAGMENT)
        later = p.ipv6(p.fragment(UDP, frag=1) + b"the rest", p.FRAGMENT)
        desk.read(first)
        desk.read(later)
        flow = p.flow(UDP, ipv6=True)
        carried = [Carry(packet, flow, "vpn") for packet in (first, later)]
        assert desk.answer(1) == [*carried, desk.announce(flow)]

    def test_a_fragment_without_its_first_goes_nowhere(self, desk: Desk) -> None:
        assert desk.read(self.THIRD) == []
        assert desk.count("stray_fragments") == 1

    def test_a_fragment_of_another_datagram_does_not_follow(self, desk: Desk) -> None:
        desk.decided(self.FIRST)
        assert desk.read(p.ipv4(b"the last", UDP, frag=2, ident=2)) == []

    def test_more_datagrams_than_the_table_holds_cost_the_oldest(self, desk: Desk) -> None:
        for ident in range(limits.MAX_FRAGMENTED + 1):
            desk.read(p.ipv4(p.udp(), UDP, more=True, ident=ident))
        desk.answer(1)
        assert desk.read(p.ipv4(b"the last", UDP, frag=2, ident=0)) == []
        last = p.ipv4(b"the last", UDP, frag=2, ident=limits.MAX_FRAGMENTED)
        assert desk.read(last) == [Carry(last, UDP4, "vpn")]


UNREADABLE = [
    (p.ipv4(bytes(8), p.ICMP), "other_protocol"),
    (p.ipv4(bytes(8), p.ICMP, frag=1), "other_protocol"),
    (p.ipv6(b"", p.NO_NEXT), "other_protocol"),
    (p.SYN4[:30], "malformed"),
    (p.SYN6[:50], "malformed"),
]


@pytest.mark.parametrize(("packet", "counter"), UNREADABLE)
def test_a_packet_that_names_no_flow_is_carried_as_the_kernel_would(
    desk: Desk, packet: bytes, counter: str
) -> None:
    assert desk.read(packet) == [Carry(packet, None, DIRECT)]
    assert (desk.count(counter), desk.count("packets"), desk.count("flows")) == (1, 1, 0)
    assert desk.asked == []


NO_DESTINATION = [b"", b"\x45", b"\x60", p.SYN4[:19], p.SYN6[:39], b"\x10" * 60]


@pytest.mark.parametrize("packet", NO_DESTINATION)
def test_a_packet_that_is_going_nowhere_is_counted_and_dropped(desk: Desk, packet: bytes) -> None:
    assert desk.read(packet) == []
    assert desk.count("malformed") == 1


def test_dry_run_decides_and_announces_and_carries_everything_direct() -> None:
    desk = Desk(BLOCK, dry_run=True)
    desk.read(p.SYN4)
    assert desk.answer(1) == [Carry(p.SYN4, TCP4, DIRECT), desk.announce(TCP4)]
    assert desk.read(p.SYN4) == [Carry(p.SYN4, TCP4, DIRECT)]


class TestRelease:
    def test_what_is_held_is_given_up_undecided_in_its_order(self, desk: Desk) -> None:
        other = p.ipv4(p.tcp(sport=40001))
        desk.read(p.SYN4)
        desk.read(other)
        assert desk.engine.release() == [Carry(p.SYN4, None, DIRECT), Carry(other, None, DIRECT)]
        assert desk.asked == []
        assert desk.engine.next_deadline() is None
        assert desk.count("pending") == 0

    def test_answers_after_it_are_late(self, desk: Desk) -> None:
        desk.read(p.SYN4)
        desk.engine.release()
        assert desk.answer(1) == []
        assert desk.engine.release() == []

    def test_what_still_waits_in_the_device_goes_on_unless_it_was_refused(self, desk: Desk) -> None:
        desk.decided(p.SYN4)
        desk.engine.release()
        assert desk.engine.packet_left(p.SYN4) == []
        assert desk.engine.packet_left(p.UDP4) == [Carry(p.UDP4, None, DIRECT)]
        assert desk.engine.packet_left(p.SYN4[:30]) == [Carry(p.SYN4[:30], None, DIRECT)]

    @pytest.mark.parametrize(("action", "dry_run"), [(DIRECT, False), (BLOCK, True)])
    def test_what_was_let_pass_goes_on(self, action: str, *, dry_run: bool) -> None:
        desk = Desk(action, dry_run=dry_run)
        desk.decided(p.SYN4)
        assert desk.engine.packet_left(p.SYN4) == [Carry(p.SYN4, None, DIRECT)]

    def test_what_was_decided_stays_out_of_it(self, desk: Desk) -> None:
        desk.decided(p.SYN4)
        assert desk.engine.release() == []


class TestLimits:
    """Each is reached for real; at the limit all is well, one further is counted."""

    def test_packets_held_for_a_flow(self, desk: Desk) -> None:
        burst = [p.ipv4(p.udp(data=bytes([it])), UDP) for it in range(limits.MAX_HELD_PER_FLOW)]
        for packet in burst:
            desk.read(packet)
        assert desk.count("dropped_flow_full") == 0
        assert desk.read(p.UDP4) == []
        assert desk.count("dropped_flow_full") == 1
        *carried, _ = desk.answer(1)
        assert carried == [Carry(packet, UDP4, "vpn") for packet in burst], "the newest was lost"

    def test_flows_that_wait(self, desk: Desk) -> None:
        for number in range(limits.MAX_PENDING):
            desk.read(p.ipv4(p.tcp(*divmod(number, 256))))
        assert desk.count("pending") == limits.MAX_PENDING
        assert desk.count("dropped_table_full") == 0
        assert desk.read(p.SYN4) == []
        assert desk.count("dropped_table_full") == 1
        desk.answer(1)
        assert desk.read(p.SYN4) == [Lookup(TCP4, limits.MAX_PENDING + 1)]

    def test_bytes_held_for_all_flows(self, desk: Desk) -> None:
        data = bytes(32768 - 28)
        size = len(p.ipv4(p.udp(data=data), UDP))
        assert limits.MAX_HELD_BYTES % size == 0, "so that the limit is reached to the byte"
        for number in range(limits.MAX_HELD_BYTES // size):
            desk.read(p.ipv4(p.udp(sport=number // 8, data=data), UDP))
        assert desk.count("dropped_table_full") == 0
        (lookup,) = desk.read(p.SYN4)
        assert isinstance(lookup, Lookup)
        assert desk.count("dropped_table_full") == 1
        assert desk.answer(lookup.ticket) == [desk.announce(TCP4)], "decided all the same"
        assert desk.read(p.SYN4) == [Carry(p.SYN4, TCP4, "vpn")]
        desk.answer(1)
        assert isinstance(desk.read(p.ipv4(p.tcp(sport=9998)))[0], Lookup)
        assert desk.count("dropped_table_full") == 1, "there is room again"

    def test_a_syn_that_found_no_room_is_held_when_it_comes_again(self, desk: Desk) -> None:
        data = bytes(32768 - 28)
        for number in range(limits.MAX_HELD_BYTES // 32768):
            desk.read(p.ipv4(p.udp(sport=number // 8, data=data), UDP))
        (lookup,) = desk.read(p.SYN4)
        assert isinstance(lookup, Lookup)
        desk.answer(1)
        assert desk.read(p.SYN4, 1.0) == []
        assert desk.read(p.SYN4, 2.0) == []
        assert desk.count("retransmissions") == 1
        assert desk.answer(lookup.ticket) == [Carry(p.SYN4, TCP4, "vpn"), desk.announce(TCP4)]

    @pytest.mark.parametrize(("others", "known"), [(-1, True), (0, False)])
    def test_flows_that_are_remembered(self, desk: Desk, others: int, *, known: bool) -> None:
        desk.decided(p.SYN4)
        for number in range(limits.MAX_RECENT + others):
            desk.decided(p.ipv4(p.tcp(*divmod(number, 256))))
        assert isinstance(desk.read(p.SYN4)[0], Carry if known else Lookup)


def test_the_representation_tells_what_goes_on(desk: Desk) -> None:
    desk.decided(p.UDP4)
    desk.read(p.SYN4)
    assert repr(desk.engine) == "<Engine: 1 pending, 1 recent>"


def test_statistics_are_a_snapshot(desk: Desk) -> None:
    before = desk.engine.statistics()
    desk.read(p.SYN4)
    assert before["packets"] == 0
    assert desk.count("packets") == 1
