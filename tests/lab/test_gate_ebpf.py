"""The engine with its eBPF programs, attached to a cgroup of the test's own."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.backends.linux.bpf_cgroup import own_cgroup
from tests.lab.topology import SERVICE4, SERVICE6
from tests.lab.wait import wait_until
from tests.lab.world import ECHO_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.world import World

pytestmark = pytest.mark.root

RULES = """
version: 1
defaults: { action: direct, when_unknown: direct }
rules:
  - { name: blocks, match: { app: block-app }, action: block }
"""
SENDERS = 200
SEND_AND_BE_GONE = f"""
import os, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
for _ in range({SENDERS}):
    if not os.fork():
        socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (sys.argv[1], {ECHO_PORT}))
        os._exit(0)
    os.wait()
"""
everywhere = pytest.mark.parametrize(
    ("proto", "target"), list(product(("tcp", "udp"), (SERVICE4, SERVICE6)))
)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with own_cgroup() as made:
        yield made


@everywhere
def test_owners_come_from_the_kernel(world: World, cgroup: Path, proto: str, target: str) -> None:
    engine = world.engine(RULES, "--cgroup", str(cgroup))
    for name, rule, ok in (("direct-app", None, True), ("block-app", "blocks", False)):
        app = world.app(name)
        for flow in app.probe(proto, target, count=5):
            assert flow.ok is ok
            opened = engine.wait_for_event("open", src=flow.src, rule=rule)
            owner = opened["owner"]
            assert (owner["pid"], owner["path"]) == (flow.pid, str(app))
            assert (owner["grade"], owner["backend"]) == ("exact", "ebpf")
    assert world.client.tun_packets() == 10
    assert engine.stop() == 0  # before its cgroup goes


@pytest.mark.parametrize("target", [SERVICE4, SERVICE6])
def test_a_sender_that_is_gone_is_named_and_blocked(
    world: World, cgroup: Path, target: str
) -> None:
    engine = world.engine(RULES, "--cgroup", str(cgroup))
    app = world.app("block-app")
    app.run("-S", "-c", SEND_AND_BE_GONE, target)
    wait_until(lambda: len(engine.matching(event="open")) >= SENDERS, "all flows to be decided")
    for event in engine.matching(event="open"):
        owner = event["owner"]
        assert owner["backend"] == "ebpf"
        assert owner["grade"] in ("exact", "ambiguous")  # two of them may have had the same port
        assert {it["path"] for it in owner.get("candidates", [owner])} == {str(app)}
    world.arrivals.assert_none()
    assert engine.stop() == 0  # before its cgroup goes
