"""Every verdict does what it says, on both families, for TCP and UDP, at one TUN packet a flow."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.lab.topology import (
    BY_ETH,
    BY_VPN,
    CLIENT4,
    CLIENT6,
    SERVICE4,
    SERVICE6,
    VPN_CLIENT4,
    VPN_CLIENT6,
)

if TYPE_CHECKING:
    from tests.lab.world import World

pytestmark = pytest.mark.root

RULES = """
version: 1
outbounds:
  vpn:     { type: interface, name: vpn0 }
  uplink:  { type: table, table: 100 }
  marked:  { type: mark, mark: 0x51 }
rules:
  - { name: directs, match: { app: direct-app }, action: direct }
  - { name: blocks, match: { app: block-app }, action: block }
  - { name: drops, match: { app: drop-app }, action: drop }
  - { name: vpns, match: { app: vpn-app }, action: vpn }
  - { name: tables, match: { app: table-app }, action: uplink }
  - { name: marks, match: { app: mark-app }, action: marked }
"""

PROTOCOLS = ("tcp", "udp")
TARGETS = (SERVICE4, SERVICE6)
everywhere = pytest.mark.parametrize(("proto", "target"), list(product(PROTOCOLS, TARGETS)))


def eth_address(target: str) -> str:
    return CLIENT4 if target == SERVICE4 else CLIENT6


def vpn_address(target: str) -> str:
    return VPN_CLIENT4 if target == SERVICE4 else VPN_CLIENT6


@everywhere
def test_direct_is_as_without_us(world: World, proto: str, target: str) -> None:
    engine = world.engine(RULES)
    (flow,) = world.app("direct-app").probe(proto, target, messages=20)
    assert (flow.ok, flow.peer_seen) == (True, eth_address(target))
    opened = engine.wait_for_event("open", rule="directs", action="direct", src=flow.src)
    assert opened["owner"]["path"] == str(world.app("direct-app"))
    assert opened["owner"]["pid"] == flow.pid
    assert opened["owner"]["grade"] == "exact"
    assert world.client.tun_packets() == 1


@everywhere
def test_block_refuses_at_once(world: World, proto: str, target: str) -> None:
    engine = world.engine(RULES)
    (flow,) = world.app("block-app").probe(proto, target, timeout=5)
    assert (flow.ok, flow.error) == (False, "ECONNREFUSED")
    engine.wait_for_event("open", rule="blocks", action="block", src=flow.src)
    assert world.client.tun_packets() == 1
    world.arrivals.assert_none()


@everywhere
def test_drop_is_silence(world: World, proto: str, target: str) -> None:
    engine = world.engine(RULES)
    (flow,) = world.app("drop-app").probe(proto, target, timeout=2.5)  # two SYNs are sent again
    assert (flow.ok, flow.error) == (False, "ETIMEDOUT")
    engine.wait_for_event("open", rule="drops", action="drop", src=flow.src)
    assert world.client.tun_packets() == 1
    world.arrivals.assert_none()


@pytest.mark.parametrize("app", ["vpn-app", "table-app", "mark-app"])
@everywhere
def test_via_leaves_by_the_outbound(world: World, proto: str, target: str, app: str) -> None:
    world.client.sh(VIA_ROUTES)
    try:
        engine = world.engine(RULES)
        (flow,) = world.app(app).probe(proto, target, messages=20)
        assert (flow.ok, flow.peer_seen) == (True, vpn_address(target))
        assert flow.src.startswith(
            eth_address(target).join(("[", "]")) if ":" in target else CLIENT4
        )
        engine.wait_for_event("open", src=flow.src, dst=flow.dst)
        assert world.client.tun_packets() == 1
        world.arrivals.assert_none(link=BY_ETH)
        assert len(world.arrivals.flows(link=BY_VPN)) == 1
        assert engine.stop() == 0
    finally:
        world.client.sh(NO_VIA_ROUTES)


VIA_ROUTES = """
ip route add default via 198.51.100.1 dev vpn0 table 100
ip -6 route add default via 2001:db8:2::1 dev vpn0 table 100
ip rule add pref 500 fwmark 0x51 lookup 100
ip -6 rule add pref 500 fwmark 0x51 lookup 100
"""
NO_VIA_ROUTES = """
ip rule del pref 500
ip -6 rule del pref 500
ip route flush table 100
ip -6 route flush table 100
"""
