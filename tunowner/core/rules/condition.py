"""What every condition is: one key of a `match`, which reads, builds and describes itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .logic import UNKNOWN, Matcher, Truth

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from tunowner.core.model import Owner, Process

    from .nodes import Scalar


class Condition(ABC):
    """A key and its values, of which one must fit. `written` is their text in the rule file."""

    __slots__ = ()
    key: ClassVar[str]
    written: str

    @staticmethod
    @abstractmethod
    def parse(node: Scalar) -> Hashable:
        """Return one value; `BadValueError` if it is none."""

    @classmethod
    @abstractmethod
    def build(cls, written: str, values: Sequence[Any]) -> Self:
        """Return the condition that holds for any of the values, which `parse` returned."""

    def __str__(self) -> str:
        return f"{self.key} {self.written}"


class FlowCondition(Condition, Matcher):
    """A condition that needs no process, and so is never unknown."""

    __slots__ = ()


class ProcessCondition(Condition):
    """A condition on one process; `Holders` asks it of those that hold the socket."""

    __slots__ = ()
    cost: ClassVar[int]
    """As `Matcher.cost`."""

    @abstractmethod
    def test(self, process: Process) -> Truth:
        """Tell whether the process fits."""

    @abstractmethod
    def because(self, process: Process) -> str:
        """Say why. Only asked where `test` was True."""

    def without_process(self, _owner: Owner, /) -> Truth:
        """Tell what the socket alone says, where no process is known: mostly nothing."""
        return UNKNOWN
