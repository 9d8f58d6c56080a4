"""What every DataPlane promises; run against the fake and against the real ones.

A subclass gives the fixture `case`: an open plane whose rules know nothing yet, and the hands of
the world on its other side.
"""

from __future__ import annotations

import selectors
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.lab.wait import wait_until
from tunowner.core.model import BUILTIN_ACTIONS, TCP, FlowKey
from tunowner.core.packet import Segment, parse
from tunowner.errors import DeviceClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunowner.backends.base import DataPlane

BROKEN = [b"", b"\x45", b"\x60" + bytes(38), b"\xff" * 64, b"\x45" + bytes(19), b"\x60" + bytes(39)]
NOBODYS = FlowKey(TCP, bytes((192, 0, 2, 1)), 1, bytes((192, 0, 2, 2)), 2)
"""TEST-NET-1 (RFC 5737): nothing of ours goes there."""


@dataclass
class Case:
    """`open_flow` lets a program open a new flow, and returns its 5-tuple."""

    plane: DataPlane
    open_flow: Callable[[], FlowKey]
    change_network: Callable[[], None]
    remove_device: Callable[[], None]
    outbounds: tuple[str, ...] = ()


def readable(descriptor: int, timeout: float = 0.0) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(timeout))


def read(plane: DataPlane) -> tuple[bytes, Segment]:
    """Read the next packet, which must come and must name its flow."""
    assert readable(plane.fileno(), 10.0), "no packet came"
    packet = plane.read()
    assert packet is not None
    segment = parse(packet)
    assert isinstance(segment, Segment)
    return packet, segment


class PlaneContract:
    def test_it_has_a_name_and_an_index(self, case: Case) -> None:
        assert case.plane.name
        assert case.plane.interface_index >= 0

    def test_nothing_waits_nothing_is_read(self, case: Case) -> None:
        assert case.plane.read() is None
        assert not readable(case.plane.fileno())

    def test_a_new_flow_makes_it_readable_and_is_read_once(self, case: Case) -> None:
        flow = case.open_flow()
        packet, segment = read(case.plane)
        assert isinstance(packet, bytes)
        assert (segment.flow, segment.opens) == (flow, True)
        assert case.plane.read() is None
        assert not readable(case.plane.fileno())

    def test_flows_come_in_their_order(self, case: Case) -> None:
        flows = [case.open_flow() for _ in range(3)]
        assert len(set(flows)) == 3
        assert [read(case.plane)[1].flow for _ in flows] == flows

    def test_every_action_carries(self, case: Case) -> None:
        for action in (*BUILTIN_ACTIONS, *case.outbounds):
            before = sum(case.plane.statistics().values())
            flow = case.open_flow()
            case.plane.carry(read(case.plane)[0], flow, action)
            assert sum(case.plane.statistics().values()) == before + 1, action

    @pytest.mark.parametrize("packet", BROKEN)
    def test_no_packet_makes_carry_raise_and_each_is_counted(
        self, case: Case, packet: bytes
    ) -> None:
        before = sum(case.plane.statistics().values())
        case.plane.carry(packet, None, "direct")
        assert sum(case.plane.statistics().values()) == before + 1

    def test_forgetting_needs_no_flow(self, case: Case) -> None:
        case.plane.forget(NOBODYS)
        case.plane.forget(NOBODYS)

    def test_statistics_are_a_snapshot(self, case: Case) -> None:
        before = case.plane.statistics()
        before["carried"] = -1
        assert case.plane.statistics() == {**before, "carried": 0}

    def test_a_change_is_readable_until_it_is_drained(self, case: Case) -> None:
        case.plane.drain_changes()
        case.change_network()
        assert readable(case.plane.changes_fileno(), 10.0)
        wait_until(lambda: _drained(case.plane), "the end of the change")
        case.plane.drain_changes()
        case.change_network()
        assert readable(case.plane.changes_fileno(), 10.0)

    def test_a_refresh_leaves_it_at_work(self, case: Case) -> None:
        case.plane.refresh()
        case.plane.refresh()
        flow = case.open_flow()
        assert read(case.plane)[1].flow == flow

    def test_when_it_stops_intercepting_what_waits_can_still_be_read(self, case: Case) -> None:
        waiting = case.open_flow()
        assert readable(case.plane.fileno(), 10.0)
        case.plane.stop_intercepting()
        case.open_flow()
        packet, segment = read(case.plane)
        assert segment.flow == waiting
        assert case.plane.read() is None, "the flow that was opened later"
        case.plane.carry(packet, None, "direct")
        case.plane.stop_intercepting()

    def test_a_device_that_has_gone_is_readable_and_says_so(self, case: Case) -> None:
        case.remove_device()
        assert readable(case.plane.fileno(), 10.0)
        with pytest.raises(DeviceClosed):
            case.plane.read()

    def test_closing_twice(self, case: Case) -> None:
        case.open_flow()
        case.plane.close()
        case.plane.close()
        with pytest.raises(DeviceClosed):
            case.plane.read()


def _drained(plane: DataPlane) -> bool:
    """A change of the network may be told in several messages."""
    plane.drain_changes()
    return not readable(plane.changes_fileno(), 0.05)
