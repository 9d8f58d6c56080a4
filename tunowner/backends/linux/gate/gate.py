"""The gate as the packet loop sees it: read a flow's first packet, carry it by its action."""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tunowner.backends.linux.gate import script
from tunowner.backends.linux.gate.conntrack import Conntrack
from tunowner.backends.linux.gate.monitor import Monitor
from tunowner.backends.linux.gate.nft import open_nft
from tunowner.backends.linux.gate.plan import TUN_NAME, Marks, make_plan
from tunowner.backends.linux.gate.routing import Routing
from tunowner.backends.linux.gate.sender import Sender, Sent
from tunowner.backends.linux.gate.sysctls import Sysctls
from tunowner.backends.linux.tun import MTU, QUEUE_LENGTH, open_tun
from tunowner.core.model import BLOCK, DROP, UDP
from tunowner.core.packet import destination, is_fragment
from tunowner.errors import BackendError, TunOwnerError

if TYPE_CHECKING:
    from tunowner.backends.base import GateSettings
    from tunowner.backends.linux.gate.nft import Nft
    from tunowner.backends.linux.gate.plan import GatePlan
    from tunowner.backends.linux.tun import Tun
    from tunowner.core.model import FlowKey

_REFUSING = (BLOCK, DROP)
_ATTEMPTS = 3
"""To send a packet before a firewall's no is believed; the first no is mostly our own table's."""


@dataclass(slots=True)
class _Counters:
    carried: int = 0
    refused: int = 0
    unreachable: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class _Parts:
    """The open pieces that a gate is made of."""

    tun: Tun
    routing: Routing
    nft: Nft
    conntrack: Conntrack
    sender: Sender
    monitor: Monitor
    sysctls: Sysctls


class Gate:
    """An open gate. `open_gate` makes one; `close` takes everything out of the kernel again."""

    def __init__(self, plan: GatePlan, parts: _Parts, undo: ExitStack) -> None:
        self._plan = plan
        self._parts = parts
        self._undo = undo
        self._tun = parts.tun
        self._mark_of_action = plan.mark_of_action
        self._passing_marks = {plan.marks.direct} | {via.mark for via in plan.vias}
        self._counters = _Counters()

    @property
    def name(self) -> str:
        return self._tun.name

    @property
    def interface_index(self) -> int:
        return self._tun.index

    def fileno(self) -> int:
        return self._tun.fileno()

    def read(self) -> bytes | None:
        return self._tun.read()

    def carry(
        self, packet: bytes, flow: FlowKey | None, action: str, *, first: bool = False
    ) -> None:
        """Send `packet` the way of `action`. See DataPlane.carry."""
        target = destination(packet) if flow is None else flow.remote
        if target is None:
            self._counters.lost += 1
            return
        mark = self._mark_of_action[action]
        if flow is not None and mark in self._passing_marks:
            sent = self._pass(packet, target, mark, flow, first=first)
        else:
            sent = self._parts.sender.send(packet, target, mark, flow)
        if sent is Sent.NO_ROUTE:
            # The program learns now what the kernel would have told it: there is no way out.
            self._parts.sender.send(packet, target, self._plan.marks.refuse, flow)
        self._count(sent, action)

    def _pass(self, packet: bytes, target: bytes, mark: int, flow: FlowKey, *, first: bool) -> Sent:
        """Send with a mark that lets the flow pass, in place of the entry that the first pass made.

        The table refuses the packet while such an entry is there: it is deleted and the packet sent
        again. A program's own retransmission may have made another one in between. A datagram's
        first pass makes one always. Fragments meet the table when the last of them makes their
        datagram whole, and only that one could be sent again: for them the entry has to go before.
        """
        if (first and flow.protocol == UDP) or is_fragment(packet):
            self._parts.conntrack.forget(flow)
        sent = self._parts.sender.send(packet, target, mark, flow)
        for _ in range(_ATTEMPTS):
            if sent is not Sent.REFUSED:
                break
            self._parts.conntrack.forget(flow)
            sent = self._parts.sender.send(packet, target, mark, flow)
        return sent

    def forget(self, flow: FlowKey) -> None:
        marks = self._plan.marks
        self._parts.conntrack.ask_again(flow, marks.gate, marks.mask)

    def changes_fileno(self) -> int:
        return self._parts.monitor.fileno()

    def drain_changes(self) -> None:
        self._parts.monitor.drain()

    def refresh(self) -> None:
        """Set again what the system lost: routes of outbounds, policy rules, the TUN's link."""
        with suppress(TunOwnerError):  # the link may be gone again already: that is the next change
            _route(self._plan, self._parts)

    def stop_intercepting(self) -> None:
        """From here on no new packet comes; those that wait in the device can still be read."""
        _remove_table(self._parts.nft)

    def statistics(self) -> dict[str, int]:
        """Packets `carried` by their action, `refused` by a firewall that is not ours,
        `unreachable` because an outbound was down, and `lost` to full queues.
        """
        return asdict(self._counters)

    def close(self) -> None:
        """Take everything out of the kernel again. Safe to call twice."""
        self._undo.close()

    def _count(self, sent: Sent, action: str) -> None:
        if sent is Sent.YES or (sent is Sent.REFUSED and action in _REFUSING):
            self._counters.carried += 1
        elif sent is Sent.REFUSED:
            self._counters.refused += 1
        elif sent is Sent.NO_ROUTE:
            self._counters.unreachable += 1
        else:
            self._counters.lost += 1


def open_gate(settings: GateSettings) -> Gate:
    """Create the TUN and put the plan into the kernel. Whatever fails, nothing stays behind.

    Raises BackendError or PrivilegeError; what can be known to be wrong is found before anything
    is changed.
    """
    with ExitStack() as undo:
        routing = undo.enter_context(closing(Routing()))
        plan = _checked_plan(settings, routing)
        parts = _open_parts(routing, undo)
        _remove_leftovers(plan, parts)
        undo.callback(routing.remove)
        _route(plan, parts)
        undo.callback(_remove_table, parts.nft)
        # Last, in one transaction: until here no packet carries a mark, from here all is in place.
        parts.nft.run(script.install(plan, owned=parts.nft.owns_tables))
        return Gate(plan, parts, undo.pop_all())


def _checked_plan(settings: GateSettings, routing: Routing) -> GatePlan:
    marks = Marks(settings.mark_shift)
    plan = make_plan(
        settings.outbounds,
        marks=marks,
        mtus=routing.interface_mtus(),
        families=routing.families(),
        strict=settings.strict,
    )
    routing.check_marks(marks)
    routing.check_exits(plan)
    return plan


def _open_parts(routing: Routing, undo: ExitStack) -> _Parts:
    tun = undo.enter_context(closing(open_tun(TUN_NAME)))  # first: it is the lock between instances
    return _Parts(
        tun,
        routing,
        nft=undo.enter_context(closing(open_nft())),
        conntrack=undo.enter_context(closing(Conntrack())),
        sender=undo.enter_context(closing(Sender())),
        monitor=undo.enter_context(closing(Monitor())),
        sysctls=undo.enter_context(closing(Sysctls())),
    )


def _remove_leftovers(plan: GatePlan, parts: _Parts) -> None:
    """What a killed run left: policy rules, an nft table without owner, marks on flows."""
    parts.routing.remove()
    _remove_table(parts.nft)
    for mark, mask in plan.marks.left_by_a_killed_run:
        parts.conntrack.flush(mark, mask)


def _route(plan: GatePlan, parts: _Parts) -> None:
    parts.routing.start_tun(parts.tun.index, MTU, QUEUE_LENGTH)
    parts.routing.apply(plan, parts.tun.index)
    for via in plan.vias:
        for interface in via.exits:
            parts.sysctls.trust_marked_replies(interface)


def _remove_table(nft: Nft) -> None:
    with suppress(BackendError):  # there is none
        nft.run(script.REMOVE)
