"""Host names from a tap to a decision, on memory."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.app.helpers import flow_of, syn, wait_for
from tests.app.test_service import World, end
from tests.core.test_dns import told
from tunowner.backends.memory import Carried
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


def test_a_flow_to_a_name_that_was_just_told(world: World) -> None:
    def story() -> None:
        tap = world.backend.dns_tap
        assert tap is not None
        world.backend.plane.offer(syn(1))
        wait_for(lambda: len(world.backend.plane.carried) == 1, "a packet carried")
        tap.put(*told("www.example.org", "203.0.113.5"))
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
