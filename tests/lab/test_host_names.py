"""The condition `host`: names from DNS answers that the client has received."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.topology import OTHER4, SERVICE4, SERVICE6

if TYPE_CHECKING:
    from tests.lab.world import World

pytestmark = pytest.mark.root
RULES = """
version: 1
defaults: { action: direct, when_unknown: drop }
rules:
  - { name: named, match: { host: "*.blocked.example" }, action: block }
  - { name: questions, match: { port: 53 }, action: direct }
"""


def look_up(world: World, name: str, server: str) -> None:
    """Ask as any program does; the lab's server answers with SERVICE4."""
    assert world.client.sh(f"dig +short +tries=1 @{server} {name} A").strip() == SERVICE4


@pytest.mark.parametrize("server", [SERVICE4, SERVICE6])
def test_a_flow_to_a_name_that_was_looked_up(world: World, server: str) -> None:
    engine = world.engine(RULES)
    app = world.app("some-app")
    (flow,) = app.probe("tcp", SERVICE4, timeout=1)
    assert flow.error == "ETIMEDOUT", "nobody has asked for a name: unknown"
    engine.wait_for_event("open", src=flow.src, action="drop", host=None)
    look_up(world, "Ads.Blocked.Example", server)
    (flow,) = app.probe("tcp", SERVICE4)
    assert flow.error == "ECONNREFUSED"
    event = engine.wait_for_event("open", src=flow.src, rule="named", host="ads.blocked.example")
    assert event["why"] == "host ads.blocked.example"
    assert app.probe("tcp", OTHER4, timeout=1)[0].error == "ETIMEDOUT"
    assert engine.stop() == 0


def test_a_name_that_no_rule_means(world: World) -> None:
    engine = world.engine(RULES)
    look_up(world, "www.example", SERVICE4)
    (flow,) = world.app("some-app").probe("tcp", SERVICE4)
    assert flow.ok
    engine.wait_for_event("open", src=flow.src, rule=None, action="direct", host="www.example")
    assert engine.stop() == 0


def test_a_burst_of_answers_is_not_lost(world: World) -> None:
    engine = world.engine(RULES)
    names = "".join(f"{number}.example A\n" for number in range(300))
    script = f"dig +short +tries=1 @{SERVICE4} -f - >/dev/null"
    world.client.sh(script, stdin=names)
    look_up(world, "last.blocked.example", SERVICE4)
    (flow,) = world.app("some-app").probe("tcp", SERVICE4)
    assert flow.error == "ECONNREFUSED"
    engine.wait_for_event("open", src=flow.src, rule="named")
    assert engine.stop() == 0
