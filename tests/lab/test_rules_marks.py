"""What rules leave on a flow besides its way: audits, tags, silence; and rules that end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.topology import SERVICE4, SERVICE6
from tests.lab.wait import wait_until

if TYPE_CHECKING:
    from tests.lab.world import World

pytestmark = pytest.mark.root
both = pytest.mark.parametrize(("proto", "target"), [("tcp", SERVICE4), ("udp", SERVICE6)])


@both
def test_a_flow_tells_of_audits_and_tags(world: World, proto: str, target: str) -> None:
    app = world.app("agent")
    engine = world.engine(
        "version: 1\nrules:\n"
        "  - { name: web, match: { app: agent }, tag: [web, mine] }\n"
        "  - { name: try, match: { app: agent }, action: block, mode: audit }\n"
        "  - { name: meant, match: { app: agent }, action: direct, tag: end }\n"
    )
    (flow,) = app.probe(proto, target)
    assert flow.ok, flow.error
    event = engine.wait_for_event("open", src=flow.src)
    assert (event["action"], event["rule"]) == ("direct", "meant")
    assert event["why"] == f"app 'agent' is {app}"
    assert event["tags"] == ["web", "mine", "end"]
    assert event["audited"] == [{"rule": "try", "action": "block"}]


@both
def test_a_flow_that_is_not_told_of(world: World, proto: str, target: str) -> None:
    quiet, loud = world.app("quiet"), world.app("loud")
    engine = world.engine(
        "version: 1\nrules: [{ name: hush, match: { app: quiet }, action: block, log: false }]\n"
    )
    (silent,) = quiet.probe(proto, target)
    assert silent.error == "ECONNREFUSED"
    (told,) = loud.probe(proto, target)
    engine.wait_for_event("open", src=told.src)
    assert engine.matching(event="open", src=silent.src) == []


def test_a_rule_that_ends_while_it_runs(world: World) -> None:
    app = world.app("agent")
    end = int(time.time()) + 8  # the engine starts in 1 s where nothing else runs
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
    engine = world.engine(
        "version: 1\nrules:\n"
        f"  - {{ name: brief, match: {{ app: agent }}, action: block, expires: {moment} }}\n"
    )
    (before,) = app.probe("tcp", SERVICE4)
    assert before.error == "ECONNREFUSED"
    event = engine.wait_for_event("open", src=before.src)
    assert event["why"] == f"app 'agent' is {app}; until {moment}"
    wait_until(lambda: time.time() > end, "the rule to end")
    (after,) = app.probe("tcp", SERVICE4)
    assert after.ok, after.error
    assert engine.wait_for_event("open", src=after.src)["why"] == "no rule matches"
