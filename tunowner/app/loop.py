"""The packet loop: performs what the engine asks for, and knows nothing of policy.

One thread waits for five things: a packet, an answer of the lookup worker, a socket that closes, a
change of the network, and a signal. Everything the engine returns is done at once; a flow that can
be decided at once never leaves this thread.
"""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, assert_never

from tunowner.app.lookups import LookupWorker
from tunowner.core.engine import Announce, Carry, Engine, Forget, Lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tunowner.app.judge import Judge
    from tunowner.backends.base import DataPlane, OwnerSource, SocketDeaths
    from tunowner.core.engine import Action
    from tunowner.core.model import Decision, FlowKey

PACKETS_PER_TURN = 16
"""Packets read before the other four are looked at again, about 1.5 ms of work: a verdict must end
soon after its socket, and a turn costs little."""
SETTLE_S = 0.25
"""A network change comes as a burst of messages; the state is read once it is over."""


class PacketLoop:
    """Runs once, until `stop`; `close` it when no signal handler knows it any more.

    `announce` is told of every decided flow, and must not block.
    """

    def __init__(
        self,
        plane: DataPlane,
        owners: OwnerSource,
        deaths: SocketDeaths,
        engine: Engine,
        judge: Judge,
        announce: Callable[[FlowKey, Decision], None],
    ) -> None:
        self._plane = plane
        self._owners = owners
        self._deaths = deaths
        self._engine = engine
        self._judge = judge
        self._announce = announce
        self._worker = LookupWorker(owners, judge, self.wake)
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._refresh_due: float | None = None
        self._empty_at: float | None = None
        self._stopping = False

    @property
    def wake_fileno(self) -> int:
        """A descriptor to write a byte to from a signal handler (signal.set_wakeup_fd)."""
        return self._wake_sender.fileno()

    def wake(self) -> None:
        """Make the loop look around. Safe from any thread and from a signal handler, at any time."""
        with suppress(OSError):  # full: it is awake already; closed: it has ended
            self._wake_sender.send(b"\0")

    def stop(self) -> None:
        """End `run` soon. Safe from any thread and from a signal handler."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """Carry packets until `stop`, then let go of what is held.

        Raises DeviceClosed when the device has gone.
        """
        self._worker.start()
        try:
            with selectors.DefaultSelector() as selector:
                self._turn_until_stopped(selector)
        finally:
            self._plane.stop_intercepting()
            self._worker.stop()
        self._let_go()

    def close(self) -> None:
        """Give back the wake-up sockets. Safe to call twice."""
        self._wake_receiver.close()
        self._wake_sender.close()

    def _turn_until_stopped(self, selector: selectors.BaseSelector) -> None:
        selector.register(self._plane.fileno(), selectors.EVENT_READ, self._read_packets)
        selector.register(self._wake_receiver, selectors.EVENT_READ, self._read_wake_ups)
        selector.register(self._deaths.fileno(), selectors.EVENT_READ, self._read_deaths)
        selector.register(self._plane.changes_fileno(), selectors.EVENT_READ, self._note_change)
        while not self._stopping:
            due = self._next_due()
            patience = None if due is None else max(0.0, due - time.monotonic())
            for key, _ in selector.select(patience):
                key.data()
            self._take_answers()
            if due is not None and due <= time.monotonic():
                self._keep_time()

    def _read_packets(self) -> None:
        for _ in range(PACKETS_PER_TURN):
            now = time.monotonic()
            packet = self._plane.read()
            if packet is None:
                self._empty_at = now
                return
            self._perform(self._engine.packet_read(packet, now, self._quick))

    def _read_deaths(self) -> None:
        cookies = self._deaths.read()
        if cookies is None:
            self._perform(self._engine.sockets_lost())
        else:
            for cookie in cookies:
                self._perform(self._engine.socket_closed(cookie))

    def _read_wake_ups(self) -> None:
        with suppress(BlockingIOError):
            while self._wake_receiver.recv(4096):
                pass

    def _note_change(self) -> None:
        self._plane.drain_changes()
        if self._refresh_due is None:
            self._refresh_due = time.monotonic() + SETTLE_S

    def _take_answers(self) -> None:
        for ticket, owner in self._worker.answers():
            self._perform(self._engine.owner_resolved(ticket, owner, time.monotonic()))

    def _keep_time(self) -> None:
        now = time.monotonic()
        self._perform(self._engine.tick(now))
        if self._refresh_due is not None and self._refresh_due <= now:
            self._refresh_due = None
            self._plane.refresh()

    def _next_due(self) -> float | None:
        return min(
            (at for at in (self._engine.next_deadline(), self._refresh_due) if at is not None),
            default=None,
        )

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Carry(packet, flow, verdict, first):
                    self._plane.carry(packet, flow, verdict, first=first)
                case Lookup():
                    self._worker.submit(action)
                case Announce(flow, decision):
                    self._announce(flow, decision)
                case Forget(flow):
                    self._plane.forget(flow)
                case _:
                    assert_never(action)

    def _quick(self, flow: FlowKey) -> Decision | None:
        owner = self._owners.quick(flow, self._empty_at)
        return None if owner is None else self._judge.at_once(flow, owner)

    def _let_go(self) -> None:
        """Pass on what is held and what still waits in the device: nothing of it is ours now."""
        self._perform(self._engine.release())
        while (packet := self._plane.read()) is not None:
            self._perform(self._engine.packet_left(packet))
