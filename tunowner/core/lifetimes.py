"""A verdict must not outlive the socket it was given to. Pure.

The kernel applies a UDP flow's verdict to its 5-tuple for as long as conntrack remembers it: 30 s
after the last datagram. If the program closes its socket meanwhile and another program gets the same
port, that one would inherit the verdict. So the flows of each socket are remembered here, and
forgotten by the kernel when the socket is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from tunowner.core.model import FlowKey

MAX_FLOWS = 16_384
"""Flows of living sockets; beyond it the oldest are forgotten early, so they are asked for again."""
MAX_DEAD = 4_096
"""Sockets that closed before their flow was decided: those of the last moments matter."""


class Lifetimes:
    """Flows by socket cookie. Every method returns the flows that the kernel must forget now."""

    def __init__(self) -> None:
        self._flows: dict[FlowKey, int] = {}
        self._flows_of_socket: dict[int, set[FlowKey]] = {}
        self._dead: LRUCache[int, None] = LRUCache(MAX_DEAD)

    def __len__(self) -> int:
        return len(self._flows)

    def decided(self, flow: FlowKey, cookie: int | None) -> list[FlowKey]:
        """Remember that `flow` belongs to the socket; at once over where it has gone already."""
        self._remove(flow)
        if cookie is None or cookie in self._dead:
            return [flow]
        self._flows[flow] = cookie
        self._flows_of_socket.setdefault(cookie, set()).add(flow)
        return [self._remove_oldest()] if len(self._flows) > MAX_FLOWS else []

    def closed(self, cookie: int) -> list[FlowKey]:
        """Take note that a socket, ours or not, has closed."""
        self._dead[cookie] = None  # even where flows are known: another may wait for its owner
        flows = self._flows_of_socket.pop(cookie, set())
        for flow in flows:
            del self._flows[flow]
        return list(flows)

    def lost_track(self) -> list[FlowKey]:
        """Take note that some closings were not told: any of the flows may be over."""
        flows = list(self._flows)
        self._flows.clear()
        self._flows_of_socket.clear()
        return flows

    def _remove_oldest(self) -> FlowKey:
        flow = next(iter(self._flows))
        self._remove(flow)
        return flow

    def _remove(self, flow: FlowKey) -> None:
        cookie = self._flows.pop(flow, None)
        if cookie is None:
            return
        flows = self._flows_of_socket[cookie]
        flows.discard(flow)
        if not flows:
            del self._flows_of_socket[cookie]
