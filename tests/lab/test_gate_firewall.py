"""The host's own firewall keeps state, and goes on doing so: nobody is let in or locked out by us."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.lab.topology import (
    BY_ETH,
    CLIENT4,
    CLIENT6,
    ETH,
    SERVICE4,
    SERVICE6,
    VPN_CLIENT4,
    VPN_CLIENT6,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.world import World

pytestmark = pytest.mark.root

FIREWALL = """
table inet firewall {
  chain out {
    type filter hook output priority filter; policy drop;
    oifname "lo" accept
    meta l4proto icmpv6 accept
    ct state { new, established, related } accept
  }
  chain in {
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    meta l4proto icmpv6 accept
    ct state { established, related } accept
  }
}
"""
BY_USER = """
table inet firewall {
  chain out {
    type filter hook output priority filter; policy drop;
    oifname "lo" accept
    meta l4proto icmpv6 accept
    ct state { established, related } accept
    meta mark & 0xff000000 > 0x01000000 accept
    meta skuid 65534 accept
  }
  chain post {
    type filter hook postrouting priority filter; policy drop;
    oifname { "lo", "eth0", "tunowner0" } accept
  }
}
"""
OBSERVE = "version: 1\nrules: []\n"
RULES = """
version: 1
outbounds: { vpn: { type: interface, name: vpn0 } }
rules:
  - { name: blocks, match: { app: block-app }, action: block }
  - { name: vpns, match: { app: vpn-app }, action: vpn }
"""
everywhere = pytest.mark.parametrize(
    ("proto", "target"), list(product(("tcp", "udp"), (SERVICE4, SERVICE6)))
)


@pytest.fixture
def walled(world: World) -> Iterator[World]:
    """Lend a world whose client lets out what is new or known, and lets in answers only."""
    world.client.run(["nft", "-f", "-"], stdin=FIREWALL)
    yield world
    world.client.sh("nft delete table inet firewall")


@everywhere
@pytest.mark.parametrize("rules", [OBSERVE, RULES])
def test_a_direct_flow(walled: World, proto: str, target: str, rules: str) -> None:
    engine = walled.engine(rules)
    (flow,) = walled.app("direct-app").probe(proto, target, messages=3)
    assert (flow.ok, flow.peer_seen) == (True, CLIENT4 if target == SERVICE4 else CLIENT6)
    assert walled.client.tun_packets() == 1
    assert engine.stop() == 0


@everywhere
def test_a_flow_by_an_outbound(walled: World, proto: str, target: str) -> None:
    engine = walled.engine(RULES)
    (flow,) = walled.app("vpn-app").probe(proto, target, messages=3)
    assert (flow.ok, flow.peer_seen) == (True, VPN_CLIENT4 if target == SERVICE4 else VPN_CLIENT6)
    walled.arrivals.assert_none(link=BY_ETH)
    assert walled.client.tun_packets() == 1
    assert engine.stop() == 0


@everywhere
def test_a_blocked_flow(walled: World, proto: str, target: str) -> None:
    engine = walled.engine(RULES)
    (flow,) = walled.app("block-app").probe(proto, target)
    assert flow.error == "ECONNREFUSED"
    walled.arrivals.assert_none()
    assert engine.stop() == 0


@everywhere
def test_a_socket_bound_to_a_device_is_answered_while_we_observe(
    walled: World, proto: str, target: str
) -> None:
    engine = walled.engine(OBSERVE)
    (flow,) = walled.app("direct-app").probe(proto, target, messages=3, device=ETH)
    assert flow.ok, flow.error
    assert engine.stop() == 0


@pytest.mark.parametrize("target", [SERVICE4, SERVICE6])
def test_a_first_pass_fills_no_table(walled: World, target: str) -> None:
    """Its entry is gone after a second, where conntrack by itself would keep it for 120."""
    engine = walled.engine(RULES)
    (flow,) = walled.app("direct-app").probe("tcp", target)
    assert flow.ok
    for line in walled.client.conntrack("SYN_SENT", "[UNREPLIED]"):
        assert int(line.split()[4]) <= 1, line
    assert engine.stop() == 0


@pytest.fixture
def walled_by_user(world: World) -> Iterator[World]:
    """Lend a world where one user may open flows, by rules as the README gives them."""
    world.client.run(["nft", "-f", "-"], stdin=BY_USER)
    yield world
    world.client.sh("nft delete table inet firewall")


@everywhere
def test_a_firewall_by_user_and_interface(walled_by_user: World, proto: str, target: str) -> None:
    world = walled_by_user
    engine = world.engine(OBSERVE)
    (flow,) = world.app("direct-app").probe(proto, target, messages=3, user=65534)
    assert flow.ok, flow.error
    (flow,) = world.app("direct-app").probe(proto, target, timeout=1, user=1000)
    assert not flow.ok
    assert engine.stop() == 0
