from __future__ import annotations

import pytest

from tests.backends.owner_contract import Case, OwnerContract
from tunowner.backends.memory import MemoryOwners
from tunowner.core.model import TCP, FlowKey, Grade, Owner, Process

FLOWS = [FlowKey(TCP, bytes((10, 0, 0, 1)), port, bytes((10, 0, 0, 2)), 80) for port in (1, 2)]
OWNER = Owner(Grade.EXACT, (Process(7, 1, "/bin/x"),))


class TestMemoryOwners(OwnerContract):
    @pytest.fixture
    def case(self) -> Case:
        source = MemoryOwners({FLOWS[0]: OWNER})
        source.put(FLOWS[1], OWNER, slow=True)
        return Case(source, FLOWS, 7)


def test_a_slow_flow_needs_a_walk() -> None:
    source = MemoryOwners()
    source.put(FLOWS[0], OWNER, slow=True)
    assert source.quick(FLOWS[0]) is None
    assert dict(source.walk(FLOWS))[FLOWS[0]].process == OWNER.process
    assert source.quick(FLOWS[0]) is not None
    assert source.walked == [tuple(FLOWS)]


def test_a_removed_flow_is_absent() -> None:
    source = MemoryOwners({FLOWS[0]: OWNER})
    source.remove(FLOWS[0])
    assert source.quick(FLOWS[0]) == Owner(Grade.ABSENT, backend="memory")
