"""What arrived at the internet, by link: the proof that nothing has leaked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.namespace import Namespace

_TABLE = """
table inet arrivals {
  set packets4 { type ifname . ipv4_addr . inet_proto . inet_service; size 65535; flags dynamic; counter; }
  set packets6 { type ifname . ipv6_addr . inet_proto . inet_service; size 65535; flags dynamic; counter; }
  set flows4 { type ifname . ipv4_addr . inet_proto . inet_service . inet_service; size 262144; flags dynamic; counter; }
  set flows6 { type ifname . ipv6_addr . inet_proto . inet_service . inet_service; size 262144; flags dynamic; counter; }
  chain arriving {
    type filter hook prerouting priority raw; policy accept;
    iifname { "by-eth", "by-vpn" } meta l4proto { tcp, udp } jump count
  }
  chain count {
    meta nfproto ipv4 add @packets4 { iifname . ip saddr . meta l4proto . th dport }
    meta nfproto ipv6 add @packets6 { iifname . ip6 saddr . meta l4proto . th dport }
    meta l4proto tcp tcp flags & (syn | ack) != syn return
    meta nfproto ipv4 add @flows4 { iifname . ip saddr . meta l4proto . th dport . th sport }
    meta nfproto ipv6 add @flows6 { iifname . ip6 saddr . meta l4proto . th dport . th sport }
  }
}
"""


class Arrival(NamedTuple):
    """Packets of one kind. For a flow, those that can open one: TCP SYNs, UDP datagrams."""

    link: str
    source: str
    proto: str
    port: int
    source_port: int | None
    packets: int


@dataclass
class Arrivals:
    """Counters in the namespace `internet`; conditions are names of the fields of Arrival."""

    internet: Namespace

    def install(self) -> None:
        self.internet.run(["nft", "-f", "-"], stdin=_TABLE)

    def remove(self) -> None:
        """Stop counting, for measurements."""
        self.internet.run(["nft", "delete", "table", "inet", "arrivals"])

    def reset(self) -> None:
        names = ("packets4", "packets6", "flows4", "flows6")
        flush = "".join(f"flush set inet arrivals {name}\n" for name in names)
        self.internet.run(["nft", "-f", "-"], stdin=flush)

    def flows(self, **conditions: object) -> list[Arrival]:
        """Return the flows that arrived: `flows(link=BY_ETH, proto="tcp", port=7000)`."""
        return self._matching("flows", conditions)

    def packets(self, **conditions: object) -> int:
        """Return how many packets arrived, those in the midst of flows included."""
        return sum(arrival.packets for arrival in self._matching("packets", conditions))

    def assert_none(self, **conditions: object) -> None:
        """Fail when any packet that meets the conditions has arrived."""
        leaked = self._matching("packets", conditions)
        assert not leaked, f"arrived, though it must not: {leaked}"

    def _matching(self, kind: str, conditions: dict[str, object]) -> list[Arrival]:
        unknown = conditions.keys() - set(Arrival._fields)
        assert not unknown, f"no such condition: {unknown}"
        every = (arrival for family in "46" for arrival in self._listed(f"{kind}{family}"))
        return [item for item in every if conditions.items() <= item._asdict().items()]

    def _listed(self, name: str) -> Iterator[Arrival]:
        listing = self.internet.json("nft", "-j", "list", "set", "inet", "arrivals", name)
        for entry in listing["nftables"]:
            for element in entry.get("set", {}).get("elem", ()):
                yield _arrival(element["elem"])


def _arrival(element: dict[str, Any]) -> Arrival:
    link, source, proto, port, *rest = element["val"]["concat"]
    source_port = int(rest[0]) if rest else None
    return Arrival(link, source, proto, int(port), source_port, element["counter"]["packets"])
