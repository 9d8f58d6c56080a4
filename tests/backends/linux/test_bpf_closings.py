"""Sockets that close are told by the eBPF program at once, and by the kernel's messages anyhow."""

from __future__ import annotations

import select
import socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.accuracy.arena import own_network
from tests.backends.linux.bpf_cgroup import own_cgroup
from tests.backends.linux.test_deaths import FAMILIES, closed_soon, cookie_of
from tunowner.backends.linux import LinuxBackend
from tunowner.backends.linux.bpf.loader import OwnerMap
from tunowner.backends.linux.deaths import Deaths
from tunowner.backends.linux.owners import LinuxOwners

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cgroup() -> Iterator[Path]:
    with own_cgroup() as made:
        yield made


@pytest.fixture(params=[True, False], ids=["btf", "helpers"])
def owner_map(cgroup: Path, request: pytest.FixtureRequest) -> Iterator[OwnerMap]:
    with OwnerMap(cgroup, reads_tasks=request.param) as made:
        yield made


def close_one(family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM) -> int:
    """Make a socket and close it; return its cookie."""
    with socket.socket(family, kind) as end:
        end.bind(("", 0))
        return cookie_of(end)


@pytest.mark.parametrize("family", FAMILIES)
def test_told_by_the_time_that_close_returns(owner_map: OwnerMap, family: int) -> None:
    told = owner_map.closings()
    assert told is not None
    with closing(told):
        cookies = [close_one(family) for _ in range(3)]
        assert select.select([told], [], [], 5.0)[0]
        assert told.read() == cookies
        assert told.read() == []


def test_tcp_is_not_told_of(owner_map: OwnerMap) -> None:
    told = owner_map.closings()
    assert told is not None
    with closing(told):
        close_one(kind=socket.SOCK_STREAM)
        cookie = close_one()
        assert told.read() == [cookie]


def test_nothing_of_other_network_namespaces(owner_map: OwnerMap) -> None:
    told = owner_map.closings()
    assert told is not None
    with closing(told):
        with own_network():
            close_one()
        assert told.read() == []


def test_nothing_before_it_is_asked_for(owner_map: OwnerMap) -> None:
    close_one()
    told = owner_map.closings()
    assert told is not None
    with closing(told):
        assert told.read() == []


def test_more_than_the_buffer_holds(owner_map: OwnerMap) -> None:
    """16 bytes each in 256 KiB; what comes later is told again."""
    told = owner_map.closings()
    assert told is not None
    with closing(told):
        cookies = [close_one() for _ in range(17_000)]
        first = told.read()
        assert first == cookies[: len(first)]
        assert 16_000 < len(first) < 17_000
        last = close_one()
        assert told.read() == [last]


@pytest.mark.parametrize("early", [True, False])
def test_both_ways_in_one(cgroup: Path, early: bool) -> None:  # noqa: FBT001
    with LinuxOwners(bpf=OwnerMap(cgroup) if early else None) as owners:
        deaths = LinuxBackend().open_deaths(owners)
        with closing(deaths):
            cookie = close_one()
            assert isinstance(deaths, Deaths) is not early
            assert not early or cookie in (deaths.read() or ())
            assert early or closed_soon(deaths, cookie)


def test_the_kernels_messages_come_as_well(cgroup: Path) -> None:
    with LinuxOwners(bpf=OwnerMap(cgroup)) as owners:
        deaths = LinuxBackend().open_deaths(owners)
        with closing(deaths):
            cookie = close_one()
            told: list[int] = []
            while told.count(cookie) < 2 and select.select([deaths], [], [], 5.0)[0]:
                told += deaths.read() or []
            assert told.count(cookie) == 2
