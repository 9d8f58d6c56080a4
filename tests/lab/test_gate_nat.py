"""Other people's NAT rules work as without us: kube-proxy, transparent proxies, masquerading."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.lab.topology import (
    BY_ETH,
    CLIENT4,
    CLIENT6,
    ETH,
    GATEWAY4,
    GATEWAY6,
    SERVICE4,
    SERVICE6,
    VPN_CLIENT4,
    VPN_CLIENT6,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.world import World

pytestmark = pytest.mark.root

VIRTUAL4, VIRTUAL6 = "10.96.0.1", "fd00:96::1"
FOREIGN_NAT = f"""
table inet foreign {{
  chain out {{
    type nat hook output priority -100; policy accept;
    ip daddr {VIRTUAL4} dnat ip to {SERVICE4}
    ip6 daddr {VIRTUAL6} dnat ip6 to {SERVICE6}
  }}
  chain post {{
    type nat hook postrouting priority srcnat; policy accept;
    masquerade
  }}
}}
"""
RULES = """
version: 1
outbounds: { vpn: { type: interface, name: vpn0 } }
rules:
  - { name: blocks, match: { app: block-app }, action: block }
  - { name: vpns, match: { app: vpn-app }, action: vpn }
"""
everywhere = pytest.mark.parametrize(
    ("proto", "target"), list(product(("tcp", "udp"), (VIRTUAL4, VIRTUAL6)))
)


@pytest.fixture
def nat_world(world: World) -> Iterator[World]:
    """Lend a world in which a virtual address leads to the service, and all is masqueraded."""
    world.client.run(["nft", "-f", "-"], stdin=FOREIGN_NAT)
    world.client.sh(
        f"ip route add {VIRTUAL4} via {GATEWAY4}; ip route add {VIRTUAL6} via {GATEWAY6}"
    )
    yield world
    world.client.sh(f"ip route del {VIRTUAL4}; ip route del {VIRTUAL6}")
    world.client.sh("nft delete table inet foreign")


@everywhere
def test_a_direct_flow_is_redirected_as_without_us(
    nat_world: World, proto: str, target: str
) -> None:
    engine = nat_world.engine(RULES)
    app = nat_world.app("direct-app")
    (flow,) = app.probe(proto, target, messages=5)
    assert (flow.ok, flow.peer_seen) == (True, CLIENT4 if target == VIRTUAL4 else CLIENT6)
    opened = engine.wait_for_event("open", src=flow.src, dst=flow.dst)  # what the program asked for
    assert (opened["owner"]["grade"], opened["owner"]["path"]) == ("exact", str(app))
    assert nat_world.client.tun_packets() == 1
    assert engine.stop() == 0


@everywhere
def test_a_blocked_flow_reaches_no_target(nat_world: World, proto: str, target: str) -> None:
    engine = nat_world.engine(RULES)
    (flow,) = nat_world.app("block-app").probe(proto, target)
    assert flow.error == "ECONNREFUSED"
    nat_world.arrivals.assert_none()
    assert engine.stop() == 0


@everywhere
def test_an_outbound_is_taken_before_the_redirection(
    nat_world: World, proto: str, target: str
) -> None:
    engine = nat_world.engine(RULES)
    (flow,) = nat_world.app("vpn-app").probe(proto, target, messages=5)
    assert (flow.ok, flow.peer_seen) == (True, VPN_CLIENT4 if target == VIRTUAL4 else VPN_CLIENT6)
    nat_world.arrivals.assert_none(link=BY_ETH)
    assert engine.stop() == 0


@everywhere
def test_a_socket_bound_to_a_device_is_redirected_while_we_observe(
    nat_world: World, proto: str, target: str
) -> None:
    engine = nat_world.engine("version: 1\nrules: []\n")
    (flow,) = nat_world.app("direct-app").probe(proto, target, messages=3, device=ETH)
    assert flow.ok, flow.error
    assert engine.stop() == 0
