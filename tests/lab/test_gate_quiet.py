"""An engine with nothing to do does nothing: looking after its routes is no change of the network."""

from __future__ import annotations

import select
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.lab.wait import wait_until
from tunowner.app.loop import SETTLE_S
from tunowner.backends.linux.gate.monitor import Monitor

if TYPE_CHECKING:
    from tests.lab.world import World

pytestmark = pytest.mark.root

RULES = """
version: 1
outbounds: { vpn: { type: interface, name: vpn0 } }
rules: [ { name: by-vpn, match: { app: vpn-app }, action: vpn } ]
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
