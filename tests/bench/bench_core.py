"""What the pure core costs, beside a scapy dissect: `python -m tests.bench.bench_core`. No root.

Nothing is asserted about time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from scapy.layers.inet import IP, TCP

from tests.bench.report import Report
from tunowner.app.judge import decide
from tunowner.core.engine import Announce, Carry, Engine, Lookup
from tunowner.core.model import Grade, Owner, Process
from tunowner.core.packet import parse
from tunowner.core.rules import Context, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
ROUNDS, FLOWS = 15, 5_000
RULES = 'version: 1\nrules:\n  - { name: one, match: { app: "curl" }, action: block }\n'
OWNER = Owner(Grade.EXACT, (Process(812, 4711, "/usr/bin/python3", 0, "root"),), 0, "root", 99)


def syn(port: int) -> bytes:
    return bytes(IP(src="192.0.2.2", dst="203.0.113.5") / TCP(sport=port, dport=443, seq=port))


def per_item(action: Callable[[], object], items: int, rounds: int = ROUNDS) -> list[float]:
    """Return microseconds for one of `items`, once for each round."""
    spent = []
    for _ in range(rounds):
        begun = time.perf_counter()
        action()
        spent.append((time.perf_counter() - begun) / items * 1e6)
    return spent


def drain(action: Callable[[T], object], packets: Iterable[T]) -> None:
    for packet in packets:
        action(packet)


def new_flows(engine: Engine, packets: Iterable[bytes]) -> None:
    for packet in packets:
        for action in engine.packet_read(packet, 1.0):
            assert isinstance(action, Lookup)
            carry, announce = engine.owner_resolved(action.ticket, OWNER, 1.0)
            assert isinstance(carry, Carry)
            assert isinstance(announce, Announce)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = Report()
    packets = [syn(1024 + number) for number in range(FLOWS)]
    decider = partial(decide, load([("rules.yaml", RULES)]), Context())

    dissect = per_item(lambda: drain(IP, packets[:200]), 200)
    ours = per_item(lambda: drain(parse, packets), FLOWS)
    known = Engine(decider)
    new_flows(known, packets)
    follow = per_item(lambda: drain(lambda it: known.packet_read(it, 1.0), packets), FLOWS)
    fresh = per_item(lambda: new_flows(Engine(decider), packets), FLOWS)

    peer, peer_is = statistics.median(dissect), "scapy dissect"
    for what, spent, limit in (
        ("packet bytes -> flow (parse)", ours, None),
        ("packet of a known flow -> action", follow, None),
        ("new flow: packet, owner -> actions", fresh, None),
    ):
        middle = statistics.median(spent)
        report.add(what, middle, "us", peer=peer, peer_is=peer_is, at_most=limit)
    report.noise("scapy dissect, us", dissect)
    report.show(as_json=options.json)


if __name__ == "__main__":
    main()
