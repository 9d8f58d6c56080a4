"""Host names for rules: the table of core.dns, filled from a tap."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunowner.core.dns import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tunowner.backends.base import PacketTap

MOST_PACKETS = 256
"""Read in one go, so that flows are not kept waiting by a burst of look-ups."""


class HostNames:
    """Names of addresses. Used by one thread; the tap is closed with it."""

    def __init__(self, tap: PacketTap, timer: Callable[[], float] = time.monotonic) -> None:
        self._tap = tap
        self._timer = timer
        self._names = Names()

    def fileno(self) -> int:
        """A descriptor that is readable when `take` has something."""
        return self._tap.fileno()

    def take(self) -> None:
        """Learn from what was seen meanwhile, so that the tap's buffer does not overflow."""
        now = self._timer()
        for _ in range(MOST_PACKETS):
            packet = self._tap.read()
            if packet is None:
                return
            self._names.packet_seen(packet, now)

    def of(self, address: bytes) -> Collection[str]:
        """Return the names of a packed address, those of an answer that just came included."""
        self.take()
        return self._names.of(address, self._timer())

    def close(self) -> None:
        """Give back the tap. Safe to call twice."""
        self._tap.close()
