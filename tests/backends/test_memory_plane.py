"""The data plane that lives in memory keeps the promises of one, and a few of its own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.backends.plane_contract import Case, PlaneContract
from tests.core import packets as p
from tunowner.backends.base import GateSettings
from tunowner.backends.memory import Carried, MemoryBackend, MemoryDataPlane, MemoryOwners
from tunowner.core.model import FlowKey, Grade, InterfaceOutbound, Owner, Process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunowner.backends.base import Backend

VPN = InterfaceOutbound("vpn", "wg0")
OWNER = Owner(Grade.EXACT, (Process(7, 1, "/bin/x"),))


class TestMemoryDataPlane(PlaneContract):
    @pytest.fixture
    def case(self) -> Iterator[Case]:
        plane = MemoryDataPlane(GateSettings((VPN,)))
        ports = itertools.count(1)

        def open_flow() -> FlowKey:
            port = next(ports)
            plane.offer(p.ipv4(p.tcp(sport=port)))
            return p.flow(sport=port)

        yield Case(plane, open_flow, plane.change, plane.vanish, ("vpn",))
        plane.close()


@pytest.fixture
def plane() -> Iterator[MemoryDataPlane]:
    plane = MemoryDataPlane()
    yield plane
    plane.close()


def test_it_lists_what_was_carried(plane: MemoryDataPlane) -> None:
    plane.carry(p.SYN4, p.flow(), "block")
    assert plane.carried == [Carried(p.SYN4, p.flow(), "block")]


def test_it_lists_what_passed_untouched(plane: MemoryDataPlane) -> None:
    plane.stop_intercepting()
    plane.offer(p.SYN4)
    assert (plane.read(), plane.passed) == (None, [p.SYN4])


def test_it_refuses_an_action_that_nobody_defined(plane: MemoryDataPlane) -> None:
    with pytest.raises(ValueError, match="vpn"):
        plane.carry(p.SYN4, p.flow(), "vpn")


def test_its_representation_tells_what_waits(plane: MemoryDataPlane) -> None:
    plane.offer(p.SYN4)
    assert repr(plane) == "<MemoryDataPlane: 1 waiting, 0 carried>"


FOUND = [
    ("tcp", "192.0.2.1", 40000, None),
    ("tcp", "", 40000, None),
    ("tcp", "192.0.2.1", 40000, ("203.0.113.5", 443)),
]
NOT_FOUND = [
    ("udp", "192.0.2.1", 40000, None),
    ("tcp", "192.0.2.2", 40000, None),
    ("tcp", "::1", 40000, None),
    ("tcp", "192.0.2.1", 40001, None),
    ("tcp", "192.0.2.1", 40000, ("203.0.113.5", 80)),
    ("tcp", "192.0.2.1", 40000, ("203.0.113.6", 443)),
]


class TestMemoryBackend:
    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        backend = MemoryBackend(owners=MemoryOwners({p.flow(): OWNER}))
        yield backend
        backend.plane.close()
        backend.deaths.close()

    def test_it_opens_both_fakes(self, backend: Backend) -> None:
        plane = backend.open_data_plane(GateSettings((VPN,)))
        plane.carry(p.SYN4, p.flow(), "vpn")
        owner = backend.open_owners(plane.interface_index).quick(p.flow())
        assert owner is not None
        assert owner.process == OWNER.process

    @pytest.mark.parametrize("socket", FOUND)
    def test_it_finds_a_socket(
        self, backend: Backend, socket: tuple[str, str, int, tuple[str, int] | None]
    ) -> None:
        assert backend.find_process(*socket).process == OWNER.process

    @pytest.mark.parametrize("socket", NOT_FOUND)
    def test_it_finds_no_other(
        self, backend: Backend, socket: tuple[str, str, int, tuple[str, int] | None]
    ) -> None:
        assert backend.find_process(*socket).grade == Grade.ABSENT

    def test_it_needs_nothing(self, backend: Backend) -> None:
        assert all(check.ok for check in backend.doctor())
