"""A packet loop on memory, run on a thread of its own."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.core import packets as p
from tunowner.app.judge import Judge
from tunowner.app.loop import PacketLoop
from tunowner.backends.memory import MemoryBackend, MemoryOwners
from tunowner.core.engine import Engine
from tunowner.core.model import Decision, FlowKey, Grade, Owner, Process
from tunowner.core.rules import Context, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tunowner.backends.memory import Carried, MemoryDataPlane

PATIENCE_S = 10.0
CURL = Owner(Grade.EXACT, (Process(812, 1, "/usr/bin/curl", 1000, "ana"),), cookie=77)


def wait_for(probe: Callable[[], bool], what: str) -> None:
    """Wait until `probe` is true; fail, naming `what`, when it never is."""
    deadline = time.monotonic() + PATIENCE_S
    while not probe():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.001)


def syn(port: int) -> bytes:
    return p.ipv4(p.tcp(sport=port))


def flow_of(port: int) -> FlowKey:
    return p.flow(sport=port)


class BlockedOwners(MemoryOwners):
    """Walks that begin only once `go` is set; `walking` tells that one has been asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.walking = threading.Event()

    def walk(self, flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        self.walking.set()
        assert self.go.wait(PATIENCE_S)
        yield from super().walk(flows)


class JudgeOf(Judge):
    """Decides at once by a function; off the loop only for practice."""

    def __init__(self, function: Callable[[FlowKey, Owner], Decision]) -> None:
        super().__init__(load([("none.yaml", "version: 1\nrules: []\n")]), Context())
        self._function = function

    def at_once(self, flow: FlowKey, owner: Owner) -> Decision:
        return self._function(flow, owner)


@dataclass
class Run:
    """A loop and everything round it. `ended` holds what `run` raised."""

    backend: MemoryBackend
    action: str = "direct"
    judge: Judge | None = None
    decided: list[tuple[FlowKey, Owner]] = field(default_factory=list)
    announced: list[tuple[FlowKey, Decision]] = field(default_factory=list)
    raised: BaseException | None = None

    def __post_init__(self) -> None:
        judge = self.judge or JudgeOf(self._decide)
        self.engine = Engine(self._decide if self.judge is None else judge.decide)
        self.loop = PacketLoop(
            self.backend.plane,
            self.backend.owners,
            self.backend.deaths,
            self.engine,
            judge,
            lambda flow, decision: self.announced.append((flow, decision)),
        )
        self._thread = threading.Thread(target=self._run, name="loop-under-test")

    @property
    def plane(self) -> MemoryDataPlane:
        return self.backend.plane

    def start(self) -> None:
        self._thread.start()

    def wait_for_carried(self, count: int) -> list[Carried]:
        wait_for(lambda: len(self.plane.carried) >= count, f"{count} packets carried")
        return self.plane.carried

    def stop(self) -> None:
        self.loop.stop()
        self.join()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the loop did not end"

    def _decide(self, flow: FlowKey, owner: Owner) -> Decision:
        self.decided.append((flow, owner))
        return Decision(self.action, owner)

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self.raised = error


@contextmanager
def running(
    owners: MemoryOwners | None = None, action: str = "direct", judge: Judge | None = None
) -> Iterator[Run]:
    """A loop that runs; at the end it must stop, without an error unless the test took it."""
    run = Run(MemoryBackend(owners=owners), action, judge)
    run.start()
    try:
        yield run
    finally:
        run.loop.stop()
        wait_for(lambda: not run.plane.intercepting, "the end of interception")
        if isinstance(owners, BlockedOwners):
            owners.go.set()
        run.join()
        run.loop.close()
        run.plane.close()
        run.backend.deaths.close()
        if run.raised is not None:
            raise run.raised


def owner_walk_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "owner-walk"]
