"""What takes long to ask about a process is asked off the packet loop, and only the first time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.app.helpers import CURL, flow_of, running, syn, wait_for
from tests.core.rules.test_rules_properties import CONTEXTS, FLOWS, OWNERS, RULES, rule_set
from tunowner.app.judge import MAX_ANSWERS, Judge
from tunowner.backends.memory import MemoryOwners
from tunowner.core.model import BLOCK, DIRECT, Grade, Owner, Process, ProcessDetails
from tunowner.core.rules import Context, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.core.rules.test_rules_properties import Match
    from tunowner.core.model import FlowKey

WGET = Owner(Grade.EXACT, (Process(813, 1, "/usr/bin/wget", 1000, "ana"),), cookie=78)
HASH = "ab" * 32
SLOW = f"""
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
        return Judge(load([("judge.yaml", SLOW)]), context)


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


@given(RULES, st.lists(st.tuples(FLOWS, OWNERS), max_size=6), CONTEXTS)
def test_what_is_remembered_is_what_the_rules_say(
    written: list[tuple[Match, Match]], asked: list[tuple[FlowKey, Owner]], context: Context
) -> None:
    text = rule_set(*(match for match, _ in written), extras=[extra for _, extra in written])
    rules = load([("judge.yaml", text)])
    judge = Judge(rules, context)
    for flow, owner in asked * 2:
        again = owner._replace(cookie=5, lookup_us=7)
        at_once = judge.at_once(flow, again)
        assert at_once in (None, rules.decide(flow, again, context))
        assert at_once is not None or not rules.is_steady


@pytest.mark.parametrize(
    ("rule", "steady"),
    [
        ("match: { app: curl, not: { ip: 10.0.0.0/8, port: 80, protocol: tcp } }", True),
        ("match: { user: root, pid: 1, owner: exact, profile: home }", True),
        ("match: any", True),
        ("match: { app: curl }, for: 1h", False),
        ("match: { host: example.org }", False),
        ("match: { not: { parent: { app: curl } } }", False),
        ("match: { any: [ { app: curl }, { interface: wg0 } ] }", False),
    ],
)
def test_answers_are_remembered_where_nothing_of_the_moment_is_asked(
    rule: str, *, steady: bool
) -> None:
    rules = load([("judge.yaml", f"version: 1\nrules: [ {{ name: x, {rule}, action: block }} ]")])
    assert rules.is_steady is steady


def test_the_memory_is_bounded() -> None:
    judge = Judge(load([("judge.yaml", "version: 1\nrules: []")]), Context())
    for number in range(2 * MAX_ANSWERS):
        judge.at_once(flow_of(1)._replace(remote=number.to_bytes(4, "big")), CURL)
    assert judge._answers is not None
    assert len(judge._answers) <= MAX_ANSWERS
