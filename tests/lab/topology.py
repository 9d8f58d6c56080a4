"""The addresses of the lab and the `ip` commands that make it.

client eth0 -------------------------- by-eth internet  lo: the servers' addresses
client vpn0 -- from-client vpn uplink -- by-vpn internet
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.lab.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.lab.namespace import Namespace

ETH = "eth0"
VPN = "vpn0"
BY_ETH = "by-eth"
"""The link of `internet` on which packets of the client's eth0 arrive."""
BY_VPN = "by-vpn"
"""The link of `internet` on which packets that left by vpn0 arrive."""

CLIENT4, CLIENT6 = "192.0.2.2", "2001:db8:1::2"
GATEWAY4, GATEWAY6 = "192.0.2.1", "2001:db8:1::1"
VPN_CLIENT4, VPN_CLIENT6 = "198.51.100.2", "2001:db8:2::2"
VPN_GATEWAY4, VPN_GATEWAY6 = "198.51.100.1", "2001:db8:2::1"
SERVICE4, SERVICE6 = "203.0.113.5", "2001:db8:5::5"
OTHER4, OTHER6 = "203.0.113.6", "2001:db8:5::6"
"""A second pair of addresses with the same servers, for rules about destinations."""

_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv6.conf.all.disable_ipv6": 0,
    "net.ipv6.conf.default.disable_ipv6": 0,
    "net.ipv6.conf.all.accept_dad": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.accept_ra": 0,
}
_FORWARDING = {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
_MANY_FLOWS = {"net.core.somaxconn": 65535, "net.ipv4.tcp_max_syn_backlog": 65535}
_ALL_PORTS = {"net.ipv4.ip_local_port_range": "10240 65535"}

_CLIENT = f"""
link set lo up
address add {CLIENT4}/24 dev {ETH}
address add {CLIENT6}/64 dev {ETH} nodad
address add {VPN_CLIENT4}/24 dev {VPN}
address add {VPN_CLIENT6}/64 dev {VPN} nodad
link set {ETH} up
link set {VPN} up
route add default via {GATEWAY4} dev {ETH}
route add default via {VPN_GATEWAY4} dev {VPN} metric 5000
route add default via {GATEWAY6} dev {ETH}
route add default via {VPN_GATEWAY6} dev {VPN} metric 5000
"""
_INTERNET = f"""
link set lo up
address add {SERVICE4}/32 dev lo
address add {OTHER4}/32 dev lo
address add {SERVICE6}/128 dev lo nodad
address add {OTHER6}/128 dev lo nodad
address add {GATEWAY4}/24 dev {BY_ETH}
address add {GATEWAY6}/64 dev {BY_ETH} nodad
address add 10.255.0.1/30 dev {BY_VPN}
address add fd00:255::1/64 dev {BY_VPN} nodad
link set {BY_ETH} up
link set {BY_VPN} up
route add 198.51.100.0/24 via 10.255.0.2
route add 2001:db8:2::/64 via fd00:255::2
"""
_VPN = f"""
link set lo up
address add {VPN_GATEWAY4}/24 dev from-client
address add {VPN_GATEWAY6}/64 dev from-client nodad
address add 10.255.0.2/30 dev uplink
address add fd00:255::2/64 dev uplink nodad
link set from-client up
link set uplink up
route add 203.0.113.0/24 via 10.255.0.1
route add 2001:db8:5::/64 via fd00:255::1
"""


def _batch(lines: str, *, namespace: str | None = None) -> None:
    where = [] if namespace is None else ["-netns", namespace]
    command = ["ip", *where, "-batch", "-"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}\n{lines}")


def _set_all(namespace: Namespace, *groups: dict[str, int] | dict[str, str]) -> None:
    for group in groups:
        for key, value in group.items():
            namespace.sysctl(key, value)


def build(client: Namespace, internet: Namespace, vpn: Namespace) -> None:
    """Create the namespaces, join them, and return when both families are usable."""
    _batch("".join(f"netns add {end.name}\n" for end in (client, internet, vpn)))
    _set_all(client, _SYSCTLS, _ALL_PORTS)
    _set_all(internet, _SYSCTLS, _MANY_FLOWS)
    _set_all(vpn, _SYSCTLS, _FORWARDING)
    _batch(
        _veth(client, ETH, internet, BY_ETH, 10)
        + _veth(client, VPN, vpn, "from-client", 20)
        + _veth(vpn, "uplink", internet, BY_VPN, 30)
    )
    for end, lines in ((client, _CLIENT), (internet, _INTERNET), (vpn, _VPN)):
        _batch(lines, namespace=end.name)
    for end in (client, internet, vpn):
        wait_until(lambda end=end: _usable(end), f"addresses and carrier of {end.name}")  # type: ignore[misc]


def _veth(left: Namespace, name: str, right: Namespace, peer: str, index: int) -> str:
    """Join two namespaces. With equal indexes the kernel would take a second to see the carrier."""
    return (
        f"link add {name} index {index} netns {left.name}"
        f" type veth peer name {peer} index {index + 1} netns {right.name}\n"
    )


def _usable(namespace: Namespace) -> bool:
    links = namespace.json("ip", "-j", "addr")
    waiting = [
        link["ifname"]
        for link in links
        if link.get("operstate") == "DOWN"
        or any(address.get("tentative") for address in link["addr_info"])
    ]
    return not waiting


def destroy(namespaces: Iterable[Namespace]) -> None:
    """Delete the namespaces; their links go with them."""
    present = set(existing())
    names = [namespace.name for namespace in namespaces if namespace.name in present]
    _batch("".join(f"netns delete {name}\n" for name in names))


def existing() -> list[str]:
    """Return the names of all network namespaces of this machine."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in listed.stdout.splitlines() if line]
