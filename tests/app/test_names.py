"""Host names from a tap to a decision, on memory."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.app.helpers import flow_of, syn, wait_for
from tests.app.test_service import World, end
from tests.core.test_dns import A, answer, asks, question, tells
from tunowner.app.names import HostNames
from tunowner.backends.memory import Carried, MemoryTap
from tunowner.core.model import BLOCK, DIRECT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTS = """
version: 1
rules:
  - { name: quiet, match: { port: 443, user: nobody }, tag: web, log: false }
  - { name: web, match: { port: 443 }, tag: [web, tls] }
  - { name: try, match: { port: 443 }, action: drop, mode: audit }
  - { name: no-site, match: { host: "*.example.org" }, action: block }
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    file = tmp_path / "rules.yaml"
    file.write_text(HOSTS)
    world = World(file)
    yield world
    world.backend.plane.close()
    world.backend.deaths.close()


def named(name: str, address: str) -> tuple[bytes, bytes]:
    """A question for a name, and an answer with the address."""
    record = A.copy()
    record.rrname, record.rdata = name, address
    return asks(question(name)), tells(answer(record, name=name))


def test_a_flow_to_a_name_that_was_just_told(world: World) -> None:
    def story() -> None:
        tap = world.backend.dns_tap
        assert tap is not None
        world.backend.plane.offer(syn(1))
        wait_for(lambda: len(world.backend.plane.carried) == 1, "a packet carried")
        tap.offer(*named("www.example.org", "203.0.113.5"))
        world.backend.plane.offer(syn(2))
        wait_for(lambda: len(world.backend.plane.carried) == 2, "two packets carried")
        end(signal.SIGTERM)

    world.run(story)
    assert world.backend.plane.carried == [
        Carried(syn(1), flow_of(1), DIRECT),
        Carried(syn(2), flow_of(2), BLOCK),
    ]
    _, first, second, _ = world.events
    assert (first["host"], second["host"]) == (None, "www.example.org")
    assert first["why"] == "host of pid 812 unknown; rule 'no-site' needs host"
    assert second["why"] == "host www.example.org"
    assert second["tags"] == ["web", "tls"]
    assert second["audited"] == [{"rule": "try", "action": "drop"}]


def test_a_flow_that_is_not_to_be_told_of(world: World, tmp_path: Path) -> None:
    rules = "version: 1\nrules: [{ name: quiet, match: any, action: block, log: false }]"
    (tmp_path / "rules.yaml").write_text(rules)

    def story() -> None:
        world.backend.plane.offer(syn(1))
        wait_for(lambda: len(world.backend.plane.carried) == 1, "a packet carried")
        end(signal.SIGTERM)

    world.run(story)
    assert [event["event"] for event in world.events] == ["ready", "stopped"]
    assert world.backend.dns_tap is None


def test_a_burst_is_learnt_whole() -> None:
    tap = MemoryTap()
    names = HostNames(tap, lambda: 1.0)
    for number in range(300):
        tap.offer(*named(f"n{number}.example", f"192.0.2.{number % 256}"))
    names.take()
    names.take()
    names.take()
    assert "n299.example" in names.of(bytes([192, 0, 2, 43]))
    names.close()
    names.close()
