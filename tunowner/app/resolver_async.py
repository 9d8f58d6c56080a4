"""The resolver for asyncio. Apart from `resolver`, since asyncio takes 50 ms to import."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tunowner.app.resolver import OwnerResolver
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from tunowner.backends.base import Backend
    from tunowner.core.model import FlowKey, Owner, Process, ProcessDetails

T = TypeVar("T")


class AsyncOwnerResolver:
    """An OwnerResolver behind a worker thread, for one event loop.

    Flows that are asked for while the worker is busy are answered together by its next walk, and
    tasks that ask for the same flow share one answer.
    """

    def __init__(
        self,
        *,
        interface: int = 0,
        backend: Backend | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = partial(OwnerResolver, interface=interface, backend=backend, timer=timer)
        self._resolver: OwnerResolver | None = None
        self._worker = ThreadPoolExecutor(1, "owner-resolver")
        self._waiting: dict[FlowKey, asyncio.Future[Owner]] = {}
        self._round: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._resolver = await self._run(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for what is asked, then give back what is open. Safe to call twice."""
        if self._round is not None:
            await asyncio.gather(self._round, return_exceptions=True)
        if self._resolver is not None:
            resolver, self._resolver = self._resolver, None
            await self._run(resolver.close)
        self._worker.shutdown(wait=False)

    async def find(
        self, protocol: str, ip: str, port: int, remote: tuple[str, int] | None = None
    ) -> Owner:
        """Find the holder of a local socket; see `tunowner.find_process`."""
        return await self._run(partial(self._opened().find, protocol, ip, port, remote))

    async def resolve(self, flow: FlowKey) -> Owner:
        """Return the owner of a flow."""
        self._opened()
        future = self._waiting.get(flow)
        if future is None:
            future = self._waiting[flow] = asyncio.get_running_loop().create_future()
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._answer_waiting())
        return await asyncio.shield(future)  # another task may wait for the same one

    async def resolve_many(self, flows: Iterable[FlowKey]) -> dict[FlowKey, Owner]:
        """Return the owner of each flow."""
        wanted = list(dict.fromkeys(flows))
        owners = await asyncio.gather(*map(self.resolve, wanted))
        return dict(zip(wanted, owners, strict=True))

    async def details(self, process: Process, *, sha256: bool = False) -> ProcessDetails | None:
        """Tell more about a process; see `OwnerResolver.details`."""
        return await self._run(partial(self._opened().details, process, sha256=sha256))

    async def _answer_waiting(self) -> None:
        """Answer in batches until nobody waits."""
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            try:
                owners = await self._run(partial(self._opened().resolve_many, batch))
            except asyncio.CancelledError:
                for future in (*batch.values(), *self._waiting.values()):
                    future.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - raised by those who wait
                _fail(batch.values(), error)
                continue
            for flow, future in batch.items():
                if not future.done():
                    future.set_result(owners[flow])

    async def _run(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, action)

    def _opened(self) -> OwnerResolver:
        if self._resolver is None:
            raise TunOwnerError("the resolver is not open", hint="Use it within async with")
        return self._resolver


def _fail(futures: Iterable[asyncio.Future[Owner]], error: BaseException) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
            future.exception()  # a task that was cancelled meanwhile will not look
