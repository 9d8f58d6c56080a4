"""Backends that live in memory: for tests, examples and dry runs. They keep the same promises."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tunowner.core.model import Grade, Owner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tunowner.core.model import FlowKey

BACKEND = "memory"


class MemoryOwners:
    """An `OwnerSource` that answers what it was told; a flow it was not told of is `absent`.

    `quick` knows a flow at once, or only after a walk when `put` said `slow`, as the real one does
    for a process that it sees for the first time. `walked` lists the batches that were walked.
    """

    def __init__(self, owners: Mapping[FlowKey, Owner] | None = None) -> None:
        self._owners = dict(owners or {})
        self._slow: set[FlowKey] = set()
        self.walked: list[tuple[FlowKey, ...]] = []

    def put(self, flow: FlowKey, owner: Owner, *, slow: bool = False) -> None:
        self._owners[flow] = owner
        if slow:
            self._slow.add(flow)
        else:
            self._slow.discard(flow)

    def remove(self, flow: FlowKey) -> None:
        """Forget a flow, as when its socket is closed."""
        self._owners.pop(flow, None)
        self._slow.discard(flow)

    def quick(self, flow: FlowKey) -> Owner | None:
        return None if flow in self._slow else self._answer(flow)

    def walk(self, flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        batch = tuple(dict.fromkeys(flows))
        self.walked.append(batch)
        for flow in batch:
            self._slow.discard(flow)
            yield flow, self._answer(flow)

    def close(self) -> None:
        """Nothing is open."""

    def _answer(self, flow: FlowKey) -> Owner:
        owner = self._owners.get(flow) or Owner(Grade.ABSENT)
        return owner if owner.backend else replace(owner, backend=BACKEND)
