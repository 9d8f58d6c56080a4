"""Rules that end: `expires: 2026-12-01T00:00:00Z`, `for: 1h30m` from loading, `until: restart`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .findings import BadValueError, quoted
from .logic import Matcher, Tally, Truth
from .shape import expect_text

if TYPE_CHECKING:
    from .nodes import Scalar
    from .subject import Subject

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:([0-9]{1,5})d)?(?:([0-9]{1,5})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,7})s)?")
RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Until(Matcher):
    """Holds until a moment. `ends_at` is in seconds since the epoch."""

    ends_at: float

    @property
    def price(self) -> int:
        return 2

    def test(self, subject: Subject, /) -> Truth:
        return subject.context.now() < self.ends_at

    def because(self, _subject: Subject, /) -> str:
        return str(self)

    def despite(self, _subject: Subject, /) -> str:
        return f"it ended at {self.moment}"

    def tally(self, subject: Subject, /) -> Tally:
        # An end is still to come for every flow: nothing that a flow could be near by.
        return Tally(0, () if self.test(subject) else ("its end",))

    @property
    def moment(self) -> str:
        """The end as text."""
        return datetime.fromtimestamp(self.ends_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def __str__(self) -> str:
        return f"until {self.moment}"


@dataclass(frozen=True, slots=True)
class Over(Matcher):
    """`until: restart`, and there has been one."""

    @property
    def price(self) -> int:
        return 0

    def test(self, _subject: Subject, /) -> Truth:
        return False

    def because(self, _subject: Subject, /) -> str:
        raise AssertionError("it has ended")

    def despite(self, _subject: Subject, /) -> str:
        return "it ended with the restart"

    def __str__(self) -> str:
        return "until restart"


def read_moment(node: Scalar) -> float:
    """Read an ISO 8601 moment with its offset from UTC; seconds since the epoch."""
    text = expect_text(node)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        hint = "write 2026-12-31T23:59:00Z, with Z or an offset such as +01:00"
        raise BadValueError("E122", f"{quoted(text)} is no moment", hint)
    try:
        return moment.timestamp()
    except (OverflowError, ValueError):
        raise BadValueError("E122", f"{quoted(text)} is no moment", "") from None


def read_duration(node: Scalar) -> int:
    """Read a duration such as 15m or 1h30m; seconds."""
    text = node.text  # a bare number is no duration either
    found = _DURATION.fullmatch(text)
    numbers = found.groups() if found else ()
    seconds = sum(
        int(number) * size
        for number, size in zip(numbers, _SECONDS.values(), strict=False)
        if number
    )
    if not 0 < seconds <= 10_000 * _SECONDS["d"]:
        hint = "write 30s, 15m, 12h, 7d or 1h30m"
        raise BadValueError("E123", f"{quoted(text)} is no duration", hint)
    return seconds


def read_restart(node: Scalar) -> str:
    """Read the one word that `until` takes."""
    text = expect_text(node)
    if text != RESTART:
        hint = "write until: restart; for a moment write expires: 2026-12-31T23:59:00Z"
        raise BadValueError("E124", f"{quoted(text)} is nothing that ends a rule", hint)
    return text
