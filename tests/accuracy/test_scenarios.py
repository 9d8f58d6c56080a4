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


@pytest.mark.parametrize("row", ROWS)
def test_never_wrong(arena: Arena, row: Scenario) -> None:
    try:
        failures = arena.play(row)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert not failures, "\n".join(chain.from_iterable(failures.values()))


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
