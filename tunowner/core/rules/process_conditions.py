"""Conditions on the process that owns a flow, and how several holders of one socket are judged."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from tunowner.core.model import FlowKey, Grade, Owner, Process

from .condition import ProcessCondition
from .findings import BadValueError, quoted, shown
from .globs import compile_glob, is_literal
from .logic import UNKNOWN, Matcher, Truth, agreed, every, some
from .shape import expect_int, expect_text, wrong_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .nodes import Scalar

_SURE = frozenset((Grade.EXACT, Grade.WILDCARD))
_ABSOLUTE = re.compile(r"/|[A-Za-z]:/|\*\*")
_REGEX_PREFIX = "re:"
_MAX_ID = 0xFFFF_FFFF
"""uid_t is 32 bits; pids are at most 2**22 (proc(5), pid_max), so this bounds both."""


@dataclass(frozen=True, slots=True)
class Holders(Matcher):
    """The process conditions of one mapping: one and the same holder must fit them all.

    Several processes may hold one socket. If the owner is sure, any of them may match; if they are
    only candidates, they must all agree. Without candidates the socket's own facts count.
    """

    cost: ClassVar[int] = 5
    parts: tuple[ProcessCondition, ...]
    ordered: tuple[ProcessCondition, ...]

    @classmethod
    def of(cls, parts: Iterable[ProcessCondition]) -> Self:
        written = tuple(parts)
        return cls(written, tuple(sorted(written, key=lambda part: part.cost)))

    def test(self, _flow: FlowKey, owner: Owner, /) -> Truth:
        if not owner.candidates:
            return every(part.without_process(owner) for part in self.ordered)
        if len(owner.candidates) == 1:
            return self._fits(owner.candidates[0])
        truths = (self._fits(process) for process in owner.candidates)
        return some(truths) if owner.grade in _SURE else agreed(truths)

    def _fits(self, process: Process) -> Truth:
        # Written out rather than `every(generator)`: half the time, on the path of each new flow.
        result: Truth = True
        for part in self.ordered:
            truth = part.test(process)
            if truth is False:
                return False
            if truth is UNKNOWN:
                result = UNKNOWN
        return result

    def because(self, _flow: FlowKey, owner: Owner, /) -> str:
        for process in owner.candidates:
            if self._fits(process):
                return "; ".join(part.because(process) for part in self.parts)
        return str(self)

    def lacks(self, _flow: FlowKey, owner: Owner, /) -> str:
        """Name what is unknown, or all of it where the holders merely disagree."""
        if not owner.candidates:
            missing = [part.key for part in self.parts if part.without_process(owner) is UNKNOWN]
        else:
            missing = [part.key for part in self.parts if self._unclear(part, owner)]
        return missing[0] if missing else self.parts[0].key

    @staticmethod
    def _unclear(part: ProcessCondition, owner: Owner) -> bool:
        return agreed(part.test(process) for process in owner.candidates) is UNKNOWN

    def __str__(self) -> str:
        return "; ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern for an executable. `regex` is None for a literal, which is compared whole."""

    text: str
    on_name: bool
    regex: re.Pattern[str] | None
    anywhere: bool = False

    @classmethod
    def glob(cls, text: str, *, on_name: bool) -> Pattern:
        return cls(text, on_name, None if is_literal(text) else compile_glob(text))

    @classmethod
    def expression(cls, text: str) -> Pattern:
        """Take `re:...`, searched anywhere in the path."""
        source = text.removeprefix(_REGEX_PREFIX)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # re warns about what it will read otherwise one day
                return cls(text, False, re.compile(source), anywhere=True)
        except (re.error, OverflowError, RecursionError, Warning) as error:
            raise BadValueError("E102", f"regex does not compile: {error}") from None

    def fits(self, subject: str) -> bool:
        if self.regex is None:
            return subject == self.text
        match = self.regex.search if self.anywhere else self.regex.fullmatch
        return match(subject) is not None


def _path_pattern(text: str) -> Pattern:
    """Take an absolute glob; a folder (`/` at the end) stands for all below it."""
    if not _ABSOLUTE.match(text):
        message = f"path {quoted(text)} is not absolute"
        raise BadValueError(
            "E110", message, f"start it with / or **/, as in {quoted('**/' + text)}"
        )
    return Pattern.glob(text + "**" if text.endswith("/") else text, on_name=False)


def _app_pattern(text: str) -> Pattern:
    if text.startswith(_REGEX_PREFIX):
        return Pattern.expression(text)
    if "/" in text:
        return _path_pattern(text)
    return Pattern.glob(text, on_name=True)


def _pattern_text(node: Scalar) -> str:
    text = expect_text(node)
    if not text:
        raise BadValueError("E101", "the pattern is empty", "write a name, a path or a pattern")
    return text


def _with_slashes(path: str) -> str:
    """Patterns are written with `/`; only a Windows path starts with anything else."""
    return path if path.startswith("/") else path.replace("\\", "/")


@dataclass(frozen=True, slots=True)
class _Executable(ProcessCondition):
    """Shared by `app:` and `path:`, which differ in how they read their text."""

    cost: ClassVar[int] = 3
    written: str
    literals: frozenset[str]
    """Names and whole paths: no name holds a `/` and every path does, so they cannot be confused."""
    patterns: tuple[Pattern, ...]

    @classmethod
    def build(cls, written: str, values: Sequence[Pattern]) -> Self:
        literals = frozenset(value.text for value in values if value.regex is None)
        return cls(written, literals, tuple(value for value in values if value.regex))

    def test(self, process: Process) -> Truth:
        if process.path is None:
            return UNKNOWN
        return self._fitting(process.path) is not None

    def _fitting(self, raw_path: str) -> str | None:
        """Return the text of a pattern that fits."""
        path = _with_slashes(raw_path)
        name = path.rpartition("/")[2]
        for literal in (name, path):
            if literal in self.literals:
                return literal
        for pattern in self.patterns:
            if pattern.fits(name if pattern.on_name else path):
                return pattern.text
        return None

    def because(self, process: Process) -> str:
        path = process.path or ""
        pattern = self._fitting(path) or ""
        return f"{self.key} {quoted(pattern)} is {shown(path)}"


@dataclass(frozen=True, slots=True)
class App(_Executable):
    """`app:` a name, a path, a folder (`/` at the end) or `re:` and a regular expression."""

    key: ClassVar[str] = "app"

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        return _app_pattern(_pattern_text(node))


@dataclass(frozen=True, slots=True)
class Path(_Executable):
    """`path:` a glob for the whole path of the executable."""

    key: ClassVar[str] = "path"

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        return _path_pattern(_pattern_text(node))


@dataclass(frozen=True, slots=True)
class Pid(ProcessCondition):
    """`pid:` a process number. It is reused after the process ends, so it suits short tests."""

    key: ClassVar[str] = "pid"
    cost: ClassVar[int] = 1
    written: str
    pids: frozenset[int]

    @staticmethod
    def parse(node: Scalar) -> int:
        pid = expect_int(node)
        if not 1 <= pid <= _MAX_ID:
            raise BadValueError("E108", f"{pid} is no process number", "write 1 or more")
        return pid

    @classmethod
    def build(cls, written: str, values: Sequence[int]) -> Self:
        return cls(written, frozenset(values))

    def test(self, process: Process) -> Truth:
        return process.pid in self.pids

    def because(self, process: Process) -> str:
        return f"pid {process.pid}"


@dataclass(frozen=True, slots=True)
class User(ProcessCondition):
    """`user:` a name or a uid; of the process, or of the socket where no process is known."""

    key: ClassVar[str] = "user"
    cost: ClassVar[int] = 2
    written: str
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
        return cls(written, uids, frozenset(value for value in values if isinstance(value, str)))

    def test(self, process: Process) -> Truth:
        return self._test(process.uid, process.user)

    def without_process(self, owner: Owner) -> Truth:
        return self._test(owner.uid, owner.user)

    def _test(self, uid: int | None, name: str | None) -> Truth:
        if uid in self.uids or name in self.names:
            return True
        unclear = (self.uids and uid is None) or (self.names and name is None)
        return UNKNOWN if unclear else False

    def because(self, process: Process) -> str:
        return f"user {shown(process.user or str(process.uid))}"
