"""Facts that take long are fetched where it stalls nobody: on the worker that walks processes.

The hash of a large program takes 2 ms for each MB, the first package of a start 40 ms. The packet
loop decides about all flows, so it must not wait for either. A flow whose rules want something that
is not at hand is treated as one whose owner needs a walk: the worker asks the rules once, which
fetches all that they want, and the loop then decides from memory.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeVar

from cachetools import TTLCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tunowner.backends.base import OwnerSource
    from tunowner.core.model import FlowKey, Owner, Process, ProcessDetails
    from tunowner.core.rules import Context, RuleSet

SLOW = ("package", "sha256")
"""Conditions whose facts may take long."""
AT_HAND_S = 4.0
"""Shorter than an inspector keeps what it has read."""
FACTS = 2_048
WAITING = 16_384
T = TypeVar("T")
_Fact = tuple[str, "Process"]


def patient(owners: OwnerSource, rules: RuleSet, context: Context) -> OwnerSource:
    """Return an owner source that has facts at hand before it answers, where rules want slow ones."""
    if any(rules.asks_for(key) for key in SLOW):
        return PatientOwners(owners, rules, context)
    return owners


class _Asking(Protocol):
    def __call__(self, fact: _Fact, tell: Callable[[Process], T], /) -> T | None: ...


class PatientOwners:
    """An `OwnerSource` around another. See the module's docstring."""

    def __init__(
        self,
        owners: OwnerSource,
        rules: RuleSet,
        context: Context,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._owners = owners
        self._rules = rules
        self._context = context
        self._lock = Lock()
        self._found: TTLCache[FlowKey, Owner] = TTLCache(WAITING, AT_HAND_S, timer)
        self._fetched: TTLCache[_Fact, None] = TTLCache(FACTS, AT_HAND_S, timer)

    def quick(self, flow: FlowKey) -> Owner | None:
        """See OwnerSource.quick. None also where the owner is known, and a fact is not at hand."""
        owner = self._owners.quick(flow)
        if owner is None or self._is_at_hand(flow, owner):
            return owner
        with self._lock:
            self._found[flow] = owner
        return None

    def walk(self, flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        """See OwnerSource.walk. What `quick` has found is not looked for again."""
        with self._lock:
            found = {flow: owner for flow in flows if (owner := self._found.pop(flow, None))}
        missing = [flow for flow in flows if flow not in found]
        walked = self._owners.walk(missing) if missing else ()
        for flow, owner in chain(found.items(), walked):
            self._ask(flow, owner, self._fetch)
            yield flow, owner

    def close(self) -> None:
        self._owners.close()

    def _is_at_hand(self, flow: FlowKey, owner: Owner) -> bool:
        """Ask the rules, and see whether they want what has not been fetched lately."""
        wanted: list[_Fact] = []

        def look(fact: _Fact, tell: Callable[[Process], T], /) -> T | None:
            with self._lock:
                at_hand = fact in self._fetched
            if at_hand:
                return tell(fact[1])
            wanted.append(fact)
            return None

        self._ask(flow, owner, look)
        return not wanted

    def _fetch(self, fact: _Fact, tell: Callable[[Process], T], /) -> T:
        """Ask for a fact, however long it takes, and note that it is at hand."""
        told = tell(fact[1])
        with self._lock:
            self._fetched[fact] = None
        return told

    def _ask(self, flow: FlowKey, owner: Owner, about: _Asking) -> None:
        """Let the rules ask for all that they want, each thing by `about`."""
        tell = self._context

        def details(process: Process) -> ProcessDetails | None:
            return about(("details", process), tell.details)

        def sha256(process: Process) -> str | None:
            return about(("sha256", process), tell.sha256)

        self._rules.decide(flow, owner, replace(tell, details=details, sha256=sha256))
