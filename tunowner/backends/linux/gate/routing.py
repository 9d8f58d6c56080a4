"""Policy rules, routes and the TUN's link through pyroute2. Set-up, on changes, and tear-down only.

Everything added carries `PROTOCOL`, so that `remove_leftovers` finds what a killed run left and
nothing else. All of it may be repeated: adding what is there and removing what is gone are fine.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tunowner.backends.linux.gate.plan import PROTOCOL, TUN_GATEWAYS, TUN_TABLE, PolicyRule
from tunowner.errors import BackendError, PrivilegeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunowner.backends.linux.gate.plan import GatePlan, Marks, Via

_IPV6 = Path("/proc/sys/net/ipv6/conf")
_LOOKUP, _UNREACHABLE = 1, 7  # FR_ACT_TO_TBL, FR_ACT_UNREACHABLE in <linux/fib_rules.h>
_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80  # netdevice(7)
_ONLINK = 4  # RTNH_F_ONLINK in <linux/rtnetlink.h>: no address of the link's need be near it
_IFLA_INET6_ADDR_GEN_MODE_NONE = 1
_ENTRY_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EAFNOSUPPORT)


class Exit(NamedTuple):
    """How to leave by an interface: the interface's index, and the router's address where it needs one."""

    interface: int
    gateway: str | None


class Routing:
    """A routing netlink socket. Use it from the thread that made it."""

    def __init__(self) -> None:
        self._ip: Any = IPRoute()

    def close(self) -> None:
        self._ip.close()

    def interface_mtus(self) -> dict[str, int]:
        """Return bytes for each interface of this network namespace but loopback."""
        links = self._ip.get_links()
        return {
            link.get("IFLA_IFNAME"): link.get("IFLA_MTU")
            for link in links
            if not link["flags"] & _IFF_LOOPBACK
        }

    def families(self) -> tuple[int, ...]:
        """IPv4, and IPv6 where the kernel has it and it is not switched off."""
        try:
            has_v6 = (_IPV6 / "all" / "disable_ipv6").read_text().strip() == "0"
        except OSError:
            has_v6 = False
        return (AF_INET, AF_INET6) if has_v6 else (AF_INET,)

    def check_marks(self, marks: Marks) -> None:
        """Raise BackendError when somebody else's policy rule selects by bits of our byte."""
        for family in self.families():
            for rule in self._ip.get_rules(family=family):
                mark = rule.get("FRA_FWMARK") or 0
                if mark & marks.mask and rule.get("FRA_PROTOCOL") != PROTOCOL:
                    priority = rule.get("FRA_PRIORITY") or 0
                    raise BackendError(
                        f"byte {marks.mask:#010x} of the fwmark is in use by `ip rule` {priority} "
                        f"(fwmark {mark:#x})",
                        where="marks",
                        hint="Choose another byte with --mark-byte",
                    )

    def check_exits(self, plan: GatePlan) -> None:
        """Raise BackendError when an outbound's interface could carry nothing."""
        for via in plan.vias:
            for interface in via.exits:
                if not any(self.exit_by(interface, family) for family in plan.families):
                    raise BackendError(
                        f"interface {interface!r} has no address, or no router behind it",
                        where=f"outbound {via.outbound.name!r}",
                        hint="Give it an address and, unless it is a tunnel, a default route "
                        "(a high metric will do)",
                    )

    def start_tun(self, index: int, mtu: int, queue_length: int) -> None:
        """Bring the TUN up, silent: without addresses it neither asks for routers nor reports.

        Where all is as it should be nothing is set, since that would be a change to be told of.
        """
        (link,) = self._ip.get_links(index)
        is_set = (link.get("IFLA_MTU"), link.get("IFLA_TXQLEN")) == (mtu, queue_length)
        if is_set and link["flags"] & _IFF_UP:
            return
        silent = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _IFLA_INET6_ADDR_GEN_MODE_NONE)]}
        spec = {"attrs": [("AF_INET6", silent)]}
        with _explained("TUN"):
            self._ip.link("set", index=index, mtu=mtu, txqlen=queue_length)
        with _ignoring(errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            self._ip.link("set", index=index, IFLA_AF_SPEC=spec)
        with suppress(OSError):  # its default may be off; read-only in some containers
            (_IPV6 / link.get("IFLA_IFNAME") / "disable_ipv6").write_text("0")
        with _explained("TUN"):
            self._ip.link("set", index=index, state="up")

    def apply(self, plan: GatePlan, tun_index: int) -> None:
        """Add what is missing of the plan's policy rules and routes."""
        present = set(self._own_rules())
        for rule in plan.policy_rules:
            if rule not in present:
                self._add_rule(rule)
        for family in plan.families:
            self._route(family, TUN_TABLE, Exit(tun_index, TUN_GATEWAYS[family]), _ONLINK)
            for via in plan.vias:
                self._route_via(family, via)

    def remove(self) -> None:
        """Remove every policy rule that is ours, and our routes from the tables they name."""
        for rule in self._own_rules():
            if rule.table is not None:
                self._flush(rule.family, rule.table)
            self._remove_rule(rule)

    def exit_by(self, interface: str, family: int) -> Exit | None:
        """Return how to leave by `interface`, or None where it cannot carry this family now.

        A link without ARP (WireGuard, TUN, PPP) needs no router, only an address of the family. On
        others the router is that of the default route which somebody has set through it.
        """
        link = self._addressed_link(interface, family)
        if link is None:
            return None
        if link["flags"] & _IFF_NOARP:
            return Exit(link["index"], None)
        for route in self._ip.get_routes(family=family, dst_len=0):
            own = route["proto"] == PROTOCOL
            if route.get("RTA_OIF") == link["index"] and route.get("RTA_GATEWAY") and not own:
                return Exit(link["index"], route.get("RTA_GATEWAY"))
        return None

    def _addressed_link(self, interface: str, family: int) -> Any:
        links = [link for link in self._ip.get_links() if link.get("IFLA_IFNAME") == interface]
        return links[0] if links and self._has_address(links[0]["index"], family) else None

    def _has_address(self, index: int, family: int) -> bool:
        addresses = self._ip.get_addr(family=family, index=index)
        return any(address["scope"] == 0 for address in addresses)  # RT_SCOPE_UNIVERSE

    def _route_via(self, family: int, via: Via) -> None:
        for interface in via.exits:
            way = self.exit_by(interface, family)
            if via.table is None:
                continue
            if way is not None:
                self._route(family, via.table, way)
            elif self._addressed_link(interface, family) is None:
                # The kernel keeps IPv6 routes without an address, and masquerades by another link's.
                self._flush(family, via.table)

    def _route(self, family: int, table: int, way: Exit, flags: int = 0) -> None:
        route: dict[str, Any] = {"family": family, "dst": "default", "table": table}
        route |= {"oif": way.interface, "flags": flags}
        if way.gateway:
            route["gateway"] = way.gateway
        down = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENODEV)
        with _explained("routes"), _ignoring(*down):
            self._ip.route("replace", proto=PROTOCOL, **route)

    def _flush(self, family: int, table: int) -> None:
        for route in self._ip.get_routes(family=family, table=table):
            if route["proto"] == PROTOCOL and route.get("RTA_TABLE") == table:
                with _ignoring(*_ENTRY_GONE):
                    self._ip.route(
                        "del", family=family, dst="default", oif=route.get("RTA_OIF"), table=table
                    )

    def _own_rules(self) -> Iterator[PolicyRule]:
        for family in (AF_INET, AF_INET6):
            with _ignoring(*_ENTRY_GONE, errno.EOPNOTSUPP):
                for rule in self._ip.get_rules(family=family):
                    if rule.get("FRA_PROTOCOL") == PROTOCOL:
                        yield _policy_rule(family, rule)

    def _add_rule(self, rule: PolicyRule) -> None:
        with _explained("policy rules"), _ignoring(errno.EEXIST):
            self._ip.rule("add", **_rule_request(rule))

    def _remove_rule(self, rule: PolicyRule) -> None:
        with _ignoring(*_ENTRY_GONE):
            self._ip.rule("del", **_rule_request(rule))


def _policy_rule(family: int, rule: Any) -> PolicyRule:
    table = rule.get("FRA_TABLE") if rule["action"] == _LOOKUP else None
    mark, mask = rule.get("FRA_FWMARK") or 0, rule.get("FRA_FWMASK") or 0
    return PolicyRule(family, rule.get("FRA_PRIORITY") or 0, mark, mask, table)


def _rule_request(rule: PolicyRule) -> dict[str, Any]:
    request: dict[str, Any] = {
        "family": rule.family,
        "priority": rule.priority,
        "fwmark": rule.mark,
        "fwmask": rule.mask,
        "FRA_PROTOCOL": PROTOCOL,
    }
    if rule.table is None:
        return request | {"action": _UNREACHABLE}
    return request | {"table": rule.table}


@contextmanager
def _ignoring(*codes: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code == errno.EPERM:
            hint = "CAP_NET_ADMIN is missing: run with sudo"
            raise PrivilegeError("the kernel refused", where=where, hint=hint) from error
        if error.code == errno.EACCES:  # addrconf: routes by a device without IPv6
            hint = (
                "sysctl net.ipv6.conf.default.disable_ipv6=0, or all.disable_ipv6=1 to do without"
            )
            raise BackendError("IPv6 is off for new devices", where=where, hint=hint) from error
        raise BackendError(f"refused ({os.strerror(error.code)})", where=where) from error
