"""The scores as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.model import Scores, Tally

NAME = 62
COLUMN = 19


def lines(scores: Scores) -> Iterator[str]:
    """Yield the table; each cell is right/wrong/abstained."""
    names = scores.contestants
    yield _line("right/wrong/abstained", names)
    for row, tallies in scores.tallies.items():
        yield _line(row, [_cell(tallies.get(name)) for name in names])
    for row, reason in scores.unavailable.items():
        yield f"{row:<{NAME}} not played: {reason}"
    yield _line("total", [str(scores.total(name)) for name in names])
    yield ""
    yield from scores.figures


def _line(name: str, cells: list[str]) -> str:
    return f"{name:<{NAME}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


def _cell(tally: Tally | None) -> str:
    if tally is None:
        return "-"
    return f"{'! ' if tally.wrong else ''}{tally}"
