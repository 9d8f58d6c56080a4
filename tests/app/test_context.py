"""What rules are told of a flow: asked only when needed, and of this system."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.core import packets as p
from tests.core.test_dns import told
from tunowner.app.companion import Companion
from tunowner.app.context import Facts
from tunowner.backends.memory import MemoryBackend, MemoryOwners
from tunowner.core.model import Grade, Owner, Process, ProcessDetails
from tunowner.core.rules import load
from tunowner.errors import BackendError, TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CURL = Process(7, 1, "/usr/bin/curl")
ADDRESS = p.flow().remote
NAMED = told("example.org", "203.0.113.5")


def rules(match: str) -> str:
    return f"version: 1\nrules: [ {{ name: it, match: {match}, action: block }} ]\n"


@pytest.fixture
def backend() -> Iterator[MemoryBackend]:
    made = MemoryBackend(owners=MemoryOwners({p.flow(): Owner(Grade.EXACT, (CURL,), cookie=5)}))
    made.plane.close()
    yield made
    made.deaths.close()


@pytest.mark.parametrize(
    ("match", "opened"),
    [
        ("{ app: curl }", False),
        ("any", False),
        ("{ host: example.org }", True),
        ("{ app: curl, not: { host: example.org } }", True),
        ("{ any: [ { app: x }, { all: [ { port: 1 }, { host: example.org } ] } ] }", True),
    ],
)
def test_dns_is_looked_at_only_where_a_rule_asks(
    backend: MemoryBackend, match: str, *, opened: bool
) -> None:
    with closing(Facts(backend)) as facts:
        facts.serve(load([("a.yaml", rules(match))]))
        assert (backend.dns_tap is not None) is opened
    assert backend.dns_tap is None or backend.dns_tap.closed


def test_names_that_were_seen_up_to_this_moment(backend: MemoryBackend) -> None:
    with closing(Facts(backend)) as facts:
        assert facts.hosts(ADDRESS) == ()
        facts.serve(load([("a.yaml", rules("{ host: example.org }"))]))
        assert backend.dns_tap
        backend.dns_tap.put(b"nonsense", *NAMED)
        assert facts.context.hosts(ADDRESS) == ("example.org",)
    assert facts.hosts(ADDRESS) == ()
    facts.close()


def test_processes_routes_and_the_time(backend: MemoryBackend) -> None:
    backend.inspector.put(ProcessDetails(CURL, package="deb:curl", sha256="00"))
    backend.interfaces[ADDRESS] = "wg0"
    context = Facts(backend, "home").context
    details = context.details(CURL)
    assert details
    assert (details.package, details.sha256) == ("deb:curl", None)
    assert context.sha256(CURL) == "00"
    assert context.sha256(CURL._replace(pid=8)) is None
    assert context.interface(p.flow()) == "wg0"
    assert context.profile == "home"
    assert context.now() > 1_700_000_000


def test_a_companion_listens_from_the_moment_that_a_rule_asks(
    backend: MemoryBackend, tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(rules("{ app: wget }"))
    with Companion.load(file, backend=backend) as companion:
        assert backend.dns_tap is None
        file.write_text(rules("{ app: curl, host: '*.org' }"))
        companion.reload()
        assert backend.dns_tap
        backend.dns_tap.put(*NAMED)
        assert companion.decide(p.SYN4).why == "app 'curl' is /usr/bin/curl; host example.org"
    assert backend.dns_tap.closed


class BlindBackend(MemoryBackend):
    def open_dns_tap(self):  # type: ignore[no-untyped-def]
        raise BackendError("no such thing")


def test_names_that_cannot_be_seen_are_an_error_and_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(rules("{ host: example.org }"))
    backend = BlindBackend()
    backend.plane.close()
    backend.deaths.close()
    with pytest.raises(TunOwnerError, match="no such thing"):
        Companion.load(tmp_path, backend=backend)
    file = tmp_path / "a.yaml"
    file.write_text(rules("{ app: curl }"))
    with Companion.load(file, backend=backend) as companion:
        file.write_text(rules("{ host: example.org }"))
        with pytest.raises(TunOwnerError, match="no such thing"):
            companion.reload()
        assert "1 rules" in repr(companion)


def test_the_profile_of_a_companion(backend: MemoryBackend, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(rules("{ app: curl, profile: home }"))
    with Companion.load(tmp_path, profile="home", backend=backend) as companion:
        assert companion.decide(p.SYN4).action == "block"
