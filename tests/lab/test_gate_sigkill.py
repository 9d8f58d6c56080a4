"""A run that is killed at any moment does no harm, and the next one clears up after it."""

from __future__ import annotations

import os
import random
import signal
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.topology import CLIENT4, CLIENT6, SERVICE4, SERVICE6
from tests.lab.wait import wait_until

if TYPE_CHECKING:
    from tests.lab.engine import Engine
    from tests.lab.snapshot import Snapshot
    from tests.lab.world import World

pytestmark = pytest.mark.root

RULES = """
version: 1
outbounds:
  vpn: { type: interface, name: vpn0 }
  uplink: { type: table, table: 100 }
rules:
  - { name: blocked, match: { app: block-app }, action: block }
  - { name: by-vpn, match: { app: vpn-app }, action: vpn }
  - { name: elsewhere, match: { app: table-app }, action: uplink }
"""
APPS = ("block-app", "vpn-app", "other-app")
ONE_BY_ONE = list(product(["tcp", "udp"], [SERVICE4, SERVICE6]))
FOREIGN = """
ip rule add pref 7103 fwmark 0x10000/0xff0000 lookup 50
ip -6 rule add pref 7103 fwmark 0x10000/0xff0000 lookup 50
ip route add default via 198.51.100.1 dev vpn0 table 100
nft add table inet foreign
"""
NO_FOREIGN = """
ip rule del pref 7103
ip -6 rule del pref 7103
ip route flush table 100
nft delete table inet foreign
"""
KILLS = 50
SETUP_S, TRAFFIC_S, TEARDOWN_S = 0.7, 0.3, 0.08
"""How long each phase takes, roughly; the moment is chosen at random within it."""


def assert_only_harmless(before: Snapshot, world: World) -> None:
    """What the kernel kept is named as ours (protocol 171), and is no device and no nft table."""
    kept = [
        line
        for line in before.diff(world.client.snapshot())
        if not (line.startswith(("+ rules", "+ routes")) and '"171"' in line)
    ]
    assert kept == []


def assert_as_without_us(world: World) -> None:
    """Every program reaches everything, with the client's own addresses."""
    probes = [
        world.app(app).start_probe(proto, target)
        for app, (proto, target) in product(APPS, ONE_BY_ONE)
    ]
    for probe in probes:
        (flow,) = probe.finish()
        assert flow.ok, flow
        assert flow.peer_seen in (CLIENT4, CLIENT6)


def has_device(engine: Engine) -> bool:
    """Look at the device list of the engine's namespace: faster than to run a program in it."""
    try:
        return "tunowner0" in Path(f"/proc/{engine.pid}/net/dev").read_text(encoding="ascii")
    except OSError:
        return False


def kill_once(world: World, phase: str, dice: random.Random) -> float:
    """Start the engine and kill it in this phase; return how long we waited for that."""
    if phase == "set-up":
        engine = world.engine(RULES, ready=None)
        delay = dice.uniform(0, SETUP_S)
    else:
        engine = world.engine(RULES)
        for app, (proto, target) in product(APPS[:2], ONE_BY_ONE[::3]):
            world.app(app).start_probe(proto, target, count=500, concurrency=5, timeout=0.2)
        delay = dice.uniform(0, TRAFFIC_S)
    if phase == "tear-down":
        time.sleep(0.1)
        engine.process.send_signal(signal.SIGTERM)
        delay = dice.uniform(0, TEARDOWN_S)
    time.sleep(delay)
    engine.kill()
    wait_until(lambda: "tunowner0" not in world.client.sh("ip link"), "the device to go", 2.0)
    world.engines.remove(engine)
    engine.close()
    world.client.keeper.kill_all()
    return delay


def test_killed_fifty_times(world: World) -> None:
    seed = int(os.environ.get("TUNOWNER_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"TUNOWNER_SEED={seed}")
    dice = random.Random(seed)
    client = world.client
    client.sh(FOREIGN)
    try:
        before = client.snapshot()
        for number in range(KILLS):
            phase = ("set-up", "traffic", "tear-down")[number % 3]
            delay = kill_once(world, phase, dice)
            print(f"{number}: killed {delay * 1000:.0f} ms into {phase}")
            wait_until(lambda: "tunowner" not in client.sh("nft list tables"), "no table", 2.0)
            assert_only_harmless(before, world)
            if number % 5 < 2:  # each phase comes at each of these; all would take a minute
                assert_as_without_us(world)
        engine = world.engine(RULES)
        world.forget()
        (blocked,) = world.app("block-app").probe()
        assert blocked.error == "ECONNREFUSED"
        assert engine.stop() == 0
        assert before.diff(client.snapshot()) == []
        assert_as_without_us(world)
    finally:
        world.client.keeper.kill_all()
        client.sh(NO_FOREIGN)


def test_the_next_run_starts_clean(world: World) -> None:
    """Also where it is another: what it does not need must be gone while it runs."""
    client = world.client

    def ours(command: str) -> list[str]:
        return [line for line in client.sh(command).splitlines() if "proto 171" in line]

    world.engine(RULES).kill()
    assert len(ours("ip rule")) == len(ours("ip -6 rule")) == 5
    world.engine("version: 1\nrules: []", "--mark-byte", "2")
    for family in ("-4", "-6"):
        (rule,) = ours(f"ip {family} rule")
        assert "fwmark 0x10000/0xff0000 lookup 7171" in rule
        (route,) = ours(f"ip {family} route show table all")
        assert "tunowner0" in route


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_end_under_traffic(world: World, how: signal.Signals) -> None:
    before = world.client.snapshot()
    for _ in range(3):
        engine = world.engine(RULES)
        probes = [
            world.app(app).start_probe(proto, target, count=300, concurrency=10, timeout=0.5)
            for app, (proto, target) in product(APPS, ONE_BY_ONE[::3])
        ]
        engine.wait_for_event("open")
        assert engine.stop(how=how) == 0
        assert engine.stderr == ""
        assert engine.stopped["event"] == "stopped"
        assert before.diff(world.client.snapshot()) == []
        for probe in probes:
            probe.kill()
    assert_as_without_us(world)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_end_during_set_up(world: World, how: signal.Signals) -> None:
    """From the moment the first thing is changed until it is ready, every millisecond or so."""
    before = world.client.snapshot()
    for milliseconds in (0, 1, 2, 4, 8, 16, 32, 64):
        engine = world.engine(RULES, ready=None)
        wait_until(lambda engine=engine: has_device(engine), "the device")  # type: ignore[misc]
        time.sleep(milliseconds / 1000)
        assert engine.stop(how=how) == 0, f"{milliseconds} ms: {engine.stderr}"
        assert engine.stderr == "", f"after {milliseconds} ms"
        assert before.diff(world.client.snapshot()) == [], f"after {milliseconds} ms"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_end_before_anything_was_changed(world: World, how: signal.Signals) -> None:
    """While Python itself starts a signal just ends it; there must be nothing to clear up."""
    before = world.client.snapshot()
    for milliseconds in (40, 80, 120, 160, 200):
        engine = world.engine(RULES, ready=None)
        time.sleep(milliseconds / 1000)
        status = engine.stop(how=how)
        assert status in (0, 1, 130, -how), f"{milliseconds} ms: {engine.stderr}"
        assert before.diff(world.client.snapshot()) == [], f"after {milliseconds} ms"
