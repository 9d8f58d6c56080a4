"""The table that every benchmark prints: what, ours, peer, ratio, target, reached."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Row:
    """One measurement. `reached` is None where nothing was promised."""

    what: str
    ours: float
    unit: str
    peer: float | None = None
    peer_is: str = ""
    target: str = ""
    reached: bool | None = None

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    def cells(self) -> list[str]:
        """Return the columns as text."""
        peer = "" if self.peer is None else f"{number(self.peer)} {self.peer_is}".strip()
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        if self.ratio and self.ratio < 0.01:
            ratio = f"1/{1 / self.ratio:,.0f}"
        reached = {None: "", True: "yes", False: "no"}[self.reached]
        return [self.what, f"{number(self.ours)} {self.unit}", peer, ratio, self.target, reached]


@dataclass
class Report:
    """Rows, and remarks about how far they can be trusted."""

    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(
        self,
        what: str,
        ours: float,
        unit: str,
        *,
        peer: float | None = None,
        peer_is: str = "",
        at_most: float | None = None,
        at_least: float | None = None,
        of: str = "ours",
    ) -> None:
        """Add a row; the target is about `ours`, the `ratio`, or what is `added` to the peer."""
        row = Row(what, ours, unit, peer, peer_is)
        value = {"ours": ours, "ratio": row.ratio or 0.0, "added": ours - (peer or 0.0)}[of]
        if at_most is not None:
            row = Row(*_known(row), _target(of, "<=", at_most), value <= at_most)
        if at_least is not None:
            row = Row(*_known(row), _target(of, ">=", at_least), value >= at_least)
        self.rows.append(row)

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    def noise(self, what: str, rounds: Sequence[float]) -> None:
        """Say how much a peer, measured again and again, differs from itself."""
        middle = statistics.median(rounds)
        spread = (max(rounds) - min(rounds)) / middle
        self.remark(f"noise: {what} over {len(rounds)} rounds: {number(middle)} +- {spread:.0%}")

    def show(self, *, as_json: bool) -> None:
        self.remark(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        if as_json:
            rows = [{**asdict(row), "ratio": row.ratio} for row in self.rows]
            print(json.dumps({"rows": rows, "remarks": self.remarks}))
            return
        table = [["what", "ours", "peer", "ratio", "target", "reached"]]
        table += [row.cells() for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for cells in table:
            padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            print("  ".join(padded).rstrip())
        for remark in self.remarks:
            print(f"  {remark}")


def _known(row: Row) -> tuple[str, float, str, float | None, str]:
    return row.what, row.ours, row.unit, row.peer, row.peer_is


def _target(of: str, relation: str, limit: float) -> str:
    subject = {"ours": "", "ratio": "ratio ", "added": "added "}[of]
    return f"{subject}{relation} {limit:g}"


def number(value: float) -> str:
    """Return three digits that matter, and no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
