"""What the rest of tunowner asks of an operating system: small promises, each kept by every backend.

`memory` is the fake that is shipped and used in tests; `tests/backends/` runs one contract suite
against it and against the real ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tunowner.core.model import FlowKey, Owner


class OwnerSource(Protocol):
    """Answers "which process holds the local socket of this flow?"."""

    def quick(self, flow: FlowKey) -> Owner | None:
        """Answer from what is cheap to ask (about 100 us at most), or None when a walk is needed.

        Called on the packet loop, so it must never scan all processes. Never raises for a flow.
        A None is a promise that `walk` may know more; a final answer (`absent`, say) is an Owner.
        """

    def walk(self, flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        """Answer every one of `flows` once, each as soon as it is known. May take long.

        Called from one worker thread at a time, at the same time as `quick` on another. One pass
        over the processes serves all flows. Never raises for a flow.
        """

    def close(self) -> None:
        """Give back what is open. Safe to call twice."""
