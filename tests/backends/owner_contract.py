"""What every OwnerSource promises; run against the fake and against each real one.

A subclass gives the fixture `case`: a source, flows of living sockets and the pid of their holder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tunowner.core.model import TCP, UDP, FlowKey, Grade, Owner

if TYPE_CHECKING:
    from tunowner.backends.base import OwnerSource

NOWHERE = bytes((192, 0, 2, 1))
"""TEST-NET-1 (RFC 5737): no socket of ours is bound to it."""


@dataclass
class Case:
    source: OwnerSource
    flows: list[FlowKey]
    pid: int


def ask(source: OwnerSource, flow: FlowKey, since: float | None = None) -> Owner:
    """Ask as the engine does: `quick`, and a walk when that does not know."""
    return source.quick(flow, since) or dict(source.walk([flow]))[flow]


class OwnerContract:
    quick_knows: ClassVar[bool] = True
    """Whether `quick` can answer at all: a source that must read whole tables never does."""

    def test_a_walk_answers_every_flow_once(self, case: Case) -> None:
        answers = list(case.source.walk([*case.flows, *case.flows]))
        assert sorted(flow for flow, _ in answers) == sorted(set(case.flows))
        assert {owner.process.pid for _, owner in answers if owner.process} == {case.pid}

    def test_quick_knows_after_a_walk(self, case: Case) -> None:
        walked = dict(case.source.walk(case.flows))
        for flow in case.flows:
            owner = case.source.quick(flow)
            if self.quick_knows:
                assert owner is not None
                assert owner.process == walked[flow].process
            else:
                assert owner is None

    def test_quick_gives_an_answer_or_none(self, case: Case) -> None:
        for flow in case.flows:
            owner = case.source.quick(flow)
            assert owner is None or (owner.process and owner.process.pid == case.pid)

    def test_a_flow_without_a_socket_is_absent_at_once(self, case: Case) -> None:
        for protocol in (TCP, UDP):
            flow = FlowKey(protocol, NOWHERE, 1, NOWHERE, 2)
            owner = case.source.quick(flow) if self.quick_knows else ask(case.source, flow)
            assert owner is not None
            assert (owner.grade, owner.candidates, owner.process) == (Grade.ABSENT, (), None)

    def test_a_walk_says_absent_too(self, case: Case) -> None:
        flow = FlowKey(TCP, NOWHERE, 1, NOWHERE, 2)
        assert dict(case.source.walk([flow]))[flow].grade == Grade.ABSENT

    def test_every_answer_names_its_backend(self, case: Case) -> None:
        assert all(owner.backend for _, owner in case.source.walk(case.flows))

    def test_no_flows_no_answers(self, case: Case) -> None:
        assert list(case.source.walk([])) == []

    def test_a_walk_may_be_left_half_way(self, case: Case) -> None:
        next(case.source.walk(case.flows))
        assert len(dict(case.source.walk(case.flows))) == len(case.flows)

    def test_close_twice(self, case: Case) -> None:
        case.source.close()
        case.source.close()
