"""What takes long to ask about a process is asked off the packet loop, and only the first time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.app.helpers import CURL, flow_of, running, syn, wait_for
from tunowner.app.judge import Judge
from tunowner.backends.memory import MemoryOwners
from tunowner.core.model import BLOCK, DIRECT, Grade, Owner, Process, ProcessDetails
from tunowner.core.rules import Context, load

if TYPE_CHECKING:
    from collections.abc import Iterator

WGET = Owner(Grade.EXACT, (Process(813, 1, "/usr/bin/wget", 1000, "ana"),), cookie=78)
HASH = "ab" * 32
RULES = f"""
version: 1
rules:
  - {{ name: plain, match: {{ app: wget, port: 80 }}, action: block }}
  - {{ name: both, match: {{ app: wget, port: 8080, sha256: {HASH} }}, action: block }}
  - {{ name: arguments, match: {{ app: wget, cmdline: "*secret*" }}, action: block }}
  - {{ name: hashed, match: {{ app: curl, sha256: {HASH} }}, action: block }}
"""


class Archive:
    """Tells slowly: not before `go` is set. Counts what it was asked."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []

    def details(self, process: Process) -> ProcessDetails:
        self.asked.append(f"details of {process.name}")
        assert self.go.wait(10.0)
        return ProcessDetails(process, command_line=("wget", "--secret"))

    def sha256(self, process: Process) -> str:
        self.asked.append(f"hash of {process.name}")
        assert self.go.wait(10.0)
        return HASH

    def judge(self) -> Judge:
        context = Context(details=self.details, sha256=self.sha256)
        return Judge(load([("judge.yaml", RULES)]), context)


@pytest.fixture
def archive() -> Iterator[Archive]:
    archive = Archive()
    yield archive
    archive.go.set()


def test_what_needs_no_more_is_decided_at_once(archive: Archive) -> None:
    judge = archive.judge()
    decision = judge.at_once(flow_of(1)._replace(remote_port=80), WGET)
    assert decision is not None
    assert (decision.action, decision.rule, archive.asked) == (BLOCK, "plain", [])


def test_facts_that_were_told_once_are_at_hand(archive: Archive) -> None:
    judge = archive.judge()
    archive.go.set()
    for owner, rule in ((WGET, "arguments"), (CURL, "hashed")):
        assert judge.at_once(flow_of(1), owner) is None
        assert judge.decide(flow_of(1), owner).rule == rule
        known = judge.at_once(flow_of(2), owner)
        assert known is not None
        assert (known.action, known.rule) == (BLOCK, rule)


def test_the_details_at_hand_do_not_make_the_hash_so(archive: Archive) -> None:
    judge = archive.judge()
    archive.go.set()
    assert judge.decide(flow_of(1), WGET).rule == "arguments"
    assert judge.at_once(flow_of(1)._replace(remote_port=8080), WGET) is None


def test_a_fact_that_takes_long_stalls_no_other_flow(archive: Archive) -> None:
    owners = MemoryOwners({flow_of(port): CURL for port in (1, 2)})
    with running(owners, judge=archive.judge()) as run:
        run.plane.offer(syn(1))
        wait_for(lambda: archive.asked == ["hash of curl"], "the question")
        run.plane.offer(syn(3))
        assert [it.action for it in run.wait_for_carried(1)] == [DIRECT]
        archive.go.set()
        assert run.wait_for_carried(2)[1].flow == flow_of(1)
        run.plane.offer(syn(2))
        assert run.wait_for_carried(3)[2].flow == flow_of(2)
        assert [it.action for it in run.plane.carried[1:]] == [BLOCK, BLOCK]
    assert owners.walked == [(flow_of(1),)], "the second time it is decided at once"
