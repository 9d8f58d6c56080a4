"""Rules about host names: a program looks a name up and connects, in the same moment."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.core.test_dns import question
from tests.lab.programs.server import DNS_ANSWER
from tests.lab.topology import SERVICE4, SERVICE6
from tests.lab.world import DNS_PORT, ECHO_PORT

if TYPE_CHECKING:
    from tests.lab.world import World

pytestmark = pytest.mark.root
RULES = """
version: 1
rules:
  - { name: no-ads, match: { host: "*.ads.example" }, action: block }
"""


def look_up_and_connect(resolver: str, name: str, address: str) -> str:
    """Ask for a name and connect to an address at once; say how that ended."""
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asker:
        asker.settimeout(5.0)
        asker.connect((resolver, DNS_PORT))
        asker.send(question(name))
        asker.recv(512)
    try:
        socket.create_connection((address, ECHO_PORT), timeout=5.0).close()
    except OSError as error:
        return type(error).__name__
    return "connected"


@pytest.mark.parametrize("resolver", [SERVICE4, SERVICE6])
def test_a_name_that_a_rule_blocks(world: World, resolver: str) -> None:
    engine = world.engine(RULES)
    for name, action in (("www.example.org", "direct"), ("x.ads.example", "block")):
        world.client.call(look_up_and_connect, resolver, name, DNS_ANSWER)
        to = f"{DNS_ANSWER}:{ECHO_PORT}"
        event = engine.wait_for_event("open", proto="tcp", dst=to, action=action)
        assert event["host"] == "www.example.org"
    assert event["why"] == "host x.ads.example"
