"""Three-valued logic (Kleene) and the tree that a rule's `match` compiles to.

A condition is True, False or UNKNOWN. Unknown is not false: `not` of it is unknown again, so no
rule ever matches on something that nobody knows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .subject import Subject

Truth = bool | None
UNKNOWN: Final = None
"""Spelled None so that `if truth` means "surely", in one pointer comparison."""


def every(truths: Iterable[Truth]) -> Truth:
    """And: False if one is False, else UNKNOWN if one is UNKNOWN; reads no more than it needs."""
    result: Truth = True
    for truth in truths:
        if truth is False:
            return False
        if truth is UNKNOWN:
            result = UNKNOWN
    return result


def some(truths: Iterable[Truth]) -> Truth:
    """Or: True if one is True, else UNKNOWN if one is UNKNOWN; reads no more than it needs."""
    result: Truth = False
    for truth in truths:
        if truth:
            return True
        if truth is UNKNOWN:
            result = UNKNOWN
    return result


def agreed(truths: Iterable[Truth]) -> Truth:
    """Return what all say, UNKNOWN if they differ; `truths` holds at least one."""
    return found.pop() if len(found := set(truths)) == 1 else UNKNOWN


def negated(truth: Truth) -> Truth:
    return UNKNOWN if truth is UNKNOWN else not truth


class Tally(NamedTuple):
    """How near a match is: how many of the conditions that must hold do, and which do not."""

    holding: int
    failing: tuple[str, ...]

    @classmethod
    def total(cls, tallies: Iterable[Tally]) -> Tally:
        counted = list(tallies)
        failing = (name for tally in counted for name in tally.failing)
        return cls(sum(tally.holding for tally in counted), tuple(failing))


class Matcher(ABC):
    """One node of a compiled `match`: immutable, without I/O, safe to share.

    `str()` gives it as the rule file says it. `because`, `despite` and `lacks` put an answer of
    `test` in words, True, False and UNKNOWN respectively; each is only asked after that answer.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def price(self) -> int:
        """What a test costs, roughly; where order does not matter the cheap are asked first."""

    @abstractmethod
    def test(self, subject: Subject, /) -> Truth:
        """Tell whether the flow matches."""

    @abstractmethod
    def because(self, subject: Subject, /) -> str:
        """Say why it does, in one line."""

    @abstractmethod
    def despite(self, subject: Subject, /) -> str:
        """Say what keeps it from matching, in one line."""

    def lacks(self, _subject: Subject, /) -> str:
        """Name the condition that is unknown."""
        raise AssertionError(f"{self} is never unknown")

    def conditions(self) -> Iterator[object]:
        """Yield the leaves of the tree: what is asked in the end."""
        yield self

    def tally(self, subject: Subject, /) -> Tally:
        """Count the conditions that must all hold."""
        return tally_of(self.test(subject), str(self))


def tally_of(truth: Truth, name: str) -> Tally:
    """Return the tally of a single condition."""
    return Tally(1, ()) if truth else Tally(0, (name,))


@dataclass(frozen=True, slots=True)
class Anything(Matcher):
    """`match: any`."""

    @property
    def price(self) -> int:
        return 0

    def test(self, _subject: Subject, /) -> Truth:
        return True

    def because(self, _subject: Subject, /) -> str:
        return "any flow"

    def despite(self, _subject: Subject, /) -> str:
        raise AssertionError("every flow matches")

    def __str__(self) -> str:
        return "any"


@dataclass(frozen=True, slots=True)
class All(Matcher):
    """And. `parts` as written, for people; `ordered` by cost, for speed."""

    parts: tuple[Matcher, ...]
    ordered: tuple[Matcher, ...]
    price: int

    @classmethod
    def of(cls, parts: Iterable[Matcher]) -> Matcher:
        """Return the conjunction of at least one part."""
        written = tuple(parts)
        if len(written) == 1:
            return written[0]
        price = 1 + sum(part.price for part in written)
        return cls(written, tuple(sorted(written, key=lambda part: part.price)), price)

    def test(self, subject: Subject, /) -> Truth:
        # Written out rather than `every(generator)`: half the time, on the path of each new flow.
        result: Truth = True
        for part in self.ordered:
            truth = part.test(subject)
            if truth is False:
                return False
            if truth is UNKNOWN:
                result = UNKNOWN
        return result

    def conditions(self) -> Iterator[object]:
        return chain.from_iterable(part.conditions() for part in self.parts)

    def because(self, subject: Subject, /) -> str:
        return "; ".join(part.because(subject) for part in self.parts)

    def despite(self, subject: Subject, /) -> str:
        return _first(self.parts, subject, False).despite(subject)

    def lacks(self, subject: Subject, /) -> str:
        return _first(self.parts, subject, UNKNOWN).lacks(subject)

    def tally(self, subject: Subject, /) -> Tally:
        return Tally.total(part.tally(subject) for part in self.parts)

    def __str__(self) -> str:
        return "; ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class Any(Matcher):
    """Or."""

    parts: tuple[Matcher, ...]
    price: int

    @classmethod
    def of(cls, parts: Iterable[Matcher]) -> Matcher:
        """Return the disjunction of at least one part."""
        written = tuple(parts)
        return cls(written, 1 + sum(part.price for part in written))

    def test(self, subject: Subject, /) -> Truth:
        return some(part.test(subject) for part in self.parts)

    def conditions(self) -> Iterator[object]:
        return chain.from_iterable(part.conditions() for part in self.parts)

    def because(self, subject: Subject, /) -> str:
        return _first(self.parts, subject, True).because(subject)

    def despite(self, subject: Subject, /) -> str:
        return "none of: " + ", ".join(part.despite(subject) for part in self.parts)

    def lacks(self, subject: Subject, /) -> str:
        return _first(self.parts, subject, UNKNOWN).lacks(subject)

    def __str__(self) -> str:
        return "any of (" + " | ".join(map(str, self.parts)) + ")"


@dataclass(frozen=True, slots=True)
class Not(Matcher):
    """Negation; unknown stays unknown."""

    part: Matcher
    price: int

    @classmethod
    def of(cls, part: Matcher) -> Matcher:
        return cls(part, 1 + part.price)

    def test(self, subject: Subject, /) -> Truth:
        return negated(self.part.test(subject))

    def conditions(self) -> Iterator[object]:
        return self.part.conditions()

    def because(self, _subject: Subject, /) -> str:
        return f"not ({self.part})"

    def despite(self, subject: Subject, /) -> str:
        return f"not: {self.part.because(subject)}"

    def lacks(self, subject: Subject, /) -> str:
        return self.part.lacks(subject)

    def __str__(self) -> str:
        return f"not ({self.part})"


def _first(parts: tuple[Matcher, ...], subject: Subject, truth: Truth) -> Matcher:
    return next(part for part in parts if part.test(subject) is truth)
