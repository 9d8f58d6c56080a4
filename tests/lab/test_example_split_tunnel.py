"""The program that embeds the Companion, with real traffic: examples/split_tunnel.py."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.lab.engine import ROOT
from tests.lab.topology import BY_ETH, BY_VPN, CLIENT4, CLIENT6, SERVICE4, SERVICE6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.apps import App, FlowReport
    from tests.lab.world import World

pytestmark = pytest.mark.root
EXAMPLE = ROOT / "examples" / "split_tunnel.py"
RULES = """
version: 1
defaults: { action: direct, when_unknown: drop }
outbounds: { vpn: { type: interface, name: vpn0 } }
rules:
  - { name: vpns, match: { app: vpn-app }, action: vpn }
  - { name: blocks, match: { app: block-app }, action: block }
  - { name: drops, match: { app: drop-app }, action: drop }
"""
everywhere = pytest.mark.parametrize(
    ("proto", "target"), list(product(("tcp", "udp"), (SERVICE4, SERVICE6)))
)


class Tunnel:
    """The running example."""

    def __init__(self, world: World, rules: str) -> None:
        file = world.folder / "split.yaml"
        file.write_text(rules)
        self.process = world.client.popen(
            [sys.executable, EXAMPLE, "--rules", file],
            env={"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.line() == "ready"

    def line(self) -> str:
        """Wait for the next line that it prints."""
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def decided(self, app: App, flow: FlowReport, action: str, why: str = "") -> None:
        """Take the next line, which must be about the flow of an app."""
        assert self.line() == f"{action} {app.path.name}[{flow.pid}] {why or 'no rule matches'}"

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it. What it has not been asked for must not have been printed."""
        self.process.send_signal(how)
        output, _ = self.process.communicate(timeout=10)
        assert output == "stopped\n"
        assert self.process.returncode == 0


@contextmanager
def tunnel(world: World, rules: str = RULES) -> Iterator[Tunnel]:
    running = Tunnel(world, rules)
    yield running
    running.stop()


def why(app: App) -> str:
    return f"app '{app.path.name}' is {app.path}"


@everywhere
def test_flows_go_their_ways(world: World, proto: str, target: str) -> None:
    vpn, direct = world.app("vpn-app"), world.app("direct-app")
    with tunnel(world) as running:
        for app, link, action, reason in (
            (vpn, BY_VPN, "vpn", why(vpn)),
            (direct, BY_ETH, "direct", ""),
        ):
            world.arrivals.reset()
            (flow,) = app.probe(proto, target, messages=20)
            assert flow.ok, flow.error
            assert flow.peer_seen == (CLIENT4 if target == SERVICE4 else CLIENT6)
            running.decided(app, flow, action, reason)  # once: its other packets are known
            assert world.arrivals.packets(link=link, proto=proto) >= 20
            assert world.arrivals.packets(proto=proto) == world.arrivals.packets(link=link)


@everywhere
def test_blocked_flows_go_nowhere(world: World, proto: str, target: str) -> None:
    block, drop = world.app("block-app"), world.app("drop-app")
    with tunnel(world) as running:
        (flow,) = block.probe(proto, target, timeout=5)
        assert flow.error == "ECONNREFUSED"
        running.decided(block, flow, "block", why(block))
        (flow,) = drop.probe(proto, target, timeout=1.5)
        assert flow.error == "ETIMEDOUT"
        running.decided(drop, flow, "drop", why(drop))
        world.arrivals.assert_none()


def test_an_outbound_that_is_down_refuses(own_world: World) -> None:
    vpn = own_world.app("vpn-app")
    with tunnel(own_world) as running:
        own_world.client.sh("ip link set vpn0 down")
        (flow,) = vpn.probe("tcp", SERVICE4, timeout=5)
        assert flow.error == "ECONNREFUSED"
        running.decided(vpn, flow, "vpn", why(vpn))
        own_world.arrivals.assert_none()


def test_many_flows_of_both_kinds_at_once(world: World) -> None:
    vpn, direct = world.app("vpn-app"), world.app("direct-app")
    with tunnel(world) as running:
        probes = [app.start_probe("tcp", SERVICE4, count=50, messages=5) for app in (vpn, direct)]
        for _ in range(100):
            action, program = running.line().split()[:2]
            assert (action, program.partition("[")[0]) in (
                ("vpn", "vpn-app"),
                ("direct", "direct-app"),
            )
        for probe in probes:
            assert all(flow.ok for flow in probe.finish())
        assert len(world.arrivals.flows(link=BY_VPN)) == 50
        assert len(world.arrivals.flows(link=BY_ETH)) == 50


def test_rules_that_are_wrong_are_told_and_nothing_is_changed(world: World) -> None:
    file = world.folder / "split.yaml"
    file.write_text("version: 1\nrules: [ { name: a, match: { ap: x }, action: block } ]\n")
    done = world.client.run(
        [sys.executable, EXAMPLE, "--rules", file], env={"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 1
    assert "unknown key 'ap' in match; did you mean 'app'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_ends_it_too(world: World) -> None:
    Tunnel(world, RULES).stop(signal.SIGTERM)
