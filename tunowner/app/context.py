"""What rules may ask about a flow besides its owner, answered by this system."""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING

from tunowner.core.dns import HostNames
from tunowner.core.rules import Context

if TYPE_CHECKING:
    from tunowner.backends.base import Backend, DnsTap
    from tunowner.core.model import Process
    from tunowner.core.rules import RuleSet


class Facts:
    """Tells the rules about processes, routes, host names and the time; close it in the end.

    `context` is what they are given. Nobody is asked before a rule needs the answer. Any thread
    may ask.
    """

    def __init__(self, backend: Backend, profile: str = "") -> None:
        self._backend = backend
        self._inspector = backend.open_inspector()
        self._names = HostNames()
        self._tap: DnsTap | None = None
        self._lock = Lock()
        self.context = Context(
            details=self._inspector.details,
            sha256=self._sha256,
            hosts=self.hosts,
            interface=backend.interface_of,
            profile=profile,
            now=time.time,
        )

    def serve(self, rules: RuleSet) -> None:
        """Prepare for the questions of these rules: where one asks for host names, see them.

        Raises PrivilegeError or BackendError where they cannot be seen.
        """
        with self._lock:
            if self._tap is None and rules.asks_for("host"):
                self._tap = self._backend.open_dns_tap()

    def hosts(self, address: bytes) -> tuple[str, ...]:
        """Return the names of a packed address, as far as answers were seen, this moment's too."""
        with self._lock:
            if self._tap is None:
                return ()
            now = time.monotonic()
            for packet in self._tap.read():
                self._names.packet_seen(packet, now)
            return self._names.of(address, now)

    def close(self) -> None:
        """Give back what is open. Safe to call twice."""
        with self._lock:
            tap, self._tap = self._tap, None
        if tap is not None:
            tap.close()

    def _sha256(self, process: Process) -> str | None:
        details = self._inspector.details(process, sha256=True)
        return None if details is None else details.sha256
