"""What the gate puts into the kernel, as values. Pure: set-up and tear-down both read it here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING

from tunowner.core.model import (
    BLOCK,
    DIRECT,
    DROP,
    InterfaceOutbound,
    MarkOutbound,
    Outbound,
    TableOutbound,
)
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

TUN_NAME = "tunowner0"
NFT_TABLE = "tunowner"
PROTOCOL = 171
"""Our name on every route and policy rule (rtm_protocol, FRA_PROTOCOL): what a killed run left
behind is found by it, and nobody else's is touched. Unused in iproute2's rt_protos."""

TUN_TABLE = 7171
TUN_ZONE = 7171
"""The conntrack zone of first passes."""
TUN_GATEWAYS: dict[int, str] = {AF_INET: "192.0.0.8", AF_INET6: "fe80::8"}
"""Nobody has them, and the TUN asks for nobody: by them nftables tells that a packet is routed into
the TUN. 192.0.0.8 is the dummy address of RFC 7600."""
OUTBOUND_TABLE = 7180
"""The routing table of the first outbound of type interface; the next ones count up."""
GATE_PRIORITY = 7100
VIA_PRIORITY = 7101
UNREACHABLE_PRIORITY = 7102
"""After VIA_PRIORITY: an outbound whose table has no route is unreachable, never elsewhere."""
MAX_OUTBOUNDS = 127

_INTERFACE_NAME = re.compile(r"[\w.:@-]{1,15}")


@dataclass(frozen=True, slots=True)
class Marks:
    """The one byte of the fwmark that is ours, `shift` bits from the right. Others' bits survive.

    The high byte is the default because the low ones are taken: Kubernetes uses 0x4000 and 0x8000,
    Tailscale 0xff0000, wg-quick 0xca6c.
    """

    shift: int = 24

    @property
    def mask(self) -> int:
        return 0xFF << self.shift

    @property
    def others(self) -> int:
        return 0xFFFFFFFF ^ self.mask

    @property
    def gate(self) -> int:
        return 0x01 << self.shift

    @property
    def direct(self) -> int:
        return 0x02 << self.shift

    @property
    def block(self) -> int:
        """Refuse, and keep refusing the later datagrams of the flow."""
        return 0x03 << self.shift

    @property
    def drop(self) -> int:
        return 0x05 << self.shift

    @property
    def refuse(self) -> int:
        """Refuse this packet only: an outbound that is down may be up for the next."""
        return 0x06 << self.shift

    @property
    def via_bit(self) -> int:
        """Set in the mark of every outbound, and of nothing else."""
        return 0x80 << self.shift

    def via(self, number: int) -> int:
        return (0x80 | number) << self.shift

    @property
    def left_by_a_killed_run(self) -> tuple[tuple[int, int], ...]:
        """(mark, mask) of conntrack entries that would steer flows by rules long gone."""
        exact = (self.gate, self.block, self.drop)
        return ((self.via_bit, self.via_bit), *((mark, self.mask) for mark in exact))


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """`ip rule`: packets with this mark look into `table`, or are unreachable where it is None."""

    family: int
    priority: int
    mark: int
    mask: int
    table: int | None


@dataclass(frozen=True, slots=True)
class Via:
    """An outbound and the numbers it has in the kernel. `mtu` is its interface's, 0 if unknown."""

    outbound: Outbound
    mark: int
    table: int | None
    mtu: int = 0

    @property
    def exits(self) -> tuple[str, ...]:
        """Interfaces this outbound may leave by; empty where its table or rules decide that."""
        return (self.outbound.interface,) if isinstance(self.outbound, InterfaceOutbound) else ()

    @property
    def carried_mark(self) -> int:
        """The mark that its packets carry when they are routed."""
        return self.outbound.mark if isinstance(self.outbound, MarkOutbound) else self.mark


@dataclass(frozen=True, slots=True)
class GatePlan:
    """Everything that the gate adds to the system, apart from routes, which depend on its state.

    `strict`: packets on their way to the TUN that would leave elsewhere are dropped. They are those
    of sockets bound to a device (SO_BINDTODEVICE), which no policy rule can turn. An observer that
    could never refuse anything leaves them alone.
    """

    marks: Marks
    vias: tuple[Via, ...]
    families: tuple[int, ...] = (AF_INET, AF_INET6)
    strict: bool = True

    @property
    def mark_of_action(self) -> dict[str, int]:
        """The verdict mark of every action that a rule can name."""
        marks = self.marks
        built_in = {DIRECT: marks.direct, BLOCK: marks.block, DROP: marks.drop}
        return built_in | {via.outbound.name: via.mark for via in self.vias}

    @property
    def policy_rules(self) -> tuple[PolicyRule, ...]:
        mask, gate = self.marks.mask, self.marks.gate
        rules = []
        for family in self.families:
            rules.append(PolicyRule(family, GATE_PRIORITY, gate, mask, TUN_TABLE))
            for via in self.vias:
                if via.table is not None:
                    rules.append(PolicyRule(family, VIA_PRIORITY, via.mark, mask, via.table))
                    rules.append(PolicyRule(family, UNREACHABLE_PRIORITY, via.mark, mask, None))
        return tuple(rules)


def make_plan(
    outbounds: Sequence[Outbound],
    *,
    marks: Marks,
    mtus: dict[str, int],
    families: tuple[int, ...],
    strict: bool,
) -> GatePlan:
    """Give every outbound its mark and table. `mtus` maps the interfaces that exist to bytes.

    Raises BackendError when an interface is absent, a mark is ours, or there are too many.
    """
    if len(outbounds) > MAX_OUTBOUNDS:
        raise BackendError(f"{len(outbounds)} outbounds, and the mark byte holds {MAX_OUTBOUNDS}")
    for outbound in outbounds:
        _check(outbound, marks, mtus)
    vias = tuple(_via(number, outbound, marks, mtus) for number, outbound in enumerate(outbounds))
    return GatePlan(marks, vias, families, strict)


def _via(number: int, outbound: Outbound, marks: Marks, mtus: dict[str, int]) -> Via:
    match outbound:
        case InterfaceOutbound():
            mtu = mtus[outbound.interface]
            return Via(outbound, marks.via(number), OUTBOUND_TABLE + number, mtu)
        case TableOutbound():
            return Via(outbound, marks.via(number), outbound.table)
        case MarkOutbound():
            return Via(outbound, marks.via(number), None)


def _check(outbound: Outbound, marks: Marks, mtus: dict[str, int]) -> None:
    where = f"outbound {outbound.name!r}"
    if isinstance(outbound, MarkOutbound) and outbound.mark & marks.mask:
        raise BackendError(
            f"mark {outbound.mark:#x} uses bits of tunowner's own byte {marks.mask:#010x}",
            where=where,
            hint="Move tunowner's byte with --mark-byte",
        )
    if not isinstance(outbound, InterfaceOutbound):
        return
    if not _INTERFACE_NAME.fullmatch(outbound.interface) or outbound.interface not in mtus:
        known = ", ".join(sorted(mtus)) or "none"
        raise BackendError(
            f"there is no interface {outbound.interface!r}",
            where=where,
            hint=f"Start the VPN first, or name one of: {known}",
        )
