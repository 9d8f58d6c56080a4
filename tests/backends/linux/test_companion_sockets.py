"""The Companion and real sockets of another process."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.backends.linux.children import Child, Truth, packed
from tests.core import packets as p
from tests.lab.wait import wait_until
from tunowner import Companion
from tunowner.core.model import TCP, UDP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPEN = """
to, = json.loads(sys.argv[1])
a, b = tcp(to), udp(remote=to, family=socket.AF_INET6 if ':' in to[0] else socket.AF_INET)
tell(a, b)
wait()
"""
AGAIN = """
proto, here, to = json.loads(sys.argv[1])
family = socket.AF_INET6 if ':' in to[0] else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if proto == 6 else socket.SOCK_DGRAM)
tell(connected(s, to, here, reuse=(socket.SO_REUSEADDR,)))
wait()
"""


def packet_of(truth: Truth, seq: int = 1, flags: int = p.SYN) -> bytes:
    """Return a packet that the socket might send."""
    flow = truth.flow()
    if flow.protocol == TCP:
        payload = p.tcp(flow.local_port, flow.remote_port, seq, flags)
    else:
        payload = p.udp(flow.local_port, flow.remote_port, b"data")
    if len(flow.local) == 4:
        raw = p.ipv4(payload, flow.protocol)
        return raw[:12] + flow.local + flow.remote + raw[20:]
    raw = p.ipv6(payload, flow.protocol)
    return raw[:8] + flow.local + flow.remote + raw[40:]


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    family = socket.AF_INET if "." in request.param else socket.AF_INET6
    with socket.create_server((request.param, 0), family=family) as listener:
        yield listener.getsockname()[:2]


@pytest.fixture
def companion(tmp_path: Path) -> Iterator[Companion]:
    rules = "version: 1\nrules: [ { name: py, match: { app: python* }, action: block } ]\n"
    (tmp_path / "a.yaml").write_text(rules)
    with Companion.load(tmp_path) as made:
        yield made


def test_sockets_of_another_process(companion: Companion, server: tuple[str, int]) -> None:
    with Child(OPEN, server) as child:
        for truth in child.hear():
            decision = companion.decide(packet_of(truth))
            assert (decision.action, decision.rule) == ("block", "py")
            assert decision.owner.process
            assert decision.owner.process.pid == child.pid
            assert companion.decide(packet_of(truth, flags=p.ACK)) is decision
            name = "tcp" if truth.protocol == TCP else "udp"
            asked = companion.decide_flow(name, truth.local, truth.remote or ("", 0))
            assert asked.owner.process == decision.owner.process


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_port_that_changes_hands_has_its_new_owner(
    companion: Companion, server: tuple[str, int], protocol: int
) -> None:
    with Child(AGAIN, protocol, (server[0], 0), server) as first:
        (truth,) = first.hear()
        decision = companion.decide(packet_of(truth, seq=1))
        assert decision.owner.process
        assert decision.owner.process.pid == first.pid
    with Child(AGAIN, protocol, truth.local, server) as second:
        (again,) = second.hear()
        assert again.local == truth.local

        def owner() -> int | None:
            process = companion.decide(packet_of(again, seq=2)).owner.process
            return process and process.pid

        if protocol == TCP:
            assert owner() == second.pid
        wait_until(lambda: owner() == second.pid, "the kernel to tell of the closed socket")


def test_a_closed_udp_socket_has_no_owner(companion: Companion, server: tuple[str, int]) -> None:
    with Child(OPEN, server) as child:
        truth = child.hear()[1]
        assert companion.decide(packet_of(truth)).action == "block"
        assert packed(truth.local[0]) == packed(server[0])
    wait_until(
        lambda: companion.decide(packet_of(truth)).owner.grade == "absent", "the socket to be gone"
    )
