"""The packet loop on a data plane and owners that live in memory."""

from __future__ import annotations

import os
import selectors
import time

import pytest

from tests.app.helpers import (
    CURL,
    BlockedOwners,
    flow_of,
    owner_walk_threads,
    running,
    syn,
    wait_for,
)
from tests.core import packets as p
from tunowner.app.loop import SETTLE_S
from tunowner.backends.memory import Carried, MemoryOwners
from tunowner.core.model import BLOCK, DIRECT, UDP, Grade, Owner
from tunowner.errors import DeviceClosed


def test_quick_owners_never_leave_the_loop() -> None:
    owners = MemoryOwners({flow_of(1): CURL})
    with running(owners, BLOCK) as run:
        run.plane.offer(syn(1), syn(2))
        assert run.wait_for_carried(2) == [
            Carried(syn(1), flow_of(1), BLOCK),
            Carried(syn(2), flow_of(2), BLOCK),
        ]
    assert owners.walked == []
    assert [(flow, owner.grade) for flow, owner in run.decided] == [
        (flow_of(1), Grade.EXACT),
        (flow_of(2), Grade.ABSENT),
    ]
    assert [flow for flow, _ in run.announced] == [flow_of(1), flow_of(2)]


def test_an_owner_that_needs_a_walk_comes_back_to_the_loop() -> None:
    owners = MemoryOwners()
    owners.put(flow_of(1), CURL, slow=True)
    with running(owners) as run:
        run.plane.offer(syn(1))
        assert run.wait_for_carried(1) == [Carried(syn(1), flow_of(1), DIRECT)]
    assert owners.walked == [(flow_of(1),)]
    assert [owner.process for _, owner in run.decided] == [CURL.process]


def test_a_slow_walk_does_not_stall_quick_flows() -> None:
    owners = BlockedOwners()
    owners.put(flow_of(1), CURL, slow=True)
    with running(owners) as run:
        run.plane.offer(syn(1))
        assert owners.walking.wait(10.0)
        run.plane.offer(*(syn(port) for port in range(2, 102)))
        carried = run.wait_for_carried(100)
        assert [it.flow for it in carried] == [flow_of(port) for port in range(2, 102)]
        assert run.engine.statistics()["pending"] == 1, "the slow one waits still"
        owners.go.set()
        assert run.wait_for_carried(101)[-1] == Carried(syn(1), flow_of(1), DIRECT)


def test_flows_that_wait_for_one_walk_share_the_next() -> None:
    owners = BlockedOwners()
    for port in range(1, 11):
        owners.put(flow_of(port), CURL, slow=True)
    with running(owners) as run:
        run.plane.offer(syn(1))
        assert owners.walking.wait(10.0)
        run.plane.offer(*(syn(port) for port in range(2, 11)))
        wait_for(lambda: run.engine.statistics()["pending"] == 10, "ten pending flows")
        owners.go.set()
        run.wait_for_carried(10)
    assert owners.walked == [(flow_of(1),), tuple(flow_of(port) for port in range(2, 11))]


def test_many_packets_at_once_come_out_in_their_order() -> None:
    with running() as run:
        packets = [p.ipv4(p.udp(port, data=bytes(port % 7)), UDP) for port in range(500)]
        run.plane.offer(*packets)
        assert [it.packet for it in run.wait_for_carried(500)] == packets


class TestTheEnd:
    def test_stop_from_another_thread_while_nothing_happens(self) -> None:
        with running() as run:
            pass
        assert run.raised is None
        assert owner_walk_threads() == []

    def test_what_is_held_is_let_go_undecided(self) -> None:
        owners = BlockedOwners()
        owners.put(flow_of(1), CURL, slow=True)
        with running(owners, BLOCK) as run:
            run.plane.offer(syn(1))
            assert owners.walking.wait(10.0)
        assert run.plane.carried == [Carried(syn(1), None, DIRECT)]
        assert run.decided == []

    def test_what_waits_in_the_device_is_let_go_and_nothing_new_is_taken(self) -> None:
        owners = BlockedOwners()
        owners.put(flow_of(1), CURL, slow=True)
        with running(owners, BLOCK) as run:
            run.plane.offer(syn(1))
            assert owners.walking.wait(10.0)
            run.loop.stop()  # it now waits for the walk, and reads no more packets
            wait_for(lambda: not run.plane.intercepting, "the end of interception")
            run.plane.offer(syn(2))
        assert run.plane.passed == [syn(2)]

    def test_packets_offered_before_a_loop_that_is_stopped_at_once(self) -> None:
        with running(action=BLOCK) as run:
            run.loop.stop()
            run.join()
        run.plane.offer(syn(3))
        assert run.plane.passed == [syn(3)]

    def test_stop_and_wake_after_the_end_do_nothing(self) -> None:
        with running() as run:
            run.stop()
            run.loop.close()
            run.loop.stop()
            run.loop.wake()
            run.loop.close()

    def test_any_number_of_wake_ups_neither_block_nor_raise(self) -> None:
        owners = BlockedOwners()
        with running(owners) as run:
            for _ in range(100_000):
                run.loop.wake()
            run.plane.offer(syn(1))
            run.wait_for_carried(1)

    def test_a_byte_from_a_signal_handler_wakes_it(self) -> None:
        with running() as run:
            run.loop._stopping = True  # as stop() does, without its wake()
            os.write(run.loop.wake_fileno, b"\x02")
            run.join()

    def test_a_device_that_is_taken_away_ends_it_and_its_thread(self) -> None:
        owners = BlockedOwners()
        owners.put(flow_of(1), CURL, slow=True)
        with pytest.raises(DeviceClosed), running(owners) as run:
            run.plane.offer(syn(1))
            assert owners.walking.wait(10.0)
            run.plane.vanish()
            owners.go.set()
            run.join()
            assert owner_walk_threads() == []


class TestTheNetworkChanges:
    def test_a_burst_of_changes_is_one_refresh(self) -> None:
        with running() as run:
            begin = time.monotonic()
            for _ in range(50):
                run.plane.change()
                wait_for(lambda: not readable(run.plane.changes_fileno()), "the change to be noted")
            wait_for(lambda: run.plane.refreshes > 0, "a refresh")
            elapsed = time.monotonic() - begin
        assert run.plane.refreshes <= 1 + elapsed / SETTLE_S, "more often than once per SETTLE_S"

    def test_a_later_change_is_another(self) -> None:
        with running() as run:
            run.plane.change()
            wait_for(lambda: run.plane.refreshes == 1, "a refresh")
            run.plane.change()
            wait_for(lambda: run.plane.refreshes == 2, "another")

    def test_packets_pass_while_a_refresh_is_due(self) -> None:
        with running() as run:
            run.plane.change()
            run.plane.offer(syn(1))
            run.wait_for_carried(1)
            wait_for(lambda: run.plane.refreshes == 1, "a refresh")


def readable(descriptor: int) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(0))


class TestSocketsThatClose:
    def test_the_kernel_forgets_their_flows(self) -> None:
        packet, flow = p.UDP4, p.flow(UDP)
        with running(MemoryOwners({flow: CURL})) as run:
            run.plane.offer(packet)
            run.wait_for_carried(1)
            assert run.plane.forgotten == []
            assert CURL.cookie
            run.backend.deaths.put(1, CURL.cookie)
            wait_for(lambda: run.plane.forgotten == [flow], "the flow to be forgotten")

    def test_when_some_were_lost_all_flows_are(self) -> None:
        packet, flow = p.UDP4, p.flow(UDP)
        with running(MemoryOwners({flow: CURL})) as run:
            run.plane.offer(packet)
            run.wait_for_carried(1)
            run.backend.deaths.overflow()
            wait_for(lambda: run.plane.forgotten == [flow], "the flow to be forgotten")


def test_a_look_up_that_never_ends_is_decided_without_an_owner() -> None:
    owners = BlockedOwners()
    owners.put(flow_of(1), CURL, slow=True)
    with running(owners, BLOCK) as run:
        run.plane.offer(syn(1))
        assert run.wait_for_carried(1) == [Carried(syn(1), flow_of(1), BLOCK)]
        ((_, owner),) = run.decided
        assert (owner.grade, owner.process) == (Grade.ABSENT, None)
        owners.go.set()
        assert run.engine.statistics()["lookup_timeouts"] == 1
    assert len(run.decided) == 1, "the late answer decides nothing"


def test_statistics_add_up() -> None:
    with running(MemoryOwners({flow_of(1): Owner(Grade.KERNEL)})) as run:
        run.plane.offer(syn(1), syn(1), p.ipv4(bytes(8), p.ICMP), b"\x45")
        run.wait_for_carried(3)
        wait_for(lambda: run.engine.statistics()["packets"] == 4, "four packets")
    engine, plane = run.engine.statistics(), run.plane.statistics()
    assert (engine["flows"], engine["followers"], engine["other_protocol"]) == (1, 1, 1)
    assert (engine["malformed"], engine["pending"]) == (1, 0)
    assert plane == {"carried": 3, "lost": 0}
