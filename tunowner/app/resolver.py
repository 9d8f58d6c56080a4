"""Owners for programs that ask often: one resolver, kept open.

    with OwnerResolver() as resolver:
        owner = resolver.resolve(flow)                       # a FlowKey
        owners = resolver.resolve_many(flows)                # one pass over the processes
        owner = resolver.find("tcp", "127.0.0.1", 8080)      # a socket, as find_process
        details = resolver.details(owner.process)            # command line, parents, package, ...

    async with AsyncOwnerResolver() as resolver:             # tunowner.app.resolver_async
        owner = await resolver.resolve(flow)

Any thread may ask. What is not answered at once is answered by one walk for all threads that wait.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from threading import Lock
from typing import TYPE_CHECKING

from cachetools import TTLCache

from tunowner.app.find import check_question
from tunowner.backends import open_backend
from tunowner.core.model import Grade, Owner
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from tunowner.backends.base import Backend
    from tunowner.core.model import FlowKey, Process, ProcessDetails

ABSENT_S = 0.075
"""How long "no such socket" is remembered, for this very flow only: a burst of packets costs one
look-up, and a socket that is opened meanwhile is seen soon. No other answer is ever kept here: the
next socket of an address may belong to another program."""
ABSENT_FLOWS = 4096


class OwnerResolver:
    """Finds the owners of flows and sockets. Close it, or use it in a `with` statement.

    `interface` is the index of the device that the flows are seen on, 0 if unknown. `absent_s` is
    for callers with a memory of their own (see ABSENT_S). Raises BackendError where this system
    cannot answer.
    """

    def __init__(
        self,
        *,
        interface: int = 0,
        backend: Backend | None = None,
        timer: Callable[[], float] = time.monotonic,
        absent_s: float = ABSENT_S,
    ) -> None:
        self._backend = backend or open_backend()
        self._owners = self._backend.open_owners(interface)
        self._inspector = self._backend.open_inspector()
        self._quick = Lock()
        self._walk = Lock()
        self._closed = False
        self._waiting: dict[FlowKey, Future[Owner]] = {}
        self._absent: TTLCache[FlowKey, Owner] = TTLCache(ABSENT_FLOWS, absent_s, timer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is open. Safe to call twice."""
        with self._walk, self._quick:
            self._closed = True
            self._owners.close()

    def find(
        self, protocol: str, ip: str, port: int, remote: tuple[str, int] | None = None
    ) -> Owner:
        """Find the holder of a local socket; see `tunowner.find_process`."""
        check_question(protocol, ip, port, remote)
        with self._walk, self._quick:
            self._check_open()
            return self._backend.find_process(protocol, ip, port, remote, self._owners)

    def resolve(self, flow: FlowKey) -> Owner:
        """Return the owner of a flow, as it is now."""
        return self.resolve_many((flow,))[flow]

    def resolve_many(self, flows: Iterable[FlowKey]) -> dict[FlowKey, Owner]:
        """Return the owner of each flow. One pass over the processes serves all of them."""
        self._check_open()
        answers = {flow: self._at_once(flow) for flow in flows}
        futures = {flow: self._queue(flow) for flow, owner in answers.items() if owner is None}
        if not all(future.done() for future in futures.values()):
            with self._walk:
                self._answer_waiting()
        walked = {flow: future.result() for flow, future in futures.items()}
        return {flow: owner or walked[flow] for flow, owner in answers.items()}

    def details(self, process: Process, *, sha256: bool = False) -> ProcessDetails | None:
        """Tell more about a process; None when it has gone or runs another program now.

        `sha256`: hash its executable too.
        """
        return self._inspector.details(process, sha256=sha256)

    def _check_open(self) -> None:
        if self._closed:
            raise TunOwnerError("the resolver is closed", hint="Open another one")

    def _at_once(self, flow: FlowKey) -> Owner | None:
        if not _is_possible(flow):
            return Owner(Grade.ABSENT, detail="no socket has such an address or port")
        with self._quick:
            owner = self._absent.get(flow)
            if owner is None:
                owner = self._owners.quick(flow)
                self._remember(flow, owner)
            return owner

    def _remember(self, flow: FlowKey, owner: Owner | None) -> None:
        if owner is not None and owner.grade is Grade.ABSENT:
            self._absent[flow] = owner

    def _queue(self, flow: FlowKey) -> Future[Owner]:
        with self._quick:
            return self._waiting.setdefault(flow, Future())

    def _answer_waiting(self) -> None:
        """Walk for all that waits by now: whoever gets the turn first does it for the others."""
        with self._quick:
            batch, self._waiting = self._waiting, {}
        try:
            for flow, owner in self._owners.walk(list(batch)) if batch else ():
                with self._quick:
                    self._remember(flow, owner)
                batch[flow].set_result(owner)
        except BaseException as error:
            for future in batch.values():
                if not future.done():
                    future.set_exception(error)
            raise


def _is_possible(flow: FlowKey) -> bool:
    ports = 0 <= flow.local_port < 65536 and 0 <= flow.remote_port < 65536
    return ports and len(flow.local) == len(flow.remote) and len(flow.local) in (4, 16)
