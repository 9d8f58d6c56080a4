"""The worker that walks processes, so that a slow walk never stalls flows that are quickly found.

Lookups collect while a walk is under way and go into the next one together: under load the cost of
a walk is shared by all flows that wait for it.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunowner.app.judge import Judge
    from tunowner.backends.base import OwnerSource
    from tunowner.core.engine import Lookup
    from tunowner.core.model import FlowKey, Owner


class LookupWorker:
    """One thread. `wake` is called from it whenever `answers` has something.

    Before an owner is handed on, the rules are asked about it here: see `judge`.
    """

    def __init__(self, owners: OwnerSource, judge: Judge, wake: Callable[[], None]) -> None:
        self._owners = owners
        self._judge = judge
        self._wake = wake
        self._waiting: deque[Lookup] = deque()
        self._answers: deque[tuple[int, Owner]] = deque()
        self._work = threading.Event()
        self._stopping = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="owner-walk", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, lookup: Lookup) -> None:
        self._waiting.append(lookup)
        self._work.set()

    def answers(self) -> Iterator[tuple[int, Owner]]:
        """Yield and take away (ticket, owner) of what has been answered so far.

        Raises what ended the thread: nobody would be looked up any more, unnoticed.
        """
        while self._answers:
            yield self._answers.popleft()
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """End the thread after the answer it is at. Safe to call twice."""
        self._stopping = True
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._work.wait()
                self._work.clear()
                self._walk(self._take())
        except BaseException as error:  # noqa: BLE001 - raised by `answers`
            self._failed = error
            self._wake()

    def _take(self) -> dict[FlowKey, int]:
        """Return the ticket of each flow that waits; of two for one flow the newer is meant."""
        batch: dict[FlowKey, int] = {}
        while self._waiting:
            flow, ticket = self._waiting.popleft()
            batch[flow] = ticket
        return batch

    def _walk(self, batch: dict[FlowKey, int]) -> None:
        if not batch:
            return
        for flow, owner in self._owners.walk(list(batch)):
            self._judge.decide(flow, owner)
            self._answers.append((batch[flow], owner))
            self._wake()
            if self._stopping:
                return
