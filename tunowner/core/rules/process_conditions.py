"""Conditions on the process that owns a flow: its program, its user, its number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .condition import ProcessCondition
from .findings import BadValueError, quoted, shown
from .logic import UNKNOWN, Truth
from .moving import doubt_about
from .patterns import Pattern, file_pattern, path_pattern, pattern_text, with_slashes
from .shape import expect_int, wrong_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tunowner.core.model import Process

    from .nodes import Scalar
    from .subject import Subject

_MAX_ID = 0xFFFF_FFFF
"""uid_t is 32 bits; pids are at most 2**22 (proc(5), pid_max), so this bounds both."""


@dataclass(frozen=True, slots=True)
class _Executable(ProcessCondition):
    """Shared by `app:` and `path:`, which differ in how they read their text."""

    cost: ClassVar[int] = 3
    written: str
    values: tuple[Pattern, ...]
    literals: frozenset[str]
    """Names and whole paths: no name holds a `/` and every path does, so they cannot be confused."""
    patterns: tuple[Pattern, ...]

    @classmethod
    def doubt(cls, text: str) -> BadValueError | None:
        """Warn of paths that will move."""
        return doubt_about(text)

    @classmethod
    def build(cls, written: str, values: Sequence[Pattern]) -> Self:
        literals = frozenset(value.text for value in values if value.is_literal)
        return cls(
            written,
            tuple(values),
            literals,
            tuple(value for value in values if not value.is_literal),
        )

    def test(self, process: Process, _subject: Subject, /) -> Truth:
        if process.path is None:
            return UNKNOWN
        return self._fitting(process.path) is not None

    def _fitting(self, raw_path: str) -> str | None:
        """Return the text of a pattern that fits."""
        path = with_slashes(raw_path)
        name = path.rpartition("/")[2]
        for literal in (name, path):
            if literal in self.literals:
                return literal
        for pattern in self.patterns:
            if pattern.fits(name if pattern.on_name else path):
                return pattern.text
        return None

    def because(self, process: Process, _subject: Subject, /) -> str:
        path = process.path or ""
        pattern = self._fitting(path) or ""
        return f"{self.key} {quoted(pattern)} is {shown(path)}"

    def seen(self, process: Process, _subject: Subject, /) -> str:
        return shown(process.path or "")


@dataclass(frozen=True, slots=True)
class App(_Executable):
    """`app:` a name, a path, a folder (`/` at the end) or `re:` and a regular expression."""

    key: ClassVar[str] = "app"
    value: ClassVar[Mapping[str, Any]] = {"type": "string", "minLength": 1}

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        return file_pattern(pattern_text(node))


@dataclass(frozen=True, slots=True)
class Path(_Executable):
    """`path:` a glob for the whole path of the executable."""

    key: ClassVar[str] = "path"
    value: ClassVar[Mapping[str, Any]] = {"type": "string", "minLength": 1}

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        return path_pattern(pattern_text(node))


@dataclass(frozen=True, slots=True)
class Pid(ProcessCondition):
    """`pid:` a process number. It is reused after the process ends, so it suits short tests."""

    key: ClassVar[str] = "pid"
    value: ClassVar[Mapping[str, Any]] = {"type": "integer", "minimum": 1, "maximum": _MAX_ID}
    cost: ClassVar[int] = 1
    written: str
    values: tuple[int, ...]
    pids: frozenset[int]

    @staticmethod
    def parse(node: Scalar) -> int:
        pid = expect_int(node)
        if not 1 <= pid <= _MAX_ID:
            raise BadValueError("E108", f"{pid} is no process number", "write 1 or more")
        return pid

    @classmethod
    def build(cls, written: str, values: Sequence[int]) -> Self:
        return cls(written, tuple(values), frozenset(values))

    def test(self, process: Process, _subject: Subject, /) -> Truth:
        return process.pid in self.pids if process.pid else UNKNOWN

    def because(self, process: Process, _subject: Subject, /) -> str:
        return f"pid {process.pid}"

    def seen(self, process: Process, _subject: Subject, /) -> str:
        return str(process.pid)


@dataclass(frozen=True, slots=True)
class User(ProcessCondition):
    """`user:` a name or a uid; of the process, or of the socket where no process is known."""

    key: ClassVar[str] = "user"
    value: ClassVar[Mapping[str, Any]] = {
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": _MAX_ID},
            {"type": "string", "minLength": 1},
        ]
    }
    cost: ClassVar[int] = 2
    written: str
    values: tuple[int | str, ...]
    uids: frozenset[int]
    names: frozenset[str]

    @staticmethod
    def parse(node: Scalar) -> int | str:
        """Return a uid, also for digits in quotes, else a name."""
        if node.value in (None, "") or isinstance(node.value, bool):
            raise wrong_type(node, "a user name or a uid")
        if isinstance(node.value, str) and not node.text.isdecimal():
            return node.value
        uid = int(node.text[:11]) if isinstance(node.value, str) else node.value
        if not 0 <= uid <= _MAX_ID:
            raise BadValueError("E107", f"{node.text} is no uid", f"write 0 to {_MAX_ID}")
        return uid

    @classmethod
    def build(cls, written: str, values: Sequence[int | str]) -> Self:
        uids = frozenset(value for value in values if isinstance(value, int))
        return cls(
            written,
            tuple(values),
            uids,
            frozenset(value for value in values if isinstance(value, str)),
        )

    def test(self, process: Process, _subject: Subject, /) -> Truth:
        return self._test(process.uid, process.user)

    def without_process(self, subject: Subject, /) -> Truth:
        return self._test(subject.owner.uid, subject.owner.user)

    def seen_without_process(self, subject: Subject, /) -> str:
        return shown(subject.owner.user or str(subject.owner.uid))

    def _test(self, uid: int | None, name: str | None) -> Truth:
        if uid in self.uids or name in self.names:
            return True
        unclear = (self.uids and uid is None) or (self.names and name is None)
        return UNKNOWN if unclear else False

    def because(self, process: Process, subject: Subject, /) -> str:
        return f"user {self.seen(process, subject)}"

    def seen(self, process: Process, _subject: Subject, /) -> str:
        return shown(process.user or str(process.uid))
