"""The engine looks after its routes when the network changes, and does nothing when it does not."""

from __future__ import annotations

import select
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.lab.topology import (
    CLIENT6,
    ETH,
    GATEWAY6,
    SERVICE4,
    SERVICE6,
    VPN,
    VPN_CLIENT4,
    VPN_CLIENT6,
    VPN_GATEWAY6,
)
from tests.lab.wait import wait_until
from tunowner.app.loop import SETTLE_S
from tunowner.backends.linux.gate.monitor import Monitor
from tunowner.backends.linux.gate.plan import OUTBOUND_TABLE, TUN_TABLE

if TYPE_CHECKING:
    from tests.lab.world import World

pytestmark = pytest.mark.root

RULES = """
version: 1
outbounds: { vpn: { type: interface, name: vpn0 } }
rules: [ { name: by-vpn, match: { app: vpn-app }, action: vpn } ]
"""
IPV6_AGAIN = f"""
ip address add {CLIENT6}/64 dev {ETH} nodad
ip address add {VPN_CLIENT6}/64 dev {VPN} nodad
ip -6 route add default via {GATEWAY6} dev {ETH}
ip -6 route add default via {VPN_GATEWAY6} dev {VPN} metric 5000
"""


def test_a_change_is_followed_by_silence(own_world: World) -> None:
    client = own_world.client
    own_world.engine(RULES).wait_for_event("ready")
    with closing(client.call(Monitor)) as monitor:
        client.sh("ip link add other0 type veth peer other1")
        assert select.select([monitor], [], [], 5.0)[0], "a change is told of"
        time.sleep(6 * SETTLE_S)  # the link comes up, the engine looks around
        monitor.drain()
        assert not select.select([monitor], [], [], 4 * SETTLE_S)[0], "it changes things again"


def test_a_device_changed_by_others_is_set_right(own_world: World) -> None:
    client = own_world.client
    own_world.engine(RULES).wait_for_event("ready")
    before = client.sh("ip -o link show tunowner0")
    client.sh("ip link set tunowner0 mtu 1400 txqueuelen 10")
    wait_until(lambda: client.sh("ip -o link show tunowner0") == before, "the device as it was")


def test_ipv6_is_switched_off_and_on(own_world: World) -> None:
    """As VPN programs do. That takes the TUN's IPv6 away too, and the routes by it."""
    client, app = own_world.client, own_world.app("vpn-app")
    engine = own_world.engine(RULES)
    client.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    time.sleep(2 * SETTLE_S)
    (flow,) = app.probe("tcp", SERVICE4)
    assert flow.peer_seen == VPN_CLIENT4
    client.sysctl("net.ipv6.conf.all.disable_ipv6", 0)
    client.sh(IPV6_AGAIN)
    for table in (TUN_TABLE, OUTBOUND_TABLE):
        shown = f"ip -6 route show table {table}"
        wait_until(lambda shown=shown: client.sh(shown), f"routes in {table}")  # type: ignore[misc]
    (flow,) = app.probe("tcp", SERVICE6)
    assert flow.peer_seen == VPN_CLIENT6
    assert engine.stop() == 0
    assert engine.stderr == ""
