"""What every condition is: one key of a `match`, which reads, builds and describes itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .logic import UNKNOWN, Matcher, Tally, Truth, tally_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from tunowner.core.model import Process

    from .findings import BadValueError
    from .nodes import Scalar
    from .subject import Subject

Schema = dict[str, Any]
"""A piece of JSON Schema (draft 2020-12)."""


class Condition(ABC):
    """A key and its values, of which one must fit. `written` is their text in the rule file."""

    __slots__ = ()
    key: ClassVar[str]
    value: ClassVar[Mapping[str, Any]]
    """JSON Schema of one value."""
    written: str
    values: tuple[Any, ...]

    @staticmethod
    @abstractmethod
    def parse(node: Scalar) -> Hashable:
        """Return one value; `BadValueError` if it is none."""

    @classmethod
    @abstractmethod
    def build(cls, written: str, values: Sequence[Any]) -> Self:
        """Return the condition that holds for any of the values, which `parse` returned."""

    @classmethod
    def doubt(cls, _text: str) -> BadValueError | None:
        """Return a warning about the text of a good value, if it is probably not what is meant."""
        return None

    @classmethod
    def schema(cls) -> Schema:
        """Return the JSON Schema of what may stand behind the key: a value, a set, or a list."""
        reference = {"type": "string", "pattern": r"^\$"}
        one = {"anyOf": [dict(cls.value), reference]}
        several = {"type": "array", "minItems": 1, "items": one}
        return {"description": cls.meaning(), "anyOf": [dict(cls.value), reference, several]}

    @classmethod
    def meaning(cls) -> str:
        """Return the class's docstring without the key: what the condition is about."""
        text = " ".join((cls.__doc__ or "").split())
        return text.removeprefix(f"`{cls.key}:` ")

    def __str__(self) -> str:
        return f"{self.key} {self.written}"


class FlowCondition(Condition, Matcher):
    """A condition that needs no process."""

    __slots__ = ()
    cost: ClassVar[int]
    """As `Matcher.price`."""

    @property
    def price(self) -> int:
        return self.cost

    @abstractmethod
    def seen(self, subject: Subject, /) -> str:
        """Say what was found instead. Only asked where `test` was False."""

    def despite(self, subject: Subject, /) -> str:
        return f"{self.key} is {self.seen(subject)}, not {self.written}"

    def lacks(self, _subject: Subject, /) -> str:
        return self.key

    def tally(self, subject: Subject, /) -> Tally:
        return tally_of(self.test(subject), self.key)


class ProcessCondition(Condition):
    """A condition on one process; `Holders` asks it of those that hold the socket."""

    __slots__ = ()
    cost: ClassVar[int]
    """As `Matcher.price`: 1 to 3 for what is at hand, 20 for details, 50 for a hash."""

    @abstractmethod
    def test(self, process: Process, subject: Subject, /) -> Truth:
        """Tell whether the process fits."""

    @abstractmethod
    def because(self, process: Process, subject: Subject, /) -> str:
        """Say why. Only asked where `test` was True."""

    @abstractmethod
    def seen(self, process: Process, subject: Subject, /) -> str:
        """Say what was found instead. Only asked where `test` was False."""

    def despite(self, process: Process, subject: Subject, /) -> str:
        """Say what keeps the process from fitting. Only asked where `test` was False."""
        return f"{self.key} is {self.seen(process, subject)}, not {self.written}"

    def conditions(self) -> Iterator[object]:
        """Yield itself, and conditions that it asks of other processes."""
        yield self

    def without_process(self, _subject: Subject, /) -> Truth:
        """Tell what the socket alone says, where no process is known: mostly nothing."""
        return UNKNOWN

    def seen_without_process(self, _subject: Subject, /) -> str:
        """Say what the socket says. Only asked where `without_process` was False."""
        raise AssertionError(f"{self.key} says nothing of a socket")
