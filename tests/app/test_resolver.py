"""The resolver on the backend that lives in memory: what it keeps, and that one walk serves all."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import tunowner
from tunowner.app.resolver import ABSENT_S, OwnerResolver
from tunowner.app.resolver_async import AsyncOwnerResolver
from tunowner.backends.memory import MemoryBackend, MemoryOwners
from tunowner.core.model import TCP, FlowKey, Grade, Owner, Process, ProcessDetails
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CURL = Process(7, 1, "/usr/bin/curl")
FOUND = Owner(Grade.EXACT, (CURL,), backend="memory")
HERE, THERE = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))


def flow(port: int) -> FlowKey:
    return FlowKey(TCP, HERE, port, THERE, 80)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowOwners(MemoryOwners):
    """Walks only when told to, so that others come to wait meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.at_once = 0
        self.most_at_once = 0

    def walk(self, flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.started.release()
        assert self.go.acquire(timeout=10)
        self.at_once -= 1
        yield from super().walk(flows)


def backend_of(owners: MemoryOwners) -> MemoryBackend:
    """Return a backend without the descriptors that nothing here uses."""
    backend = MemoryBackend(owners=owners)
    backend.plane.close()
    backend.deaths.close()
    return backend


def test_the_public_names() -> None:
    assert tunowner.OwnerResolver is OwnerResolver
    assert tunowner.AsyncOwnerResolver is AsyncOwnerResolver
    late = {"OwnerResolver", "AsyncOwnerResolver", "Companion", "RuleSet"}
    assert set(tunowner.__all__) <= {*dir(tunowner), *late}
    assert all(getattr(tunowner, name) for name in late)
    with pytest.raises(AttributeError):
        tunowner.nothing  # noqa: B018 - the access is the test


def test_quick_and_slow_flows() -> None:
    owners = MemoryOwners({flow(1): FOUND})
    owners.put(flow(2), FOUND, slow=True)
    owners.put(flow(3), FOUND, slow=True)
    with OwnerResolver(backend=backend_of(owners)) as resolver:
        assert resolver.resolve(flow(1)) == FOUND
        answers = resolver.resolve_many([flow(2), flow(1), flow(3), flow(2), flow(4)])
    assert [owner.grade for owner in answers.values()] == ["exact", "exact", "exact", "absent"]
    assert owners.walked == [(flow(2), flow(3))]


def test_find() -> None:
    with OwnerResolver(backend=backend_of(MemoryOwners({flow(1): FOUND}))) as resolver:
        assert resolver.find("tcp", "10.0.0.1", 1).process == CURL
        for question in (("icmp", "", 1), ("tcp", "x", 1), ("tcp", "", 0), ("tcp", "", 1, ("", 2))):
            with pytest.raises(TunOwnerError):
                resolver.find(*question)


def test_details() -> None:
    backend = backend_of(MemoryOwners({flow(1): FOUND}))
    backend.inspector.put(ProcessDetails(CURL, package="deb:curl", sha256="00"))
    with OwnerResolver(backend=backend) as resolver:
        told = resolver.details(CURL)
        assert told is not None
        assert (told.package, told.sha256) == ("deb:curl", None)
        told = resolver.details(CURL, sha256=True)
        assert told is not None
        assert told.sha256 == "00"
        assert resolver.details(CURL._replace(start=2)) is None


def test_absent_is_remembered_for_a_moment_and_for_this_flow_only() -> None:
    clock, owners = Clock(), MemoryOwners()
    with OwnerResolver(backend=backend_of(owners), timer=clock) as resolver:
        assert resolver.resolve(flow(1)).grade is Grade.ABSENT
        owners.put(flow(1), FOUND)
        owners.put(flow(2), FOUND)
        assert resolver.resolve(flow(1)).grade is Grade.ABSENT
        assert resolver.resolve(flow(2)) == FOUND
        clock.now = ABSENT_S + 0.001
        assert resolver.resolve(flow(1)) == FOUND
        owners.remove(flow(1))
        assert resolver.resolve(flow(1)).grade is Grade.ABSENT, "an owner is never remembered"


@pytest.mark.parametrize("grade", [grade for grade in Grade if grade is not Grade.ABSENT])
def test_no_other_answer_is_remembered(grade: Grade) -> None:
    owners = MemoryOwners({flow(1): Owner(grade, backend="memory")})
    with OwnerResolver(backend=backend_of(owners)) as resolver:
        assert resolver.resolve(flow(1)).grade is grade
        owners.put(flow(1), FOUND)
        assert resolver.resolve(flow(1)) == FOUND


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
@pytest.mark.parametrize(
    "changes",
    [
        {"local_port": -1},
        {"local_port": 65536},
        {"remote_port": 1 << 70},
        {"local": b""},
        {"remote": b"abc"},
        {"local": bytes(16)},
        {"protocol": 999},
    ],
)
@pytest.mark.parametrize("protocol", [6, 17])
def test_a_flow_that_cannot_be(protocol: int, changes: dict[str, Any]) -> None:
    with OwnerResolver() as resolver:
        impossible = flow(1)._replace(**{"protocol": protocol, **changes})
        assert resolver.resolve(impossible).grade is Grade.ABSENT


def test_threads_share_a_walk() -> None:
    owners = SlowOwners()
    for port in range(1, 21):
        owners.put(flow(port), FOUND, slow=True)
    answers: dict[int, Owner] = {}
    with OwnerResolver(backend=backend_of(owners)) as resolver:

        def ask(port: int) -> None:
            answers[port] = resolver.resolve(flow(port))

        threads = [threading.Thread(target=ask, args=(port,)) for port in range(1, 21)]
        threads[0].start()
        assert owners.started.acquire(timeout=10)
        for thread in threads[1:]:
            thread.start()
        while len(resolver._waiting) < 19:
            pass
        for _ in threads:
            owners.go.release()
        for thread in threads:
            thread.join(10)
    assert answers == dict.fromkeys(range(1, 21), FOUND)
    assert (len(owners.walked), owners.most_at_once) == (2, 1)


def test_a_walk_that_fails_fails_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = MemoryOwners()
    owners.put(flow(1), FOUND, slow=True)

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with OwnerResolver(backend=backend_of(owners)) as resolver:
        monkeypatch.setattr(owners, "walk", fail)
        with pytest.raises(ZeroDivisionError):
            resolver.resolve(flow(1))
        monkeypatch.undo()
        assert resolver.resolve(flow(1)) == FOUND


class TestAsync:
    def test_many_tasks_share_a_walk(self) -> None:
        owners = SlowOwners()
        for port in range(1, 101):
            owners.put(flow(port), FOUND, slow=True)

        async def ask() -> list[Owner]:
            async with AsyncOwnerResolver(backend=backend_of(owners)) as resolver:
                first = asyncio.create_task(resolver.resolve(flow(1)))
                await asyncio.to_thread(owners.started.acquire, timeout=10)
                rest = [asyncio.create_task(resolver.resolve(flow(n))) for n in range(2, 101)]
                again = [asyncio.create_task(resolver.resolve(flow(n))) for n in range(2, 101)]
                await asyncio.sleep(0)
                for _ in range(3):
                    owners.go.release()
                return await asyncio.gather(first, *rest, *again)

        assert asyncio.run(ask()) == [FOUND] * 199
        assert [len(batch) for batch in owners.walked] == [1, 99]

    def test_everything_else(self) -> None:
        async def ask() -> None:
            backend = backend_of(MemoryOwners({flow(1): FOUND}))
            async with AsyncOwnerResolver(backend=backend) as resolver:
                assert await resolver.resolve_many([flow(1), flow(1)]) == {flow(1): FOUND}
                assert (await resolver.find("tcp", "", 1)).process == CURL
                assert await resolver.details(CURL) == ProcessDetails(CURL)
                with pytest.raises(TunOwnerError):
                    await resolver.find("tcp", "x", 1)
            await resolver.close()
            with pytest.raises(TunOwnerError, match="not open"):
                await resolver.resolve(flow(1))

        asyncio.run(ask())

    def test_a_task_that_is_cancelled_does_not_disturb_the_others(self) -> None:
        owners = SlowOwners()
        owners.put(flow(1), FOUND, slow=True)

        async def ask() -> Owner:
            async with AsyncOwnerResolver(backend=backend_of(owners)) as resolver:
                one, two = (asyncio.create_task(resolver.resolve(flow(1))) for _ in range(2))
                await asyncio.to_thread(owners.started.acquire, timeout=10)
                one.cancel()
                await asyncio.sleep(0)
                owners.go.release()
                with pytest.raises(asyncio.CancelledError):
                    await one
                return await two

        assert asyncio.run(ask()) == FOUND

    def test_a_walk_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        owners = MemoryOwners()
        owners.put(flow(1), FOUND, slow=True)

        def fail(_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(owners, "walk", fail)

        async def ask() -> None:
            async with AsyncOwnerResolver(backend=backend_of(owners)) as resolver:
                for _ in range(2):
                    with pytest.raises(ZeroDivisionError):
                        await resolver.resolve(flow(1))

        asyncio.run(ask())


def test_a_closed_resolver_says_so() -> None:
    resolver = OwnerResolver(backend=backend_of(MemoryOwners({flow(1): FOUND})))
    assert resolver.resolve(flow(1)) == FOUND
    resolver.close()
    with pytest.raises(TunOwnerError, match="closed"):
        resolver.resolve(flow(1))
    with pytest.raises(TunOwnerError, match="closed"):
        resolver.find("tcp", "10.0.0.1", 1)
