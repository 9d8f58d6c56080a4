"""Whatever happens to its outbound, a flow never leaves another way; and it works again after."""

from __future__ import annotations

import time
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.lab.ticker import start_ticker
from tests.lab.topology import (
    BY_ETH,
    CLIENT4,
    CLIENT6,
    ETH,
    GATEWAY4,
    GATEWAY6,
    SERVICE4,
    SERVICE6,
    VPN,
    VPN_CLIENT4,
    VPN_CLIENT6,
    VPN_GATEWAY4,
    VPN_GATEWAY6,
)
from tests.lab.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.apps import FlowReport
    from tests.lab.namespace import Namespace
    from tests.lab.world import World

pytestmark = pytest.mark.root

RULES = """
version: 1
outbounds: { vpn: { type: interface, name: vpn0 } }
rules:
  - { name: by-vpn, match: { app: vpn-app }, action: vpn }
  - { name: blocked, match: { app: block-app }, action: block }
"""
OBSERVE = """
version: 1
rules: [ { name: seen, match: { app: block-app }, action: direct } ]
"""
ONE_BY_ONE = list(product(["tcp", "udp"], [SERVICE4, SERVICE6]))
everywhere = pytest.mark.parametrize(("proto", "target"), ONE_BY_ONE)
NO_VPN_DEFAULT = f"""
ip route del default via {VPN_GATEWAY4} dev {VPN} metric 5000
ip -6 route del default via {VPN_GATEWAY6} dev {VPN} metric 5000
"""
VPN_ADDRESSES = f"""
ip address replace {VPN_CLIENT4}/24 dev {VPN}
ip address replace {VPN_CLIENT6}/64 dev {VPN} nodad
"""
VPN_DEFAULT = f"""
ip route replace default via {VPN_GATEWAY4} dev {VPN} metric 5000
ip -6 route replace default via {VPN_GATEWAY6} dev {VPN} metric 5000
"""
VPN_UP = f"""
ip link set {VPN} up
{VPN_ADDRESSES}
{VPN_DEFAULT}
"""
NO_VPN_ADDRESSES = f"""
ip address del {VPN_CLIENT4}/24 dev {VPN}
ip address del {VPN_CLIENT6}/64 dev {VPN}
"""
LOSSES = {"link down": f"ip link set {VPN} down", "no address": NO_VPN_ADDRESSES}
losses = pytest.mark.parametrize("loss", list(LOSSES))


@contextmanager
def lost(world: World, loss: str) -> Iterator[None]:
    """Take the VPN away for the time of the block."""
    world.client.sh(LOSSES[loss])
    try:
        yield
    finally:
        world.client.sh(VPN_UP)


def assert_nothing_by_eth(world: World) -> None:
    """No packet of a program came by the other link, whatever address it left with.

    Not counted are those from the VPN's address: resets that the kernel sends by the main route
    to a server which still talks to the address of a flow that has ended.
    """
    for source in (CLIENT4, CLIENT6):
        world.arrivals.assert_none(link=BY_ETH, source=source)


def probe_vpn(world: World, proto: str, target: str, timeout: float = 3.0) -> FlowReport:
    (flow,) = world.app("vpn-app").probe(proto, target, timeout=timeout)
    return flow


def assert_works_again(world: World) -> None:
    """Every kind of flow leaves by the VPN, within moments and without a restart."""
    for proto, target in ONE_BY_ONE:
        peer = wait_until(
            lambda proto=proto, target=target: (  # type: ignore[misc]
                probe_vpn(world, proto, target, 0.5).peer_seen
            ),
            f"{proto} to {target} by the VPN",
            timeout=5.0,
        )
        assert peer in (VPN_CLIENT4, VPN_CLIENT6)


def assert_refused_quickly(flow: FlowReport) -> None:
    assert not flow.ok
    assert flow.error != "ETIMEDOUT", flow
    assert flow.total_us is not None
    assert flow.total_us < 1_000_000, flow


@losses
def test_lost_before_the_flow(world: World, loss: str) -> None:
    world.engine(RULES)
    with lost(world, loss):
        with flows_meanwhile(world, "vpn-app"):
            pass  # the engine has not yet looked
        assert_nothing_by_eth(world)
        time.sleep(0.5)
        world.arrivals.reset()
        for proto, target in ONE_BY_ONE:
            assert_refused_quickly(probe_vpn(world, proto, target))
        world.arrivals.assert_none()
    assert_works_again(world)
    assert_nothing_by_eth(world)


@losses
@everywhere
def test_lost_during_the_flow(world: World, loss: str, proto: str, target: str) -> None:
    world.engine(RULES)
    ticker = start_ticker(world.app("vpn-app"), proto, target)
    wait_until(lambda: ticker.answers > 5, "answers")
    with lost(world, loss):
        time.sleep(0.5)
        before = ticker.answers
        time.sleep(0.5)
        assert ticker.answers == before
        assert_nothing_by_eth(world)
    if proto == "udp":  # a TCP flow may have been reset: its address was gone
        before = ticker.answers
        wait_until(lambda: ticker.answers > before + 5, "answers after the VPN is back", 5.0)
    time.sleep(0.5)
    ticker.stop()
    assert_works_again(world)
    assert_nothing_by_eth(world)


def make_vpn_again(world: World) -> None:
    """A new pair of links between client and vpn, with other indexes than before."""
    peer = "from-client"
    world.client.sh(
        f"ip link add {VPN} index 77 type veth peer name {peer} index 78 netns {world.vpn.name}"
    )
    world.vpn.sh(
        f"ip address add {VPN_GATEWAY4}/24 dev {peer}\n"
        f"ip address add {VPN_GATEWAY6}/64 dev {peer} nodad\n"
        f"ip link set {peer} up"
    )
    world.client.sh(VPN_UP)


def test_deleted_and_made_again(own_world: World) -> None:
    world = own_world
    world.engine(RULES)
    tickers = [start_ticker(world.app("vpn-app"), *kind) for kind in ONE_BY_ONE]
    wait_until(lambda: all(ticker.answers for ticker in tickers), "answers")
    world.client.sh(f"ip link del {VPN}")
    for flow in [probe_vpn(world, proto, target) for proto, target in ONE_BY_ONE]:
        assert_refused_quickly(flow)
    assert_nothing_by_eth(world)
    make_vpn_again(world)
    assert_works_again(world)
    for ticker in tickers:
        ticker.stop()
    assert_nothing_by_eth(world)


def test_default_route_of_the_client_changes(world: World) -> None:
    world.engine(RULES)
    client = world.client
    eth_default = (
        f"ip route replace default via {GATEWAY4} dev {ETH}\n"
        f"ip -6 route replace default via {GATEWAY6} dev {ETH}"
    )
    try:
        client.sh(f"ip route del default dev {ETH}; ip -6 route del default dev {ETH}")
        assert_works_again(world)
        client.sh(eth_default + NO_VPN_DEFAULT)
        assert_works_again(world)
        client.sh(f"ip link set {VPN} down")
        for proto, target in ONE_BY_ONE:
            assert_refused_quickly(probe_vpn(world, proto, target))
        assert_nothing_by_eth(world)
    finally:
        client.sh(f"ip route del default dev {ETH} || :; ip -6 route del default dev {ETH} || :")
        client.sh(eth_default + VPN_UP)
    assert_works_again(world)
    assert_nothing_by_eth(world)


@contextmanager
def flows_meanwhile(world: World, *apps: str) -> Iterator[None]:
    """Open flows all through the block. Each waits long enough for its owner to be looked up:
    a program that has gone by then is nobody, and nobody goes direct.
    """
    probes = [
        world.app(app).start_probe(proto, target, count=20, concurrency=2, timeout=0.5)
        for app, (proto, target) in product(apps, ONE_BY_ONE)
    ]
    yield
    for probe in probes:
        probe.finish()


def own_rules(client: Namespace) -> list[str]:
    listed = client.sh("ip rule; ip -6 rule").splitlines()
    return sorted(line for line in listed if line.startswith("710"))


def test_policy_rules_come_back(world: World) -> None:
    world.engine(RULES)
    rules = own_rules(world.client)
    assert len(rules) == 6
    tickers = [start_ticker(world.app("vpn-app"), *kind) for kind in ONE_BY_ONE]
    wait_until(lambda: all(ticker.answers > 5 for ticker in tickers), "answers")
    with flows_meanwhile(world, "block-app", "vpn-app"):
        for _ in range(3):
            for priority in (7100, 7101, 7102):
                world.client.sh(f"ip rule del pref {priority} || :")
                world.client.sh(f"ip -6 rule del pref {priority} || :")
            time.sleep(0.1)
    wait_until(lambda: own_rules(world.client) == rules, "the rules", timeout=1.0)
    before = [ticker.answers for ticker in tickers]
    wait_until(
        lambda: all(it.answers > count + 5 for it, count in zip(tickers, before, strict=True)),
        "answers again",
    )
    for ticker in tickers:
        ticker.stop()
    assert_works_again(world)
    world.arrivals.assert_none(link=BY_ETH)


def test_device_set_down_comes_up(world: World) -> None:
    world.engine(RULES)
    with flows_meanwhile(world, "block-app"):
        world.client.sh("ip link set tunowner0 down")
    wait_until(
        lambda: "UP" in world.client.json("ip", "-j", "link", "show", "tunowner0")[0]["flags"],
        "the device to come up",
        timeout=1.0,
    )
    assert_works_again(world)
    (blocked,) = world.app("block-app").probe()
    assert blocked.error == "ECONNREFUSED"
    world.arrivals.assert_none(link=BY_ETH)


def test_device_deleted_ends_the_run(world: World) -> None:
    before = world.client.snapshot()
    engine = world.engine(RULES)
    world.client.sh("ip link del tunowner0")
    assert engine.process.wait(5.0) == 1
    assert engine.stderr.count("\n") == 1
    assert "tunowner0: the device has gone" in engine.stderr
    assert before.diff(world.client.snapshot()) == []
    assert engine.stopped["statistics"]


@pytest.mark.parametrize("scope", ["all", VPN])
def test_strict_reverse_path_filter(world: World, scope: str) -> None:
    client = world.client
    key = f"net.ipv4.conf.{scope}.rp_filter"
    client.sysctl(key, 1)
    try:
        before = client.snapshot()
        engine = world.engine(RULES)
        assert_works_again(world)
        world.arrivals.assert_none(link=BY_ETH)
        assert engine.stop() == 0
        assert before.diff(client.snapshot()) == []
    finally:
        client.sysctl(key, 0)


@pytest.mark.parametrize("app", ["block-app", "vpn-app"])
def test_sockets_bound_to_a_device_do_not_leak(world: World, app: str) -> None:
    world.engine(RULES)
    for proto, target in ONE_BY_ONE:
        (flow,) = world.app(app).probe(proto, target, device=ETH, timeout=0.3)
        assert not flow.ok
    world.arrivals.assert_none()


def test_sockets_bound_to_a_device_work_under_an_observer(world: World) -> None:
    world.engine(OBSERVE)
    for proto, target in ONE_BY_ONE:
        (flow,) = world.app("block-app").probe(proto, target, device=ETH)
        assert flow.ok
