"""Flow events: one dictionary each, the same for JSON Lines, logs and every other door.

Schema `tunowner.flow/1`. Keys are only ever added. Times are seconds since the epoch.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunowner.core.model import Decision, FlowKey, Owner

SCHEMA = "tunowner.flow/1"
MAX_WAITING = 50_000
"""Events that a slow reader may leave waiting (about 50 MB); then new ones are dropped, counted."""
REST_S = 0.02
"""The writer's pause when nothing waits. Woken for each flow it would take the interpreter's lock
from the packet loop in the middle of the next one: 130 us for every flow, measured."""

Event = dict[str, Any]


def owner_fields(owner: Owner) -> dict[str, Any]:
    """Return what every output tells of an owner. `pid` and its like are None when not known."""
    process = owner.process
    fields: dict[str, Any] = {"grade": str(owner.grade), "backend": owner.backend}
    if process is not None:
        fields |= {"pid": process.pid, "start": process.start, "name": process.name}
        fields |= {"path": process.path, "uid": process.uid, "user": process.user}
    else:
        fields |= dict.fromkeys(("pid", "start", "name", "path"))
        fields |= {"uid": owner.uid, "user": owner.user}
    if len(owner.candidates) > 1:
        fields["candidates"] = [{"pid": it.pid, "path": it.path} for it in owner.candidates]
    return fields


class EventMaker:
    """Numbers the flows of one run and words its events."""

    def __init__(self) -> None:
        self._run = f"{time.time_ns() // 1_000_000:x}"
        self._numbers = itertools.count(1)

    def other(self, event: str, **fields: Any) -> Event:
        """Return an event that is about the run: `ready`, `stopped`."""
        return {"schema": SCHEMA, "event": event, "ts": time.time(), **fields}

    def opened(
        self, flow: FlowKey, decision: Decision, at: float, host: str | None = None
    ) -> Event:
        """Return the event of a flow to `host` that was decided `at` this time."""
        return {
            "schema": SCHEMA,
            "event": "open",
            "ts": at,
            "flow": f"{self._run}-{next(self._numbers)}",
            "proto": flow.protocol_name,
            "src": flow.source,
            "dst": flow.destination,
            "host": host,
            "owner": owner_fields(decision.owner),
            "action": decision.action,
            "rule": decision.rule,
            "rule_file": decision.rule_file,
            "why": decision.why,
            "lookup_us": decision.owner.lookup_us,
            "tags": list(decision.tags),
            "audited": [audited._asdict() for audited in decision.audited],
        }


class Reporter:
    """Writes events on a thread of its own: a reader that stalls must not stall flows.

    Work is passed as a callable, so that wording an event costs the caller nothing either. What
    cannot be written, since nobody reads any more, is `dropped` and counted: flows go on.
    """

    def __init__(self, write: Callable[[Event], None]) -> None:
        self._write = write
        self._queue: queue.SimpleQueue[Callable[[], Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        self._thread.start()

    def put(self, make: Callable[[], Event]) -> None:
        if self._queue.qsize() >= MAX_WAITING:
            self.dropped += 1
        else:
            self._queue.put(make)

    def stop(self, patience_s: float = 2.0) -> None:
        """Write what waits, for `patience_s` seconds at most. Safe to call twice."""
        self._queue.put(None)
        self._thread.join(patience_s)

    def _run(self) -> None:
        while (make := self._queue.get()) is not None:
            try:
                self._write(make())
            except OSError:
                self.dropped += 1
            if self._queue.empty():
                time.sleep(REST_S)
