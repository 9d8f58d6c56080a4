"""The worker that walks: batches, the newer of two tickets, and its end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.app.helpers import CURL, BlockedOwners, JudgeOf, flow_of, wait_for
from tunowner.app.lookups import LookupWorker
from tunowner.core.engine import Lookup

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tunowner.core.model import Decision, FlowKey, Owner


class Bench:
    """A worker, what it answered, and how often it called for attention."""

    def __init__(self) -> None:
        self.owners = BlockedOwners()
        self.calls = 0
        self.worker = LookupWorker(self.owners, JudgeOf(self._never), self._wake)
        self.answers: list[tuple[int, Owner]] = []
        self.worker.start()

    def _never(self, _flow: FlowKey, _owner: Owner) -> Decision:
        raise AssertionError("the worker decides nothing at once")

    def submit(self, port: int, ticket: int) -> None:
        self.owners.put(flow_of(port), CURL)
        self.worker.submit(Lookup(flow_of(port), ticket))

    def wait_for_tickets(self, count: int) -> list[int]:
        def enough() -> bool:
            self.answers += self.worker.answers()
            return len(self.answers) >= count

        wait_for(enough, f"{count} answers")
        return [ticket for ticket, _ in self.answers]

    def _wake(self) -> None:
        self.calls += 1


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.owners.go.set()
    bench.worker.stop()


def walk_asked_for(bench: Bench) -> None:
    assert bench.owners.walking.wait(10.0)


def test_it_answers_with_the_ticket_and_calls(bench: Bench) -> None:
    bench.owners.go.set()
    bench.submit(1, ticket=41)
    assert bench.wait_for_tickets(1) == [41]
    assert bench.answers[0][1].process == CURL.process
    wait_for(lambda: bench.calls == 1, "a call")


def test_an_answer_is_taken_away_once(bench: Bench) -> None:
    bench.owners.go.set()
    bench.submit(1, ticket=1)
    bench.wait_for_tickets(1)
    assert list(bench.worker.answers()) == []


def test_what_comes_during_a_walk_goes_into_the_next_together(bench: Bench) -> None:
    bench.submit(1, ticket=1)
    walk_asked_for(bench)
    for number in range(2, 100):
        bench.submit(number, ticket=number)
    bench.owners.go.set()
    assert bench.wait_for_tickets(99) == list(range(1, 100))
    assert [len(batch) for batch in bench.owners.walked] == [1, 98]


def test_of_two_tickets_for_one_flow_the_newer_is_answered(bench: Bench) -> None:
    bench.submit(1, ticket=1)
    walk_asked_for(bench)
    bench.submit(2, ticket=2)
    bench.submit(3, ticket=3)
    bench.submit(2, ticket=4)
    bench.owners.go.set()
    assert sorted(bench.wait_for_tickets(3)) == [1, 3, 4]
    assert [len(batch) for batch in bench.owners.walked] == [1, 2]


def test_it_stops_while_idle_and_twice(bench: Bench) -> None:
    bench.worker.stop()
    bench.worker.stop()
    assert bench.calls == 0


def test_no_walk_begins_once_it_is_told_to_stop(bench: Bench) -> None:
    bench.submit(1, ticket=1)
    walk_asked_for(bench)
    bench.submit(2, ticket=2)
    stopper = threading.Thread(target=bench.worker.stop)
    stopper.start()
    wait_for(lambda: bench.worker._stopping, "the order to stop")
    bench.owners.go.set()
    stopper.join(10.0)
    assert not stopper.is_alive()
    assert bench.owners.walked == [(flow_of(1),)]


def test_what_ends_the_thread_is_raised_to_whoever_asks_for_answers(bench: Bench) -> None:
    def walk(flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        raise MemoryError("no walk")

    bench.owners.walk = walk  # type: ignore[method-assign]
    bench.submit(1, ticket=1)
    wait_for(lambda: bench.calls == 1, "a call")
    with pytest.raises(MemoryError, match="no walk"):
        list(bench.worker.answers())
