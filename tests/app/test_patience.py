"""Slow facts are fetched by the walk, and the packet loop finds them at hand."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.app.helpers import CURL, flow_of
from tunowner.app.patience import AT_HAND_S, PatientOwners, patient
from tunowner.backends.memory import MemoryOwners
from tunowner.core.model import Grade, Owner, Process, ProcessDetails
from tunowner.core.rules import Context, RuleSet, load

HASH = "ab" * 32
(PROCESS,) = CURL.candidates


def rules(*matches: str) -> RuleSet:
    entries = "".join(
        f"  - {{ name: r{number}, match: {match}, action: block }}\n"
        for number, match in enumerate(matches)
    )
    return load([("a.yaml", f"version: 1\nrules:\n{entries}")])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Told:
    """A context that notes what it is asked for, and on which thread."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.context = Context(details=self.details, sha256=self.sha256)

    def details(self, process: Process) -> ProcessDetails:
        self.asked.append("details")
        return ProcessDetails(process, package="deb:curl")

    def sha256(self, _: Process) -> str:
        self.asked.append("sha256")
        return HASH


@pytest.mark.parametrize(
    ("match", "slow"),
    [("{ app: curl }", False), ("{ script: x }", False), ("{ package: 'deb:x' }", True)],
)
def test_only_rules_that_want_slow_facts_need_patience(match: str, *, slow: bool) -> None:
    owners = MemoryOwners()
    assert (patient(owners, rules(match), Context()) is owners) is not slow


@pytest.mark.parametrize("match", ["{ package: 'deb:curl' }", f"{{ sha256: {HASH} }}"])
def test_what_takes_long_is_fetched_by_the_walk(match: str) -> None:
    told, clock = Told(), Clock()
    inner, loaded = MemoryOwners({flow_of(1): CURL, flow_of(2): CURL}), rules(match)
    owners = PatientOwners(inner, loaded, told.context, clock)
    assert owners.quick(flow_of(1)) is None
    assert told.asked == [], "the loop asks for nothing that is not at hand"
    ((flow, owner),) = owners.walk([flow_of(1)])
    assert (flow, owner.process) == (flow_of(1), PROCESS)
    assert inner.walked == [], "its owner was known"
    assert len(told.asked) == 1
    assert loaded.decide(flow, owner, told.context).rule == "r0"
    found = owners.quick(flow_of(2))
    assert found
    assert found.process == PROCESS
    clock.now = AT_HAND_S
    assert owners.quick(flow_of(2)) is None


def test_what_no_rule_in_the_running_wants_is_not_fetched() -> None:
    told = Told()
    match = f"{{ app: wget, package: 'deb:wget', sha256: {HASH} }}"
    owners = PatientOwners(MemoryOwners({flow_of(1): CURL}), rules(match), told.context)
    assert owners.quick(flow_of(1))
    assert told.asked == []


def test_one_walk_fetches_all_that_is_wanted_in_turn() -> None:
    """The second rule is asked only once the first is known not to match."""
    told = Told()
    loaded = rules("{ package: 'deb:wget' }", f"{{ sha256: {HASH} }}")
    owners = PatientOwners(MemoryOwners({flow_of(1): CURL}), loaded, told.context)
    assert owners.quick(flow_of(1)) is None
    ((flow, owner),) = owners.walk([flow_of(1)])
    assert told.asked == ["details", "sha256"]
    assert owners.quick(flow)
    assert loaded.decide(flow, owner, told.context).rule == "r1"


def test_a_flow_whose_owner_needs_a_walk_has_one() -> None:
    told, inner = Told(), MemoryOwners({flow_of(2): CURL})
    inner.put(flow_of(1), CURL, slow=True)
    owners = PatientOwners(inner, rules("{ package: 'deb:curl' }"), told.context)
    assert owners.quick(flow_of(1)) is owners.quick(flow_of(2)) is None
    answers = dict(owners.walk([flow_of(1), flow_of(2), flow_of(3)]))
    assert inner.walked == [(flow_of(1), flow_of(3))]
    assert [answers[flow_of(port)].grade for port in (1, 2, 3)] == ["exact", "exact", "absent"]


def test_nobody_is_asked_about_a_flow_without_a_process() -> None:
    told, inner = Told(), MemoryOwners({flow_of(1): Owner(Grade.UID_ONLY, uid=0)})
    owners = PatientOwners(inner, rules("{ package: 'deb:curl' }"), told.context)
    found = owners.quick(flow_of(1))
    assert found
    assert found.grade == "uid-only"
    assert told.asked == []


def test_a_slow_fact_does_not_keep_the_loop_waiting() -> None:
    go, asked = threading.Event(), threading.Event()

    def slow(_: Process) -> str:
        asked.set()
        assert go.wait(10)
        return HASH

    context = replace(Told().context, sha256=slow)
    flows = {
        flow_of(1): CURL,
        flow_of(3): CURL,
        flow_of(2): Owner(Grade.EXACT, (Process(9, 1, "/usr/bin/wget"),)),
    }
    loaded = rules(f"{{ app: curl, sha256: {HASH} }}")
    owners = PatientOwners(MemoryOwners(flows), loaded, context)
    assert owners.quick(flow_of(1)) is None
    worker = threading.Thread(target=lambda: list(owners.walk([flow_of(1)])))
    worker.start()
    assert asked.wait(10)
    assert owners.quick(flow_of(2)), "while the worker hashes"
    assert owners.quick(flow_of(3)) is None, "which it has not done yet"
    go.set()
    worker.join(10)
    assert owners.quick(flow_of(1))
