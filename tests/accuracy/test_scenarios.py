"""Each row of the table: tunowner is never wrong, and right where it can be known."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import pytest

from tests.accuracy.baselines import baselines
from tests.accuracy.model import Unavailable
from tests.accuracy.scenarios import SCENARIOS

if TYPE_CHECKING:
    from tests.accuracy.arena import Arena
    from tests.accuracy.model import Scenario, Scores

ROWS = [
    pytest.param(row, id=row.name, marks=[pytest.mark.root] if row.root else [])
    for row in SCENARIOS
]


NO_BTF = "eBPF, no BTF"
KNOWN = {
    "exec closes the socket": (
        NO_BTF,
        "a note without start and exec id is taken for whatever program has the pid now",
    ),
    "port reused: the earlier sender is asked about late": (
        NO_BTF,
        "the note of the sender that has gone is passed over, and the next holder is named",
    ),
}
"""What is known to be wrong, and why. Once it is right, the test fails until it leaves this list."""


@pytest.mark.parametrize("row", ROWS)
def test_never_wrong(arena: Arena, row: Scenario) -> None:
    try:
        failures = arena.play(row)
    except Unavailable as reason:
        pytest.skip(str(reason))
    known, why = KNOWN.get(row.name, ("", ""))
    expected = failures.pop(known, [])
    assert not failures, "\n".join(chain.from_iterable(failures.values()))
    if known in [each.name for each in arena.contestants]:
        assert expected, f"{known} is right now: take the row out of KNOWN"
        pytest.xfail(f"{known}: {why}")


def test_every_row_has_its_name() -> None:
    assert len({row.name for row in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.parametrize("name", [each.name for each in baselines()])
def test_the_suite_can_tell(scores: Scores, name: str) -> None:
    """A suite that finds nobody wrong proves nothing."""
    if len(scores.tallies) < len(SCENARIOS) // 2:
        pytest.skip("most rows were not played")
    total = scores.total(name)
    assert total.wrong > 0
    assert total.right > 0
