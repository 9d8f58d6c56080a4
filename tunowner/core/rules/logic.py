"""Three-valued logic (Kleene) and the tree that a rule's `match` compiles to.

A condition is True, False or UNKNOWN. Unknown is not false: `not` of it is unknown again, so no
rule ever matches on something that nobody knows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunowner.core.model import FlowKey, Owner

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


class Matcher(ABC):
    """One node of a compiled `match`: immutable, without I/O, safe to share.

    `str()` gives it as the rule file says it.
    """

    __slots__ = ()
    cost: ClassVar[int]
    """Rough price of a test; where order does not matter the cheap are asked first."""

    @abstractmethod
    def test(self, flow: FlowKey, owner: Owner, /) -> Truth:
        """Tell whether the flow matches."""

    @abstractmethod
    def because(self, flow: FlowKey, owner: Owner, /) -> str:
        """Say why, in one line. Only asked where `test` was True."""

    def lacks(self, _flow: FlowKey, _owner: Owner, /) -> str:
        """Name the condition that is unknown. Only asked where `test` was UNKNOWN."""
        raise AssertionError(f"{self} is never unknown")


@dataclass(frozen=True, slots=True)
class Anything(Matcher):
    """`match: any`."""

    cost: ClassVar[int] = 0

    def test(self, _flow: FlowKey, _owner: Owner, /) -> Truth:
        return True

    def because(self, _flow: FlowKey, _owner: Owner, /) -> str:
        return "any flow"

    def __str__(self) -> str:
        return "any"


@dataclass(frozen=True, slots=True)
class All(Matcher):
    """And. `parts` as written, for people; `ordered` by cost, for speed."""

    cost: ClassVar[int] = 8
    parts: tuple[Matcher, ...]
    ordered: tuple[Matcher, ...]

    @classmethod
    def of(cls, parts: Iterable[Matcher]) -> Matcher:
        """Return the conjunction of at least one part."""
        written = tuple(parts)
        if len(written) == 1:
            return written[0]
        return cls(written, tuple(sorted(written, key=lambda part: part.cost)))

    def test(self, flow: FlowKey, owner: Owner, /) -> Truth:
        # Written out rather than `every(generator)`: half the time, on the path of each new flow.
        result: Truth = True
        for part in self.ordered:
            truth = part.test(flow, owner)
            if truth is False:
                return False
            if truth is UNKNOWN:
                result = UNKNOWN
        return result

    def because(self, flow: FlowKey, owner: Owner, /) -> str:
        return "; ".join(part.because(flow, owner) for part in self.parts)

    def lacks(self, flow: FlowKey, owner: Owner, /) -> str:
        return _first_unknown(self.parts, flow, owner).lacks(flow, owner)

    def __str__(self) -> str:
        return "; ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class Any(Matcher):
    """Or."""

    cost: ClassVar[int] = 8
    parts: tuple[Matcher, ...]

    def test(self, flow: FlowKey, owner: Owner, /) -> Truth:
        return some(part.test(flow, owner) for part in self.parts)

    def because(self, flow: FlowKey, owner: Owner, /) -> str:
        part = next(part for part in self.parts if part.test(flow, owner))
        return part.because(flow, owner)

    def lacks(self, flow: FlowKey, owner: Owner, /) -> str:
        return _first_unknown(self.parts, flow, owner).lacks(flow, owner)

    def __str__(self) -> str:
        return "any of (" + " | ".join(map(str, self.parts)) + ")"


@dataclass(frozen=True, slots=True)
class Not(Matcher):
    """Negation; unknown stays unknown."""

    cost: ClassVar[int] = 8
    part: Matcher

    def test(self, flow: FlowKey, owner: Owner, /) -> Truth:
        return negated(self.part.test(flow, owner))

    def because(self, _flow: FlowKey, _owner: Owner, /) -> str:
        return f"not ({self.part})"

    def lacks(self, flow: FlowKey, owner: Owner, /) -> str:
        return self.part.lacks(flow, owner)

    def __str__(self) -> str:
        return f"not ({self.part})"


def _first_unknown(parts: tuple[Matcher, ...], flow: FlowKey, owner: Owner) -> Matcher:
    return next(part for part in parts if part.test(flow, owner) is UNKNOWN)
