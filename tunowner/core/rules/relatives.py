"""Conditions on the parent of a process, or on any of its ancestors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .condition import ProcessCondition, Schema
from .findings import shown
from .logic import UNKNOWN, Truth, every, some
from .moving import doubt_about
from .patterns import Pattern, file_pattern, pattern_text
from .process_conditions import App

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tunowner.core.model import Process

    from .findings import BadValueError
    from .nodes import Scalar
    from .subject import Subject

Alternative = tuple[ProcessCondition, ...]
"""Conditions that one and the same process must fit."""


@dataclass(frozen=True, slots=True)
class Relative(ProcessCondition):
    """Shared by `parent:` and `ancestor:`, which differ in whom they look at.

    `values` are the patterns and alternatives as written, `alternatives` what is asked.
    """

    cost: ClassVar[int] = 25
    value: ClassVar[Mapping[str, Any]] = {"type": "string", "minLength": 1}
    written: str
    values: tuple[Pattern | Alternative, ...]
    alternatives: tuple[Alternative, ...]

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        return file_pattern(pattern_text(node))

    @classmethod
    def doubt(cls, text: str) -> BadValueError | None:
        """Warn of paths that will move."""
        return doubt_about(text)

    @classmethod
    def build(cls, written: str, values: Sequence[Any]) -> Self:
        patterns = [value for value in values if isinstance(value, Pattern)]
        nested = [value for value in values if not isinstance(value, Pattern)]
        programs = [(App.build(written, patterns),)] if patterns else []
        return cls(written, tuple(values), (*programs, *nested))

    @classmethod
    def schema(cls) -> Schema:
        """Return the schema of a program, or of conditions on the relative (a definition)."""
        either = [{"type": "string", "minLength": 1}, {"$ref": "#/definitions/process"}]
        several = {"type": "array", "minItems": 1, "items": {"anyOf": either}}
        return {"description": cls.meaning(), "anyOf": [*either, several]}

    def conditions(self) -> Iterator[object]:
        yield self
        for part in chain.from_iterable(self.alternatives):
            yield from part.conditions()

    def _fits(self, process: Process, subject: Subject) -> Truth:
        return some(
            every(part.test(process, subject) for part in alternative)
            for alternative in self.alternatives
        )

    def because(self, process: Process, subject: Subject, /) -> str:
        found = next(it for it in self._relatives(process, subject) if self._fits(it, subject))
        return f"{self.key} {_name(found)}"

    def seen(self, process: Process, subject: Subject, /) -> str:
        return " < ".join(map(_name, self._relatives(process, subject))) or "nobody"

    def _relatives(self, process: Process, subject: Subject) -> tuple[Process, ...]:
        details = subject.details(process)
        return self.whom(details.parents) if details else ()

    @staticmethod
    def whom(parents: tuple[Process, ...]) -> tuple[Process, ...]:
        """Return those who are meant, of the parents of a process, the nearest first."""
        return parents


def _name(process: Process) -> str:
    return shown(process.name or f"pid {process.pid}")


@dataclass(frozen=True, slots=True)
class Parent(Relative):
    """`parent:` the process that started this one: as `app`, or conditions on it in a mapping."""

    key: ClassVar[str] = "parent"

    def test(self, process: Process, subject: Subject, /) -> Truth:
        details = subject.details(process)
        if details is None:
            return UNKNOWN
        if not details.parents:
            return False if details.parents_whole else UNKNOWN
        return self._fits(details.parents[0], subject)

    @staticmethod
    def whom(parents: tuple[Process, ...]) -> tuple[Process, ...]:
        return parents[:1]


@dataclass(frozen=True, slots=True)
class Ancestor(Relative):
    """`ancestor:` any process above this one: as `app`, or conditions on it in a mapping."""

    key: ClassVar[str] = "ancestor"

    def test(self, process: Process, subject: Subject, /) -> Truth:
        details = subject.details(process)
        if details is None:
            return UNKNOWN
        truth = some(self._fits(parent, subject) for parent in details.parents)
        return truth if truth or details.parents_whole else UNKNOWN
