"""What the kernel remembers once a verdict has ended: nobody may pass as an answer of a server."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab.topology import CLIENT4, CLIENT6, SERVICE4, SERVICE6
from tests.lab.wait import wait_until

if TYPE_CHECKING:
    from tests.lab.apps import App
    from tests.lab.world import World

pytestmark = pytest.mark.root

RULES = """
version: 1
outbounds: { vpn: { type: interface, name: vpn0 } }
rules:
  - { name: passes, match: { app: passes }, action: direct }
  - { name: by-vpn, match: { app: by-vpn }, action: vpn }
  - { name: blocked, match: { app: blocked }, action: block }
"""
PORT, LOCAL_PORT = 7077, 20_500
ANSWERS_LATE = f"""
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], {PORT})); print(flush=True)
while True:
    data, peer = s.recvfrom(100); print(flush=True)
    sys.stdin.readline(); s.sendto(b"late", peer); print(flush=True)
"""
SENDS = f"""
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[3])); s.bind((sys.argv[2], {LOCAL_PORT})); s.connect((sys.argv[1], {PORT}))
try: s.send(b"x"); s.recv(100)
except TimeoutError: print("silence")
except ConnectionRefusedError: print("refused")
"""


def send(app: App, target: str, source: str, patience: float) -> str:
    return app.run("-S", "-c", SENDS, target, source, str(patience)).stdout.strip()


@pytest.mark.parametrize(("target", "source"), [(SERVICE4, CLIENT4), (SERVICE6, CLIENT6)])
@pytest.mark.parametrize("first", ["passes", "by-vpn"])
def test_an_answer_that_comes_late(world: World, first: str, target: str, source: str) -> None:
    """It must not make the flow one that was begun from outside."""
    world.engine(RULES)
    pipe = subprocess.PIPE
    server = world.internet.popen(
        ["python3", "-c", ANSWERS_LATE, target], stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdout.readline()
    assert send(world.app(first), target, source, 0.1) == "silence"
    server.stdout.readline()  # it got the datagram
    wait_until(lambda: not verdicts(world), "the verdict's end")
    print(file=server.stdin, flush=True)
    server.stdout.readline()  # it answered
    assert send(world.app("blocked"), target, source, 1.0) == "refused"


def verdicts(world: World) -> list[str]:
    """Return the conntrack entries that let a flow pass, directly or by the VPN."""
    marks = (f"mark={mark << 24}" for mark in (0x02, 0x10))
    return [line for mark in marks for line in world.client.conntrack("udp", mark)]
