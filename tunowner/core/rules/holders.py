"""How several holders of one socket are judged."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Self

from tunowner.core.model import Grade

from .logic import UNKNOWN, Matcher, Tally, Truth, agreed, every, some, tally_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tunowner.core.model import Process

    from .condition import ProcessCondition
    from .subject import Subject

_SURE = frozenset((Grade.EXACT, Grade.WILDCARD))


@dataclass(frozen=True, slots=True)
class Holders(Matcher):
    """The process conditions of one mapping: one and the same holder must fit them all.

    Several processes may hold one socket. If the owner is sure, any of them may match; if they are
    only candidates, they must all agree. Without candidates the socket's own facts count.
    """

    parts: tuple[ProcessCondition, ...]
    ordered: tuple[ProcessCondition, ...]
    price: int

    @classmethod
    def of(cls, parts: Iterable[ProcessCondition]) -> Self:
        written = tuple(parts)
        ordered = tuple(sorted(written, key=lambda part: part.cost))
        return cls(written, ordered, 1 + sum(part.cost for part in written))

    def test(self, subject: Subject, /) -> Truth:
        candidates = subject.owner.candidates
        if not candidates:
            return every(part.without_process(subject) for part in self.ordered)
        if len(candidates) == 1:
            return self._fits(candidates[0], subject)
        truths = (self._fits(process, subject) for process in candidates)
        return some(truths) if subject.owner.grade in _SURE else agreed(truths)

    def _fits(self, process: Process, subject: Subject) -> Truth:
        # Written out rather than `every(generator)`: half the time, on the path of each new flow.
        result: Truth = True
        for part in self.ordered:
            truth = part.test(process, subject)
            if truth is False:
                return False
            if truth is UNKNOWN:
                result = UNKNOWN
        return result

    def conditions(self) -> Iterator[object]:
        return chain.from_iterable(part.conditions() for part in self.parts)

    def because(self, subject: Subject, /) -> str:
        candidates = subject.owner.candidates
        for process in candidates:
            if len(candidates) == 1 or self._fits(process, subject):
                return "; ".join(part.because(process, subject) for part in self.parts)
        return str(self)

    def despite(self, subject: Subject, /) -> str:
        """Say what the holder that comes nearest fails; others are counted."""
        candidates = subject.owner.candidates
        if not candidates:
            part = next(it for it in self.parts if it.without_process(subject) is False)
            return f"{part.key} is {part.seen_without_process(subject)}, not {part.written}"
        nearest = min(candidates, key=lambda it: len(self._tally(it, subject).failing))
        part = next(it for it in self.parts if it.test(nearest, subject) is False)
        others = len(candidates) - 1
        more = f" (and {others} more processes hold the socket)" if others else ""
        return part.despite(nearest, subject) + more

    def lacks(self, subject: Subject, /) -> str:
        """Name what is unknown, or all of it where the holders merely disagree."""
        candidates = subject.owner.candidates
        if not candidates:
            missing = [part.key for part in self.parts if part.without_process(subject) is UNKNOWN]
        else:
            missing = [part.key for part in self.parts if self._unclear(part, subject)]
        return missing[0] if missing else self.parts[0].key

    @staticmethod
    def _unclear(part: ProcessCondition, subject: Subject) -> bool:
        truths = (part.test(process, subject) for process in subject.owner.candidates)
        return agreed(truths) is UNKNOWN

    def tally(self, subject: Subject, /) -> Tally:
        """Count for the holder that comes nearest."""
        candidates = subject.owner.candidates
        if not candidates:
            truths = ((part.without_process(subject), part.key) for part in self.parts)
            return Tally.total(tally_of(truth, key) for truth, key in truths)
        tallies = (self._tally(process, subject) for process in candidates)
        return min(tallies, key=lambda tally: len(tally.failing))

    def _tally(self, process: Process, subject: Subject) -> Tally:
        truths = ((part.test(process, subject), part.key) for part in self.parts)
        return Tally.total(tally_of(truth, key) for truth, key in truths)

    def __str__(self) -> str:
        return "; ".join(map(str, self.parts))
