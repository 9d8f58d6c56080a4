"""What a packet in hand costs: `python -m tests.bench.bench_companion [--json]`. No root.

A known flow beside a scapy dissect, and a new flow beside the owner look-up that it needs, of real
sockets that another process holds. Nothing is asserted about time; a wrong owner ends the run.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from tests.backends.linux.children import Child
from tests.bench.bench_core import drain, per_item
from tests.bench.report import Report
from tunowner import Companion, OwnerResolver

if TYPE_CHECKING:
    from collections.abc import Callable

    from scapy.packet import Packet

    from tests.backends.linux.children import Truth
    from tunowner.core.model import FlowKey, Owner

PACKETS, ROUNDS, SOCKETS = 2_000, 31, 200
RULES = """
version: 1
rules:
  - { name: vendor, match: { app: /opt/vendor/ }, action: block }
  - { name: python, match: { app: "python*" }, action: block }
"""
MANY = "a, n = json.loads(sys.argv[1]); s = [tcp(a) for _ in range(n)]; tell(*s); wait()"


def segment(truth: Truth, flags: str, seq: int) -> bytes:
    here, there = truth.local, truth.remote
    assert there
    return bytes(
        IP(src=here[0], dst=there[0])
        / TCP(sport=here[1], dport=there[1], flags=flags, seq=seq)
        / (b"" if flags == "S" else bytes(1400))
    )


def kinds(port: int) -> dict[str, tuple[Callable[[bytes], Packet], bytes]]:
    """Return a packet of each kind, and what scapy would dissect it with."""
    here, there = {"src": "192.0.2.2", "dst": "203.0.113.5"}, {"src": "fe80::1", "dst": "fe80::2"}
    ports, data = {"sport": port, "dport": 443}, bytes(1300)
    return {
        "IPv4 TCP": (IP, bytes(IP(**here) / TCP(**ports, flags="A") / data)),
        "IPv4 UDP": (IP, bytes(IP(**here) / UDP(**ports) / data)),
        "IPv6 TCP": (IPv6, bytes(IPv6(**there) / TCP(**ports, flags="A") / data)),
        "IPv6 UDP": (IPv6, bytes(IPv6(**there) / UDP(**ports) / data)),
    }


def known_flows(report: Report, companion: Companion, truths: list[Truth]) -> None:
    """Many packets of a few hundred flows that are known, each beside a dissect."""
    packets = [segment(truth, "A", 1) for truth in truths] * (PACKETS // len(truths))
    views = [memoryview(bytearray(packet)) for packet in packets]
    drain(companion.decide, packets)  # known from here on
    dissect = per_item(lambda: drain(IP, packets[:200]), 200, ROUNDS)
    bytes_cost = per_item(lambda: drain(companion.decide, packets), PACKETS, ROUNDS)
    views_cost = per_item(lambda: drain(companion.decide, views), PACKETS, ROUNDS)
    peer = statistics.median(dissect)
    for what, spent in (("bytes", bytes_cost), ("memoryview", views_cost)):
        middle = statistics.median(spent)
        name = f"known flow, {what} -> decision"
        report.add(name, middle, "us", peer=peer, peer_is="scapy dissect", at_most=0.8)
    report.add(
        "  times faster than the dissect",
        peer / statistics.median(bytes_cost),
        "x",
        at_least=80,
    )
    report.noise("scapy dissect, us", dissect)


def kinds_of_packets(report: Report, companion: Companion) -> None:
    """The same for each kind of packet. Nobody owns these flows, so they are known for a moment."""
    for name, (dissector, packet) in kinds(4000).items():
        batch = [packet] * 200

        def decide(batch: list[bytes] = batch) -> None:
            drain(companion.decide, batch)

        decide()
        spent = [min(per_item(decide, len(batch), 3)) for _ in range(ROUNDS)]
        peer = per_item(lambda d=dissector, b=batch: drain(d, b), len(batch), 7)  # type: ignore[misc]
        report.add(
            f"known flow, {name}",
            statistics.median(spent),
            "us",
            peer=statistics.median(peer),
            peer_is="scapy dissect",
            at_most=0.8,
        )


def new_flows(report: Report, companion: Companion, truths: list[Truth], pid: int) -> None:
    """Each a SYN with a number of its own; beside the look-up of the same sockets alone."""
    flows = [truth.flow() for truth in truths]
    decided: list[float] = []
    looked_up: list[float] = []
    with OwnerResolver() as resolver:
        resolver.resolve_many(flows)
        for turn in range(ROUNDS):
            packets = [segment(truth, "S", turn + 2) for truth in truths]
            looked_up += per_item(lambda: [resolver.resolve(flow) for flow in flows], SOCKETS, 1)
            decided += per_item(lambda p=packets: drain(companion.decide, p), SOCKETS, 1)  # type: ignore[misc]
    for packet in packets:
        process = companion.decide(packet).owner.process
        if process is None or process.pid != pid:
            raise SystemExit(f"wrong owner: {process}")
    report.add(
        "new flow, packet -> decision",
        statistics.median(decided),
        "us",
        peer=statistics.median(looked_up),
        peer_is="owner look-up alone",
    )
    report.add("  the look-up's share of it", share_of_look_up(companion, truths), "", at_least=0.5)


def share_of_look_up(companion: Companion, truths: list[Truth]) -> float:
    """Return which part of the time for new flows is spent in the owner look-up."""
    resolver = companion._resolver
    inside: list[float] = []
    resolve = resolver.resolve

    def timed(flow: FlowKey) -> Owner:
        begun = time.perf_counter()
        owner = resolve(flow)
        inside.append(time.perf_counter() - begun)
        return owner

    resolver.resolve = timed  # type: ignore[method-assign]
    packets = [segment(truth, "S", 99_000 + turn) for turn in range(ROUNDS) for truth in truths]
    begun = time.perf_counter()
    drain(companion.decide, packets)
    spent = time.perf_counter() - begun
    resolver.resolve = resolve  # type: ignore[method-assign]
    return sum(inside) / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = Report()
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
        Child(MANY, listener.getsockname(), SOCKETS) as child,
    ):
        Path(folder, "rules.yaml").write_text(RULES)
        truths = child.hear()
        with Companion.load(folder) as companion:
            known_flows(report, companion, truths)
            kinds_of_packets(report, companion)
            new_flows(report, companion, truths, child.pid)
    report.show(as_json=options.json)


if __name__ == "__main__":
    main()
